import json
import tomllib

import pytest
import torch

from anystroke.acquisition.catalogue import from_dict
from anystroke.acquisition.presets.preset import load_preset
from anystroke.anatomy.lesions.bank import LesionSettings
from anystroke.anatomy.lesions.stages import STAGES, Stage
from anystroke.anatomy.tissues.classes import CLASS_OF_TISSUE
from anystroke.anatomy.tissues.deformation import DeformationSettings, still_grid
from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.anatomy.tissues.mixing import LabelField, mix, read_once
from anystroke.anatomy.tissues.texture import spread_left
from anystroke.core.rng import stream, uniform
from anystroke.corruption.echo_planar_scan import EchoPlanarSettings
from anystroke.simulation.generator import CLASSES, Generator, Sample
from anystroke.simulation.replay import regenerate
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

SETTINGS = SynthesisSettings(spacing=4.0, shapes=((40, 48, 40),), cut=0.0, thick_slices=0.0)
LESION = CLASSES.index("lesion")
STILL = DeformationSettings(rotation=0, scaling=0, shear=0, translation=0, elastic=0, mirror=0)


def _generator(**changes: object) -> Generator:
    return Generator(SETTINGS.model_copy(update=changes), [sphere_lesion()])


def _tissue_means(sample: Sample) -> dict[str, float]:
    means = {name: float(sample.image[sample.target == k].mean()) for k, name in enumerate(CLASSES)}
    middle = (slice(14, 26), slice(16, 32), slice(14, 26))
    ventricle = sample.target[middle] == CLASSES.index("csf")
    return means | {"csf": float(sample.image[middle][ventricle].mean())}


def test_the_same_key_gives_the_same_scan_and_another_another() -> None:
    generator, anatomy = _generator(), ellipsoid_anatomy()
    first = generator(anatomy, rng=stream(1, "case"))
    torch.rand(1000)
    again = generator.generate(anatomy, key=first.record["key"])
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target, again.target)
    assert first.record == again.record
    assert from_dict(first.record["protocol"]) == first.protocol
    other = generator(anatomy, rng=stream(2, "case"))
    assert not torch.equal(first.image, other.image)


def test_images_are_finite_non_negative_and_hold_every_class() -> None:
    generator, anatomy = _generator(), ellipsoid_anatomy()
    for k in range(12):
        sample = generator(anatomy, generator.masks, rng=stream(k, "case"))
        assert sample.image.shape == sample.target.shape == (40, 48, 40)
        assert bool(torch.isfinite(sample.image).all())
        assert float(sample.image.min()) >= 0
        assert set(sample.target.flatten().tolist()) == set(range(len(CLASSES)))


@pytest.mark.parametrize("weighting", ["T1w", "T2w", "FLAIR", "DWI"])
def test_contrast_has_the_order_of_its_weighting(weighting: str) -> None:
    generator = _generator(
        weighting=weighting, skull_strip=0.0, snr=(80.0, 81.0), receive_strength=0.0, prior_spread=0.0
    )
    sample = generator(ellipsoid_anatomy(), generator.masks, rng=stream(3, weighting), stage="acute")
    means = _tissue_means(sample)
    assert sample.protocol.weighting == weighting
    if weighting == "T1w":
        assert means["white_matter"] > means["grey_matter"] > means["csf"]
    if weighting == "T2w":
        assert means["csf"] > means["grey_matter"] > means["white_matter"]
    if weighting == "FLAIR":
        assert means["csf"] < min(means["grey_matter"], means["white_matter"])
        assert means["lesion"] > means["white_matter"]
    if weighting == "DWI" and sample.record["protocol"].get("b_value", 0) > 0:
        assert means["lesion"] > max(means["grey_matter"], means["white_matter"], means["csf"])


def test_lesions_stay_on_brain_tissue() -> None:
    anatomy = ellipsoid_anatomy()
    outside = sphere_lesion(centre=(88.0, -18.0, 8.0), radius=20)
    for k in range(5):
        sample = _generator().generate(anatomy, [outside], key=k)
        healthy = _generator().generate(anatomy, [], key=k)
        lesion = sample.target == LESION
        was = healthy.target[lesion]
        assert bool((was != 0).all())


def test_without_lesion_the_target_has_none() -> None:
    sample = _generator()(ellipsoid_anatomy(), [], rng=stream(1, "case"))
    assert not bool((sample.target == LESION).any())
    assert sample.record["lesions"] == []


def test_skull_stripping_has_its_share_and_leaves_the_brain() -> None:
    anatomy = ellipsoid_anatomy()
    generator = _generator(clear_air=0.0)
    stripped = 0
    for k in range(60):
        sample = generator(anatomy, [], rng=stream(k, "strip"))
        if float((sample.image == 0).float().mean()) > 0.3:
            stripped += 1
            brain = (sample.target == 1) | (sample.target == 2)
            assert float((sample.image[brain] > 0).float().mean()) > 0.85
    assert 9 <= stripped <= 27
    brain_only = generator(ellipsoid_anatomy(head=False), [], rng=stream(1, "strip"))
    assert float((brain_only.image == 0).float().mean()) > 0.3


def test_the_field_of_view_can_end_within_the_head() -> None:
    generator = _generator(cut=1.0, clear_air=0.0, skull_strip=0.0)
    cut = 0
    for k in range(10):
        sample = generator(ellipsoid_anatomy(), [], rng=stream(k, "cut"))
        empty = (sample.image == 0).all(0).all(0)
        cut += int(empty.any())
        assert not bool((sample.target[:, :, empty] > 0).any())
    assert cut >= 8


def test_a_record_regenerates_its_sample_after_a_round_trip_through_json() -> None:
    anatomies, masks = [ellipsoid_anatomy()], [sphere_lesion(), sphere_lesion((-30.0, 0.0, 20.0), 9)]
    generator = Generator(SETTINGS, masks)
    for lesions in (None, masks[1:], []):
        for sample in generator.session(
            anatomies[0], lesions, weightings=["FLAIR", None], rng=stream(5, "session")
        ):
            again = regenerate(json.loads(json.dumps(sample.record)), anatomies, masks)
            assert torch.equal(again.image, sample.image)
            assert torch.equal(again.target, sample.target)


def test_regenerating_from_other_sources_is_refused() -> None:
    masks = [sphere_lesion()]
    sample = Generator(SETTINGS, masks)(ellipsoid_anatomy(), masks, rng=stream(1, "case"))
    with pytest.raises(ValueError, match="one anatomy called 'ellipsoids', got 0"):
        regenerate(sample.record, [], masks)
    with pytest.raises(ValueError, match="called 'sphere', but"):
        regenerate(sample.record, [ellipsoid_anatomy()], [])
    older = {name: value for name, value in sample.record.items() if name != "shown_on"}
    with pytest.raises(ValueError, match="simulate anew"):
        regenerate(older, [ellipsoid_anatomy()], masks)


def test_a_session_shares_the_patient_and_not_the_protocol() -> None:
    still = EchoPlanarSettings(diffusion=0.0)
    settings = SETTINGS.model_copy(update={"skull_strip": 0.0, "echo_planar": still})
    generator = Generator(settings, [sphere_lesion()])
    weightings = ["T1w", "T2w", "FLAIR", "DWI"]
    scans = generator.session(ellipsoid_anatomy(), weightings=weightings, rng=stream(8, "session"))
    assert [scan.protocol.weighting for scan in scans] == weightings
    for scan in scans[1:]:
        assert torch.equal(scan.target, scans[0].target)
        assert scan.record["stage"] == scans[0].record["stage"]
        assert not torch.equal(scan.image, scans[0].image)


def test_a_session_has_one_field_strength() -> None:
    generator = Generator(SETTINGS, [])
    weightings = ["T2w", "FLAIR", "DWI", "T1w"]
    fields = set()
    for patient in range(6):
        scans = generator.session(ellipsoid_anatomy(), weightings=weightings, rng=stream(patient, "field"))
        assert len({scan.protocol.field_strength for scan in scans}) == 1
        fields.add(scans[0].protocol.field_strength)
    assert len(fields) > 1


def test_a_sequence_of_another_field_keeps_its_own() -> None:
    protocol = load_preset("realistic").sample(stream(1), weighting="UNIT1", field_strength=1.5)
    assert protocol.field_strength in (3.0, 7.0)


@pytest.mark.parametrize("changes", [{}, {"cut": 1.0}, {"mass_effect": 1.0, "lesion_centred": 1.0}])
def test_shares_change_nothing_and_agree_with_the_target(changes: dict[str, float]) -> None:
    for key in range(4):
        hard = _generator(**changes).generate(ellipsoid_anatomy(), key=key)
        soft = _generator(**changes, soft_target=True).generate(ellipsoid_anatomy(), key=key)
        assert hard.shares is None
        assert soft.shares is not None
        assert torch.equal(hard.image, soft.image)
        assert torch.equal(hard.target, soft.target)
        assert soft.shares.shape == (5, 40, 48, 40)
        assert torch.allclose(soft.shares.sum(0), torch.ones(40, 48, 40), atol=1e-5)
        assert float(soft.shares.min()) >= 0
        assert torch.equal(soft.shares[LESION] > 0.5, soft.target == LESION)
        certain = soft.shares.max(0).values > 0.5
        assert torch.equal(soft.shares.argmax(0)[certain], soft.target.long()[certain])
        assert 0.5 < float(certain.float().mean()) < 1


def test_shares_count_the_parts_of_a_voxel() -> None:
    settings = SETTINGS.model_copy(
        update={"deformation": STILL, "spacing": 8.0, "shapes": ((25, 30, 25),), "soft_target": True}
    )
    anatomy = ellipsoid_anatomy()
    sample = Generator(settings).generate(anatomy, [], key=1)
    assert sample.shares is not None
    assert isinstance(anatomy.tissues, LabelField)
    classes = CLASS_OF_TISSUE[anatomy.tissues.labels.long()]
    voxel_ml = 0.064
    for number in range(1, len(CLASSES) - 1):
        expected = float((classes == number).sum()) * voxel_ml
        assert float(sample.shares[number].sum()) * 8 * voxel_ml == pytest.approx(expected, rel=0.01)


def test_a_record_from_before_a_setting_was_there_still_regenerates() -> None:
    sample = _generator()(ellipsoid_anatomy(), rng=stream(1, "case"))
    record = json.loads(json.dumps(sample.record))
    for name in ("soft_target", "transmit_field", "corrupted", "partial_volume"):
        del record["settings"][name]
    del record["settings"]["lesions"]["fading"]
    assert torch.equal(regenerate(record, [ellipsoid_anatomy()], [sphere_lesion()]).image, sample.image)


def _published(**changes: object) -> SynthesisSettings:
    table = tomllib.loads(QSYNTH)
    return SynthesisSettings.model_validate({**table, "spacing": 4.0, "shapes": [[40, 48, 40]], **changes})


QSYNTH = """
preset = "paper_code"
priors = "paper"
texture = 1.0
largest_fwhm = 10
rescale_texture = false
partial_volume = "maps"
transmit_field = false
corrupted = false
leukoaraiosis = 0.0
lacunes = 0.0
microbleeds = 0.0
mass_effect = 0.0
healthy.inflow_slices = 0.0
healthy.inflow_volume = 0.0
healthy.flow_voids = 0.0
healthy.bright_structures = 0.0
healthy.fluid_pouches = 0.0
healthy.missed_fat = 0.0
healthy.fresh_blood = 0.0
clear_air = 0.0
defaced = 0.0
cut = 0.0
fat_suppression = {}
deformation = {rotation = 15, scaling = 0.15, shear = 0.012, translation = 0, elastic = 4, mirror = 0}

[lesions]
absent = 0.0
several = 0.0
mirror = 0.0
size_power = 0.0
level = 0.0
penumbra = 0.0
haemorrhage = 0.0
edge = "reference"
fading = "reference"
target_above = 0.2
stages = [1.0, 0.0, 0.0]
shape = {rotation = 0, scaling = 0, shear = 0, translation = 0, elastic = 0, mirror = 0}
"""


def test_without_texture_and_corruption_an_image_is_the_signal_of_the_mean_maps() -> None:
    settings = _published(texture=0.0, skull_strip=0.0)
    sequences = set()
    for key in range(8):
        sample = Generator(settings, [sphere_lesion()]).generate(ellipsoid_anatomy(), key=key)
        maps = {name: sample.maps[name] for name in sample.protocol.needs}
        assert torch.equal(sample.image, sample.protocol.signal(maps))
        assert sample.record["scanner"] == {}
        assert bool((sample.target == LESION).any())
        sequences.add(sample.protocol.sequence)
    assert len(sequences) > 2


def test_texture_is_smoothed_as_published() -> None:
    def spread(key: int, **changes: object) -> float:
        settings = _published(soft_target=True, **changes)
        sample = Generator(settings).generate(ellipsoid_anatomy(), [], key=key)
        assert sample.shares is not None
        white = sample.shares[CLASSES.index("white_matter")] == 1
        return float(sample.maps["r1"][white].std())

    ratios = [spread(key) / spread(key, largest_fwhm=1) for key in range(8)]
    widths = [int(uniform(stream(key, "smoothing"), 0.0, 10.0)) for key in range(8)]
    assert ratios == pytest.approx([spread_left(width) for width in widths], rel=0.25)
    assert spread(3, rescale_texture=True) == pytest.approx(spread(3, largest_fwhm=1), rel=0.25)


def test_a_fading_lesion_is_found_where_its_membership_is_above_the_published_level() -> None:
    settings = _published(soft_target=True, skull_strip=0.0)
    below_half = 0
    for key in range(6):
        shares = Generator(settings, [sphere_lesion()]).generate(ellipsoid_anatomy(), key=key)
        assert shares.shares is not None
        member = shares.shares[LESION]
        assert torch.equal(member > 0.2, shares.target == LESION)
        below_half += int(((member > 0.2) & (member <= 0.5)).sum())
    assert below_half > 0


def test_lesions_at_1_mm_can_be_absent() -> None:
    settings = SETTINGS.model_copy(update={"spacing": 1.0, "shapes": ((16, 16, 16),), "motion": 0.0})
    sample = Generator(settings, [sphere_lesion()]).generate(ellipsoid_anatomy(), [], key=1)
    assert not bool((sample.target == LESION).any())


def test_a_scan_of_a_session_is_the_one_made_alone() -> None:
    generator = Generator(SynthesisSettings(spacing=4.0, shapes=((32, 32, 32),)), [sphere_lesion()])
    weightings = ["T1w", "DWI", None, "FLAIR"]
    scans = generator.session(ellipsoid_anatomy(), weightings=weightings, rng=stream(3, "session"))
    for scan in reversed(scans):
        record = scan.record
        patient = generator.patient(ellipsoid_anatomy(), key=record["key"], shown_on=record["shown_on"])
        alone = generator.scan(
            patient,
            scan=record["scan"],
            weighting=record["weighting"],
            field_strength=record["field_strength"],
        )
        assert torch.equal(alone.image, scan.image)
        assert torch.equal(alone.target, scan.target)
        assert alone.record == record


def test_further_scans_show_lesions_of_the_age_that_their_weighting_is_for() -> None:
    """Of acute patients, more have DWI than of chronic ones; by Bayes, as much more as the habits say."""
    settings = SynthesisSettings(
        spacing=8.0, shapes=((16, 16, 16),), lesions=LesionSettings(absent=0.0), mass_effect=0.0
    )
    generator = Generator(settings, [sphere_lesion()])
    drawn: dict[Stage, list[str | None]] = {"acute": [], "chronic": []}
    for stage, found in drawn.items():
        patient = generator.patient(ellipsoid_anatomy(), key=1, stage=stage, shown_on="T1w")
        found += [generator.further_weighting(patient, scan) for scan in range(1, 1500)]
    row = {"acute": STAGES.index("acute"), "chronic": STAGES.index("chronic")}
    habit = {name: settings.lesions.habit(name).stages for name in ("DWI", "T1w")}
    odds = {stage: found.count("DWI") / found.count("T1w") for stage, found in drawn.items()}
    expected = (habit["DWI"][row["acute"]] / habit["T1w"][row["acute"]]) / (
        habit["DWI"][row["chronic"]] / habit["T1w"][row["chronic"]]
    )
    assert expected / 2 < odds["acute"] / odds["chronic"] < expected * 2


def test_what_is_read_once_mixes_alike() -> None:
    grid = still_grid((12, 10, 9), torch.diag(torch.tensor([7.0, 8.0, 6.0, 1.0]).double()))
    tissues = ellipsoid_anatomy().tissues
    table = torch.rand((len(TISSUES), 5), generator=stream(1, "table"))
    for where in (grid, grid.crop((slice(1, 9), slice(0, 10), slice(2, 8)))):
        read = mix(read_once(tissues, grid), where, table)
        for one, other in zip(mix(tissues, where, table), read, strict=True):
            assert torch.equal(one, other)


def test_parts_anywhere_show_what_is_around_the_brain() -> None:
    parts = {"spacing": 4.0, "shapes": ((16, 16, 16),), "deformation": STILL}
    anatomy = ellipsoid_anatomy()

    def empty(**changes: object) -> list[float]:
        generator = _generator(**parts, **changes)
        made = [generator.generate(anatomy, [], key=key) for key in range(12)]
        return [float((sample.target == CLASSES.index("background")).float().mean()) for sample in made]

    middle, anywhere = empty(), empty(anywhere=1.0)
    assert max(middle) < 0.2
    assert max(anywhere) > 0.6
    assert min(anywhere) < 0.2
    assert empty(anywhere=1.0) == anywhere


def test_a_part_is_around_the_lesion_first() -> None:
    changes = {"shapes": ((24, 24, 24),), "lesion_centred": 1.0, "deformation": STILL}
    lesion, anatomy = sphere_lesion(), ellipsoid_anatomy()
    centred, placed = (
        _generator(**changes, anywhere=share).generate(anatomy, [lesion], key=3) for share in (0.0, 1.0)
    )
    assert torch.equal(centred.image, placed.image)
    assert (placed.target == LESION).any()
