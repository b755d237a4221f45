"""Priors estimated from simulated cohorts come back as what the cohorts were drawn from."""

from dataclasses import replace

import pytest
import torch

from anystroke.core.rng import stream
from anystroke.qmri.fitting import SubjectStatistics, fit_population, measure_subject
from anystroke.qmri.tissue_priors import MAPS, PriorError, TissuePriors, load_table

NAMES = ("cortical_grey_matter", "white_matter", "chronic_core")
LABELS = {3: NAMES[0], 2: NAMES[1], 99: NAMES[2]}
PD, R1, R2, R2STAR, MT, ADC = range(6)


def _subject(truth: TissuePriors, seed: int, side: int = 12) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Six maps and a label map with slabs of the tissues."""
    draw = truth.sample(stream(seed, "subject"), NAMES)
    slab = (torch.arange(side) * 3 // side)[:, None, None].expand(side, side, side)
    rng = stream(seed, "voxels")
    maps = {}
    for column, name in enumerate(MAPS):
        noise = torch.randn(side, side, side, generator=rng)
        maps[name] = draw.mean[slab, column] + draw.sd[slab, column] * noise
    return maps, torch.tensor(list(LABELS))[slab]


@pytest.fixture(scope="module")
def cohort() -> list[SubjectStatistics]:
    truth = load_table()
    return [measure_subject(*_subject(truth, seed), LABELS) for seed in range(200)]


def test_one_subject_by_hand() -> None:
    labels = torch.tensor([1, 1, 1, 2, 2, 7]).view(1, 2, 3)
    values = torch.tensor([1.0, 2.0, 6.0, 4.0, torch.nan, 50.0]).view(1, 2, 3)
    found = measure_subject({"r1": values}, labels, {1: "a", 2: "b"}, minimum_voxels=1)
    assert found.names == ("a", "b")
    assert found.mean[:, R1].tolist() == [3.0, 4.0]
    assert found.sd[:, R1].tolist() == pytest.approx([(14 / 3) ** 0.5, 0.0])
    assert found.weight[:, R1].tolist() == [3.0, 1.0]
    assert found.excluded[:, R1].tolist() == [0, 1]
    assert bool(found.mean[:, PD].isnan().all())
    larger = measure_subject({"r1": values}, labels, {1: "a", 2: "b"}, minimum_voxels=2)
    assert float(larger.mean[0, R1]) == 3.0
    assert bool(larger.mean[1, R1].isnan())


def test_soft_shares_weigh() -> None:
    shares = torch.tensor([[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]]).view(2, 1, 1, 3)
    values = torch.tensor([2.0, 5.0, 8.0]).view(1, 1, 3)
    found = measure_subject({"r1": values}, shares, {0: "a", 1: "b"}, minimum_voxels=1)
    assert found.mean[:, R1].tolist() == pytest.approx([4.0, 6.0])
    assert found.sd[:, R1].tolist() == pytest.approx([2**0.5, 8**0.5])


def test_one_hot_shares_are_labels_and_labels_of_one_tissue_join() -> None:
    maps, labels = _subject(load_table(), 1)
    hard = measure_subject(maps, labels, LABELS)
    shares = torch.stack([(labels == label).float() for label in LABELS])
    soft = measure_subject(maps, shares, dict(enumerate(LABELS.values())))
    assert torch.allclose(hard.mean, soft.mean)
    assert torch.allclose(hard.sd, soft.sd)
    assert torch.allclose(hard.correlation, soft.correlation)
    joined = measure_subject(maps, labels, {2: "brain", 3: "brain"})
    inside = maps["r1"][(labels == 2) | (labels == 3)].double()
    assert joined.names == ("brain",)
    assert joined.mean[0, R1].item() == pytest.approx(inside.mean().item())
    assert joined.sd[0, R1].item() == pytest.approx(inside.std(correction=0).item())


def test_recovers_the_population(cohort: list[SubjectStatistics]) -> None:
    truth = load_table()
    fit = fit_population(cohort, field_strength=3.0, source="Simulated.", stand_in=truth)
    priors, rows, n = fit.priors, truth.rows(NAMES), len(cohort)
    assert priors.names == NAMES
    assert bool(fit.measured.all())
    assert fit.notes == ()
    # Standard errors: of a mean sd / sqrt(n), of an SD sd / sqrt(2 n); 4.5 of them for 18 numbers each.
    # The core's own lower limits, |N| and R2* >= R2, move its R2* a little.
    within = [(t, m) for t in range(3) for m in range(6) if (t, m) != (2, R2STAR)]
    for tissue, column in within:
        row = rows[tissue]
        spread, width = truth.sd_of_means[row, column].item(), truth.sd_of_sds[row, column].item()
        # The measured SD of 576 voxels has an error of its own.
        width = (width**2 + truth.sd[row, column].item() ** 2 / (2 * 576)) ** 0.5
        for found, true, error in (
            (priors.mean, truth.mean[row, column].item(), spread / n**0.5),
            (priors.sd_of_means, spread, spread / (2 * n) ** 0.5),
            (priors.sd, truth.sd[row, column].item(), width / n**0.5),
            (priors.sd_of_sds, width, width / (2 * n) ** 0.5),
        ):
            tolerance = 4.5 * error + 0.005 * true + (0.03 * true if tissue == 2 else 0)
            assert found[tissue, column].item() == pytest.approx(true, abs=tolerance), (tissue, MAPS[column])
    stated = truth.correlation_factor @ truth.correlation_factor.T
    found = priors.correlation_factor @ priors.correlation_factor.T
    assert torch.allclose(found, stated, atol=0.2)
    assert found[R1, MT].item() == pytest.approx(0.6, abs=0.12)
    assert found[PD, R1].item() == pytest.approx(-0.6, abs=0.12)
    assert fit.shrinkage == 0
    assert priors.subjects["white_matter"] == (n,) * 6
    assert priors.tags["white_matter"] == priors.tag("white_matter", "r1", spread=True) == "V"


def _hand(means: list[float], sds: list[float], name: str = "white_matter") -> list[SubjectStatistics]:
    subjects = []
    for mean, sd in zip(means, sds, strict=True):
        empty = torch.full((1, 6), torch.nan, dtype=torch.float64)
        both = {"mean": empty.clone(), "sd": empty.clone()}
        both["mean"][0, R1], both["sd"][0, R1] = mean, sd
        subjects.append(
            SubjectStatistics(
                names=(name,),
                **both,
                weight=torch.full((1, 6), 1e3, dtype=torch.float64),
                excluded=torch.zeros(1, 6, dtype=torch.int64),
                correlation=torch.full((6, 6), torch.nan, dtype=torch.float64),
            )
        )
    return subjects


def test_statistics_by_hand() -> None:
    subjects = _hand([0.9, 1.0, 1.1, 1.2, 5.0], [0.1, 0.1, 0.2, 0.3, 0.3])
    results = {
        statistic: fit_population(
            subjects, field_strength=3.0, source="x", statistic=statistic, stand_in=load_table()
        ).priors
        for statistic in ("sd", "robust", "paper")
    }
    r1 = {
        name: [float(t[0, R1]) for t in (p.mean, p.sd_of_means, p.sd, p.sd_of_sds)]
        for name, p in results.items()
    }
    mean, sd = 1.84, (sum((x - 1.84) ** 2 for x in (0.9, 1.0, 1.1, 1.2, 5.0)) / 4) ** 0.5
    assert r1["sd"] == pytest.approx([mean, sd, 0.2, 0.1])
    assert r1["robust"] == pytest.approx([1.1, 1.4826 * 0.1, 0.2, 1.4826 * 0.1])
    assert r1["paper"] == pytest.approx([mean, 0.1, 0.2, 0.1])


def test_even_medians_take_both_middle_values() -> None:
    priors = fit_population(
        _hand([1.0, 2.0, 4.0, 8.0], [0.1] * 4),
        field_strength=3.0,
        source="x",
        statistic="robust",
        stand_in=load_table(),
    ).priors
    assert float(priors.mean[0, R1]) == 3.0
    assert float(priors.sd_of_means[0, R1]) == pytest.approx(1.4826 * 1.5)


def test_what_was_not_measured_stands_in_and_says_so() -> None:
    table = load_table()
    fit = fit_population(_hand([0.9, 1.0], [0.1, 0.1]), field_strength=7.0, source="Ours.", stand_in=table)
    priors, row = fit.priors, table.names.index("white_matter")
    factors = table.field_factors(["white_matter"], 7.0)[0]
    assert priors.reference_field == 7.0
    assert priors.mean[0, R1].item() == 0.95
    assert priors.mean[0, R2].item() == pytest.approx((table.mean[row, R2] * factors[R2]).item())
    assert priors.sd_of_means[0, R2STAR].item() == pytest.approx(
        (table.sd_of_means[row, R2STAR] * factors[R2STAR]).item()
    )
    assert priors.tag("white_matter", "r1") == "V"
    assert priors.tag("white_matter", "r2") == "M"
    assert "Not measured, from a stand-in table: proton_density, r2" in priors.sources["white_matter"]
    assert fit.notes[0].startswith("white_matter: proton_density, r2, r2star")
    assert priors.subjects["white_matter"] == (0, 2, 0, 0, 0, 0)
    with pytest.raises(PriorError, match=r"cerebellum: proton_density, r2.*has no such tissue"):
        fit_population(
            _hand([1.0, 2.0], [0.1] * 2, "cerebellum"), field_strength=3.0, source="x", stand_in=table
        )


def test_a_fitted_table_draws_at_its_field_and_others(cohort: list[SubjectStatistics]) -> None:
    priors = fit_population(cohort, field_strength=3.0, source="x", stand_in=load_table()).priors
    at_3t, at_7t = (priors.sample(stream(1), NAMES, field).mean for field in (3.0, 7.0))
    assert float(at_7t[1, R1]) < float(at_3t[1, R1])
    assert float(at_7t[1, R2STAR]) > float(at_3t[1, R2STAR])


def test_correlations_can_come_from_voxels_or_the_table() -> None:
    maps, labels = _subject(load_table(), 3, side=24)
    maps["mt_saturation"] = 0.85 + 2 * maps["r1"]
    subjects = [measure_subject(maps, labels, LABELS), measure_subject(maps, labels, LABELS)]
    assert subjects[0].correlation[R1, MT].item() == pytest.approx(1.0)
    assert subjects[0].correlation[R1, PD].item() == pytest.approx(0.0, abs=0.05)
    fit = fit_population(
        subjects, field_strength=3.0, source="x", correlations="voxels", stand_in=load_table()
    )
    found = fit.priors.correlation_factor @ fit.priors.correlation_factor.T
    assert found[R1, MT].item() == pytest.approx(1.0, abs=0.03)
    assert 0 < fit.shrinkage < 0.03
    assert "correlations were shrunk" in fit.notes[-1]
    same = fit_population(
        subjects, field_strength=3.0, source="x", correlations="stand_in", stand_in=load_table()
    )
    assert torch.allclose(same.priors.correlation_factor, load_table().correlation_factor)


def test_few_subjects_still_make_a_table_that_can_be_drawn_from() -> None:
    truth = load_table()
    subjects = [measure_subject(*_subject(truth, seed), LABELS) for seed in range(3)]
    fit = fit_population(subjects, field_strength=3.0, source="x", stand_in=truth)
    assert bool(torch.isfinite(fit.priors.sample(stream(1), NAMES).mean).all())


def test_errors_name_what_is_wrong() -> None:
    maps, labels = _subject(load_table(), 1)
    with pytest.raises(PriorError, match=r"r1: expected the segmentation's shape \(2, 2, 2\), got \(12"):
        measure_subject({"r1": maps["r1"]}, labels[:2, :2, :2], LABELS)
    with pytest.raises(PriorError, match="no map 't1'"):
        measure_subject({"t1": maps["r1"]}, labels, LABELS)
    with pytest.raises(PriorError, match="channels 0 to 1 of the segmentation, got 2"):
        measure_subject(maps, torch.rand(2, 12, 12, 12), {2: "white_matter"})
    with pytest.raises(PriorError, match=r"shares of at least 0, got -1"):
        measure_subject(maps, torch.full((2, 12, 12, 12), -1.0), {0: "white_matter"})
    one = [measure_subject(maps, labels, LABELS)]
    with pytest.raises(PriorError, match="at least 2 subjects, got 1"):
        fit_population(one, field_strength=3.0, source="x", stand_in=load_table())
    with pytest.raises(PriorError, match="needs at least 2 of them, got 1"):
        fit_population(one, field_strength=3.0, source="x", minimum_subjects=1, stand_in=load_table())
    with pytest.raises(PriorError, match="a tag out of V, M, E, got 'x' and 'Q'"):
        fit_population(one * 2, field_strength=3.0, source="x", tag="Q", stand_in=load_table())
    nothing = [replace(one[0], mean=torch.full_like(one[0].mean, torch.nan))] * 2
    with pytest.raises(PriorError, match="no tissue was measured in 2 subjects"):
        fit_population(nothing, field_strength=3.0, source="x", stand_in=load_table())
