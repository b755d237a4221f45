"""Patients of seeds that results are known of: they must stay who they are."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anystroke.anatomy.lesions.bank import LesionMask, save_bank
from anystroke.anatomy.tissues.anatomies import save_anatomies
from anystroke.core.rng import integer, stream
from anystroke.simulation.cohorts import (
    Cohort,
    CohortError,
    Member,
    Pack,
    contrast_to_noise,
    drawn_masks,
    held_out_pack,
    lesion_ml,
    load_pack,
    no_masks,
    visible_lesion,
)
from anystroke.simulation.generator import CLASSES, Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.studies.benchmark.patients import Condition, Design, simulate_scan
from anystroke.studies.demo import simulate_patient
from anystroke.studies.held_out.judge import HeldOutDesign, HeldOutError, held_out_cohort
from anystroke.tasks.qmri.cases import MapTargetSettings
from anystroke.tasks.qmri.validate import simulated_heads
from anystroke.tasks.segmentation.validate import simulated_patients
from phantoms import ellipsoid_anatomy, sphere_lesion

SMALL = (40, 48, 40)


def _mask(name: str, centre: tuple[float, float, float], radius: int) -> LesionMask:
    return replace(sphere_lesion(centre, radius), name=name)


@pytest.fixture(scope="module")
def pack() -> Pack:
    anatomies = [ellipsoid_anatomy(), replace(ellipsoid_anatomy(head=False), name="bare")]
    masks = [
        _mask("tiny", (30.0, 10.0, 20.0), 3),
        _mask("large", (38.0, -18.0, 8.0), 14),
        _mask("mid", (-35.0, -40.0, 15.0), 9),
    ]
    return Pack(anatomies, masks)


def _same(found: Iterable[tuple[Tensor, Tensor]], expected: list[tuple[float, int]]) -> None:
    """Compare the mean of images and the sum of targets, as another machine rounds them."""
    facts = [(float(image.double().mean()), int(target.sum())) for image, target in found]
    assert [mean for mean, _ in facts] == pytest.approx([mean for mean, _ in expected], rel=1e-4)
    assert [total for _, total in facts] == pytest.approx([total for _, total in expected], rel=0.01)


def test_patients_of_validations_and_calibrations_stay(pack: Pack) -> None:
    drawn = simulated_patients(pack, count=4, healthy=1, seed=11, weightings=("T1w", "DWI"), spacing=4.0)
    expected = [(0.393742, 92), (1.833321, 43), (0.360472, 66), (2.838762, 29), (0.247607, 0)]
    _same(((p.scan.data, p.truth) for p in drawn), expected)


def test_heads_of_estimators_stay(pack: Pack) -> None:
    heads = simulated_heads(
        pack,
        SynthesisSettings(preset="estimator", spacing=4.0),
        names=["r1", "proton_density"],
        target=MapTargetSettings(),
        count=3,
        seed=11,
    )
    _same(((h.image, h.classes) for h in heads), [(0.734166, 41820), (1.381876, 74894), (0.621112, 57910)])


def test_patients_of_the_benchmark_stay(pack: Pack) -> None:
    conditions = (
        Condition("FLAIR"),
        Condition("T1w", size_ml=0.0),
        Condition("T2w", slice_mm=6.0, stage="acute"),
        Condition("DWI", head="brain", snr=15.0),
    )
    samples = [simulate_scan(pack.anatomies[0], each, Design(shape=SMALL), 1) for each in conditions]
    expected = [(18.714495, 160095), (2.190717, 156239), (21.33819, 160095), (9.497812, 160025)]
    _same(((s.image, s.target) for s in samples), expected)


def test_patients_of_the_demo_stay() -> None:
    samples = [simulate_patient(seed, shape=SMALL) for seed in (1, 2)]
    _same(((s.image, s.target) for s in samples), [(19.409351, 120400), (17.261959, 130251)])


def test_held_out_patients_stay_however_many_there_are(pack: Pack) -> None:
    large = held_out_cohort(pack, HeldOutDesign(cases=2, healthy=1))
    names = [member.names[0] for member in large.members]
    assert names[1::3] == ["T1w-1", "FLAIR-0", "DWI-1", "healthy-0"]
    samples = [large.patient(number) for number in (0, 10)]
    _same(((s.image, s.target) for s in samples), [(1.168277, 626285), (0.739566, 674792)])
    assert samples[0].protocol.weighting == "T1w"
    assert lesion_ml(samples[0]) >= 1
    assert lesion_ml(samples[1]) == 0
    alone = held_out_cohort(pack, HeldOutDesign(cases=1, healthy=0)).patient(0)
    assert torch.equal(alone.image, samples[0].image)
    assert alone.record == samples[0].record


def test_nothing_held_out_is_refused(pack: Pack) -> None:
    with pytest.raises(HeldOutError, match="got 2 and 0"):
        held_out_cohort(Pack(pack.anatomies, pack.masks[:1]), HeldOutDesign(cases=1, healthy=0))
    with pytest.raises(HeldOutError, match="got 0 and 2"):
        held_out_cohort(Pack([], pack.masks), HeldOutDesign(cases=0, healthy=1))


@pytest.fixture(scope="module")
def generator(pack: Pack) -> Generator:
    return Generator(SynthesisSettings(spacing=4.0, shapes=((48, 56, 48),), cut=0.0), pack.masks)


def test_a_patient_is_drawn_again_until_the_lesion_is_large_enough(pack: Pack, generator: Generator) -> None:
    def first_tiny(rng: torch.Generator) -> list[LesionMask]:
        return [pack.masks[0] if rng.initial_seed() == stream(5, "one", 0).initial_seed() else pack.masks[1]]

    member = Member(generator.generate, ("one",), lesions=first_tiny, anatomy=0)
    small = Cohort(pack.anatomies, [member], seed=5).patient(0)
    assert lesion_ml(small) < 1
    large = Cohort(pack.anatomies, [replace(member, smallest_ml=1.0)], seed=5).patient(0)
    assert lesion_ml(large) >= 1
    rng = stream(5, "one", 1)
    by_hand = generator.generate(pack.anatomies[0], [pack.masks[1]], key=integer(rng, 0, 2**62))
    assert torch.equal(large.image, by_hand.image)


def test_no_mask_that_is_large_enough_ends_in_an_error(
    pack: Pack, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = generator.generate(pack.anatomies[0], [], key=1)
    member = Member(lambda *_, key: sample, ("one", 3), lesions=no_masks, smallest_ml=2.0, visible=True)
    with pytest.raises(CohortError, match=r"2 ml or more that can be seen, but 100 draws of patient one 3"):
        Cohort(pack.anatomies, [member], seed=1).patient(0)
    nothing = replace(sample, image=torch.zeros_like(sample.image))
    member = Member(lambda *_, key: nothing, ("one",), key=7)
    with pytest.raises(CohortError, match="got 1 constant images of patient one"):
        Cohort(pack.anatomies, [member], seed=1).patient(0)
    with pytest.raises(CohortError, match="at least one anatomy"):
        Cohort([], [member], seed=1)


def test_what_is_measured_of_a_sample(pack: Pack, generator: Generator) -> None:
    sample = generator.generate(pack.anatomies[0], [pack.masks[1]], key=3, weighting="FLAIR")
    lesion = sample.target == CLASSES.index("lesion")
    assert lesion_ml(sample) == pytest.approx(float(lesion.sum()) * 0.064)
    unseen = lesion.clone()
    unseen[: int(lesion.nonzero()[:, 0].float().median())] = False
    half = replace(sample, unseen=unseen)
    assert 0 < lesion_ml(half, visible=True) < lesion_ml(half) == lesion_ml(sample)
    assert lesion_ml(half, visible=True) == pytest.approx(float(visible_lesion(half).sum()) * 0.064)
    assert torch.equal(visible_lesion(replace(sample, unseen=None)), lesion)
    assert contrast_to_noise(sample) == sample.record["visibility"][0]["contrast_to_noise"]
    assert contrast_to_noise(generator.generate(pack.anatomies[0], [], key=3)) is None


def test_masks_are_drawn_of_those_given(pack: Pack, generator: Generator) -> None:
    settings = generator.settings.lesions.model_copy(update={"absent": 0.0})
    draws = drawn_masks(pack.masks[1:2], settings, weighting="T1w")
    drawn = draws(stream(1, "masks"))
    assert [mask.name for mask in drawn] == [mask.name for mask in draws(stream(1, "masks"))]
    assert drawn
    assert drawn_masks([], settings)(stream(1, "masks")) == []


def test_packs_are_read_once_and_what_is_held_out_apart(pack: Pack, tmp_path: Path) -> None:
    for prefix, masks in (("", pack.masks[:2]), ("held_out_", pack.masks[2:])):
        save_anatomies(pack.anatomies[:1], tmp_path / f"{prefix}anatomies.safetensors")
        save_bank(masks, tmp_path / f"{prefix}lesions.safetensors")
    assert load_pack(tmp_path) is load_pack(tmp_path)
    assert [mask.name for mask in load_pack(tmp_path).masks] == ["tiny", "large"]
    assert [mask.name for mask in held_out_pack(tmp_path).masks] == ["mid"]
