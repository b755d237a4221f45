"""The prior table: complete, scaled to the field as published, drawn as stated."""

from pathlib import Path

import pytest
import torch

from anystroke.core.rng import stream
from anystroke.qmri.tissue_priors import MAPS, PriorError, TissuePriors, load_table

TISSUES = [
    "background",
    "cortical_grey_matter",
    "grey_white_partial_volume",
    "white_matter",
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
    "ventricular_csf",
    "sulcal_csf",
    "fat",
    "muscle",
    "cortical_bone",
    "bone_marrow",
    "skin",
    "mucosa",
    "vitreous",
    "venous_blood",
    "arterial_blood",
    "choroid_plexus",
    "chronic_core",
    "gliotic_rim",
    "acute_infarct",
    "subacute_infarct",
    "white_matter_hyperintensity",
    "haemorrhage_hyperacute",
    "haemorrhage_acute",
    "haemorrhage_early_subacute",
    "haemorrhage_late_subacute",
    "haemosiderin_rim",
    "haemorrhage_cleft",
    "tumour_enhancing",
    "tumour_enhancing_gadolinium",
    "tumour_oedema",
    "tumour_necrosis",
]

PD, R1, R2, R2STAR, MT, ADC = range(6)

# T1 in ms, then R2 and R2* in 1/s, each at 1.5, 3 and 7 T.
SCALED: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "cortical_grey_matter": ((1197, 1515, 2021), (10.2, 12.3, 18.0), (10.4, 16.5, 32.8)),
    "grey_white_partial_volume": ((977, 1250, 1689), (10.7, 13.0, 19.0), (12.0, 19.0, 37.8)),
    "white_matter": ((790, 1020, 1396), (11.6, 14.0, 20.5), (12.9, 20.5, 40.8)),
    "ventricular_csf": ((4167, 4167, 4167), (0.5, 0.56, 0.71), (1.6, 2.5, 5.0)),
    "thalamus": ((984, 1220, 1586), (11.4, 13.8, 20.2), (12.9, 20.5, 40.8)),
    "caudate": ((1120, 1389, 1806), (11.4, 13.8, 20.2), (13.9, 22.0, 43.8)),
    "putamen": ((1048, 1299, 1689), (12.8, 15.5, 22.7), (17.0, 27.0, 53.7)),
    "pallidum": ((832, 1031, 1341), (16.5, 20.0, 29.3), (25.2, 40.0, 79.6)),
    "chronic_core": ((3116, 3226, 3365), (1.44, 1.6, 2.03), (3.2, 5.0, 9.9)),
    "gliotic_rim": ((1450, 1786, 2303), (6.6, 8.0, 11.7), (7.6, 12.0, 23.9)),
    "acute_infarct": ((1248, 1613, 2207), (8.1, 9.8, 14.3), (8.8, 14.0, 27.8)),
    "subacute_infarct": ((1453, 1852, 2491), (6.3, 7.6, 11.1), (7.3, 11.5, 22.9)),
    "white_matter_hyperintensity": ((1082, 1389, 1884), (8.1, 9.8, 14.3), (9.5, 15.0, 29.8)),
    "fat": ((334, 377, 437), (8.3, 10.0, 14.6), (37.8, 60.1, 119.3)),
    "muscle": ((1053, 1408, 2010), (21.5, 26.0, 38.1), (26.5, 42.0, 83.5)),
    "vitreous": ((4255, 4255, 4255), (1.08, 1.2, 1.52), (1.9, 3.0, 6.0)),
}


@pytest.fixture(scope="module")
def table() -> TissuePriors:
    return load_table()


def test_table_is_complete_and_sourced(table: TissuePriors) -> None:
    assert list(table.names) == TISSUES
    for numbers in (table.mean, table.sd_of_means, table.sd, table.sd_of_sds):
        assert numbers.shape == (len(TISSUES), len(MAPS))
        assert bool((numbers >= 0).all())
    assert set(table.tags.values()) == {"V", "M", "E"}
    assert all(len(table.sources[name]) > 10 for name in TISSUES)
    body = table.mean[1:]
    assert bool((body[:, :MT] > 0).all())
    assert bool((body[:, R2STAR] >= body[:, R2]).all())
    assert float(table.mean[:, ADC].max()) < 6e-3
    assert float(table.mean[:, PD].max()) <= 100


@pytest.mark.parametrize(("column", "field"), [(0, 1.5), (1, 3.0), (2, 7.0)])
@pytest.mark.parametrize("name", SCALED)
def test_field_scaling_as_published(table: TissuePriors, name: str, column: int, field: float) -> None:
    rates = table.sample(stream(0), [name], field, spread=0.0).mean[0]
    t1, r2, r2star = (values[column] for values in SCALED[name])
    assert 1000 / rates[R1].item() == pytest.approx(t1, rel=2e-3)
    assert rates[R2].item() == pytest.approx(r2, rel=2e-3, abs=0.07)
    assert rates[R2STAR].item() == pytest.approx(r2star, rel=2e-3, abs=0.07)
    at_3t = table.mean[table.names.index(name)].float()
    assert torch.equal(rates[[PD, MT, ADC]], at_3t[[PD, MT, ADC]])


@pytest.mark.parametrize("field", [1.5, 3.0, 7.0])
def test_every_draw_orders_r1_and_obeys_the_limits(table: TissuePriors, field: float) -> None:
    for seed in range(100):
        draw = table.sample(stream(seed), TISSUES, field)
        r1 = dict(zip(TISSUES, draw.mean[:, R1].tolist(), strict=True))
        assert r1["white_matter"] > r1["cortical_grey_matter"] > r1["ventricular_csf"]
        assert bool((draw.mean >= 0).all())
        assert bool((draw.sd >= 0).all())
        assert bool((draw.mean[:, R2STAR] >= draw.mean[:, R2]).all())
        assert not draw.mean[0].any()
        assert not draw.sd[0].any()
        assert draw.mean.dtype == draw.sd.dtype == torch.float32


def test_draws_follow_the_table(table: TissuePriors) -> None:
    names = ["white_matter"] * 4000
    draw = table.sample(stream(0), names)
    row = table.names.index("white_matter")
    assert torch.allclose(draw.mean.double().mean(0), table.mean[row], rtol=0.01)
    assert torch.allclose(draw.mean.double().std(0), table.sd_of_means[row], rtol=0.06)
    assert torch.allclose(draw.sd.double().mean(0), table.sd[row], rtol=0.02)
    assert torch.allclose(draw.sd.double().std(0), table.sd_of_sds[row], rtol=0.06)
    correlation = torch.corrcoef(draw.mean.double().T)
    stated = table.correlation_factor @ table.correlation_factor.T
    assert torch.allclose(correlation, stated, atol=0.05)
    assert float(correlation[R1, MT]) > 0.5
    assert float(correlation[PD, R1]) < -0.5


def test_spread_widens_the_means_between_subjects_only(table: TissuePriors) -> None:
    names = ["white_matter"] * 2000
    usual, wide = (table.sample(stream(0), names, spread=spread) for spread in (1.0, 2.0))
    assert torch.allclose(wide.mean.std(0), 2 * usual.mean.std(0), rtol=0.1)
    assert torch.equal(wide.sd, usual.sd)
    none = table.sample(stream(0), names, spread=0.0)
    assert float(none.mean.std(0).max()) == 0.0


def test_draws_follow_from_the_stream_alone(table: TissuePriors) -> None:
    first, again, other = (table.sample(stream(seed), TISSUES) for seed in (1, 1, 2))
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.sd, again.sd)
    assert not torch.equal(first.mean, other.mean)


def test_errors_name_what_is_wrong(table: TissuePriors) -> None:
    with pytest.raises(PriorError, match="no tissue 'cortex'; it has background"):
        table.sample(stream(0), ["white_matter", "cortex"])
    with pytest.raises(PriorError, match=r"above 0 T, got -3\.0"):
        table.sample(stream(0), ["white_matter"], -3.0)
    with pytest.raises(PriorError, match=r"spread must be finite and at least 0, got -1\.0"):
        table.sample(stream(0), ["white_matter"], spread=-1.0)
    with pytest.raises(PriorError, match=r"no prior table at 'nowhere\.toml'"):
        load_table("nowhere.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('tag = "V"', 'tag = "X"', "tissue 'background': tag must be one of V, M, E .* got 'X'"),
        ('tag = "V"', "", "tissue 'background': missing tag"),
        ('tag = "V"', 'tag = "V"\ntaste = 1', "tissue 'background': unknown key 'taste'"),
        ("[81.0, 2.0, 3.5, 0.8]", "[81.0, 2.0, 3.5]", "'cortical_grey_matter', proton_density: expected"),
        ("[81.0, 2.0, 3.5, 0.8]", "[-81.0, 2.0, 3.5, 0.8]", "all >= 0, got"),
        ("mt_saturation = 0.6", "mt_saturation = 1.6", "not positive definite"),
        ("{ adc = -0.2 }", "{ t1 = -0.2 }", "'mt_saturation'-'t1' is not a pair"),
        ("reference_field = 3.0", "reference_field = [", "is not valid TOML"),
        ("reference_field = 3.0", "", "missing reference_field"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    source = Path(load_table.__code__.co_filename).with_name("tissue_priors.toml").read_text(encoding="utf-8")
    assert source.count(old) >= 1
    path = tmp_path / "table.toml"
    path.write_text(source.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(PriorError, match=message):
        load_table(path)
