from pathlib import Path

import pytest
import torch

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.presets.preset import load_preset
from anystroke.anatomy.lesions.placement import lesion_area
from anystroke.anatomy.registration.affine import stored_registration
from anystroke.anatomy.tissues.anatomies import Anatomy, build_anatomy
from anystroke.anatomy.tissues.deformation import still_grid
from anystroke.anatomy.tissues.label_maps import load_label_map
from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.anatomy.tissues.mixing import LabelField, ShareField
from anystroke.core.rng import stream
from anystroke.corruption.echo_planar_scan import EchoPlanarScan, EchoPlanarSettings, draw_echo_planar
from anystroke.corruption.head_field import (
    CAVITIES,
    HeadVariation,
    coarse_head,
    draw_variation,
    head_field,
    shimmed_on_grid,
)
from anystroke.corruption.susceptibility import PROTON_HZ_PER_TESLA
from anystroke.simulation.generator import CLASSES, Generator
from anystroke.simulation.replay import regenerate
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

SETTINGS = SynthesisSettings(
    spacing=4.0,
    shapes=((40, 48, 40),),
    cut=0.0,
    skull_strip=0.0,
    weighting="DWI",
    echo_planar=EchoPlanarSettings(diffusion=1.0, gradient_echo=1.0),
)
NO_CAVITY = HeadVariation({})


def _protocol(weighting: str) -> Protocol:
    return load_preset("realistic").sample(stream(1, weighting), weighting=weighting, field_strength=3.0)


def _grid(anatomy: Anatomy, *, side: int = 24, spacing: float = 8.0) -> torch.Tensor:
    linear = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    linear[:3, 3] = anatomy.centre - spacing * (side - 1) / 2
    return linear


def _draw(anatomy: Anatomy, weighting: str, **changes: object) -> EchoPlanarScan:
    settings = SETTINGS.echo_planar.model_copy(update=changes)
    return draw_echo_planar(
        _protocol(weighting),
        anatomy,
        still_grid((24, 24, 24), _grid(anatomy)),
        factor=1,
        computed=weighting == "ADC",
        settings=settings,
        patient=stream(1, "patient"),
        scan=stream(1, "scan"),
    )


@pytest.mark.parametrize("weighting", ["DWI", "ADC", "T2starw"])
def test_echo_planar_scans_are_distorted_and_the_others_are_not(weighting: str) -> None:
    anatomy = ellipsoid_anatomy()
    scan = _draw(anatomy, weighting)
    assert scan.distortion is not None
    slices = _protocol(weighting).dimensions == 2
    assert bool(scan.distortion.displacement.any()) == ("echo_spacing" in scan.facts) == slices
    assert scan.distortion.computed == (weighting == "ADC")
    assert (scan.distortion.kept is not None) == (weighting == "T2starw")
    for other in ("T1w", "T2w", "FLAIR"):
        still = _draw(anatomy, other, diffusion=0.0)
        image = torch.rand(24, 24, 24)
        assert still == EchoPlanarScan()
        assert still.image(image) is still.moved(image, 1) is image


def test_gradient_echoes_without_echo_planar_readout_only_lose_signal() -> None:
    anatomy = ellipsoid_anatomy()
    scan = _draw(anatomy, "T2starw", gradient_echo=0.0)
    image = torch.rand(24, 24, 24)
    left = scan.image(image)
    assert bool((left <= image + 1e-6).all())
    assert float(left.sum()) < float(image.sum())
    assert "echo_spacing" not in scan.facts
    assert _draw(anatomy, "T2starw", gradient_echo=0.0, drop_out=0.0) == EchoPlanarScan()


def test_fat_is_shifted_by_its_resonance_and_the_readout() -> None:
    """At 3 T fat is 434 Hz below water; 0.5 ms over 220 mm make 47.8 mm of that."""
    fixed = {"echo_spacing": (0.0005, 0.0005), "field_of_view": (220.0, 220.0)}
    scan = _draw(ellipsoid_anatomy(), "DWI", **fixed)
    assert scan.moves_fat
    assert abs(scan.facts["fat_shift"]) == pytest.approx(47.8, abs=0.1)
    assert scan.facts["fat_shift"] * scan.facts["phase_encoding_sign"] < 0
    assert scan.distortion is not None
    assert scan.distortion.fat_shift == pytest.approx(scan.facts["fat_shift"] / 8.0, rel=1e-3)
    assert not _draw(ellipsoid_anatomy(), "T2starw", gradient_echo=0.0).moves_fat
    assert not _draw(ellipsoid_anatomy(), "ADC", **fixed).moves_fat


def test_the_scalp_of_a_diffusion_scan_is_seen_apart_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    anatomy, quiet = ellipsoid_anatomy(), EchoPlanarSettings(diffusion=1.0, ghosts=0.0, left_right=0.0)
    settings = SETTINGS.model_copy(update={"echo_planar": quiet, "fat_suppression": {}, "clear_air": 0.0})
    with_fat = Generator(settings)(anatomy, [], rng=stream(5, "fat"))
    monkeypatch.setattr("anystroke.corruption.echo_planar_scan.FAT_PPM", 0.0)
    without = Generator(settings)(anatomy, [], rng=stream(5, "fat"))
    assert without.record["scanner"]["fat_shift"] == 0
    assert torch.equal(with_fat.target, without.target)
    outside = (without.target == 0) & (without.image > 0.3 * without.image.max())
    scalp = float(without.image[outside].mean())
    assert float((with_fat.image - without.image)[outside].mean()) < -0.4 * scalp
    brain = without.target > 0
    assert float((with_fat.image - without.image)[brain].amax()) > 0.4 * scalp


def test_a_cropped_grid_sees_the_field_of_the_whole_head() -> None:
    anatomy = ellipsoid_anatomy()
    head = coarse_head(anatomy)
    assert coarse_head(anatomy) is head
    variation = draw_variation(head, rng=stream(3, "head"))
    whole = still_grid((24, 24, 24), _grid(anatomy))
    box = (slice(10, 16), slice(3, 9), slice(8, 12))
    full = shimmed_on_grid(head, head_field(head, variation), whole, order=2)
    part = shimmed_on_grid(head, head_field(head, variation), whole.crop(box), order=2)
    torch.testing.assert_close(part, full[box], atol=1e-4, rtol=1e-4)


def test_air_above_the_palate_raises_the_field_above_it() -> None:
    anatomy = ellipsoid_anatomy()
    head = coarse_head(anatomy)
    without, with_air = (
        head_field(head, HeadVariation(cavities)) for cavities in ({}, {"left_maxillary_sinus": 1.0})
    )
    to_voxel = torch.linalg.inv(head.to_mni)
    centre, radii = CAVITIES["left_maxillary_sinus"]

    def at(x: float, y: float, z: float) -> float:
        i, j, k = (to_voxel[:3, :3] @ torch.tensor([x, y, z]).double() + to_voxel[:3, 3]).round().long()
        return float((with_air - without)[i, j, k])

    above = at(centre[0], centre[1], centre[2] + 1.7 * radii[2])
    beside = at(centre[0] - 2.5 * radii[0], centre[1], centre[2])
    assert above > 0.2
    assert beside < -0.05


def test_a_brain_alone_gets_head_neck_and_cavities() -> None:
    brain = ellipsoid_anatomy(head=False)
    head = coarse_head(brain)
    assert not head.whole
    drawn = [len(draw_variation(head, rng=stream(k, "all")).cavities) for k in range(20)]
    assert sum(drawn) > 0.85 * 20 * len(CAVITIES)
    field = shimmed_on_grid(head, head_field(head, NO_CAVITY), still_grid((24,) * 3, _grid(brain)), order=2)
    inside = torch.zeros(24, 24, 24, dtype=torch.bool)
    inside[8:16, 7:17, 8:16] = True
    assert float(field[inside].std()) < 0.1


def test_shifts_are_within_the_limit_and_the_same_key_gives_the_same_scan() -> None:
    generator = Generator(SETTINGS, [sphere_lesion()])
    anatomy = ellipsoid_anatomy()
    for k in range(4):
        sample = generator(anatomy, generator.masks, rng=stream(k, "case"))
        again = regenerate(sample.record, [ellipsoid_anatomy()], generator.masks)
        assert torch.equal(sample.image, again.image)
        assert torch.equal(sample.target, again.target)
        assert bool(torch.isfinite(sample.image).all())
        assert float(sample.image.min()) >= 0
        assert sample.record["scanner"]["echo_spacing"] > 0


def test_without_corruption_nothing_is_distorted() -> None:
    clean = SETTINGS.model_copy(update={"corrupted": False})
    facts = Generator(clean)(ellipsoid_anatomy(), rng=stream(1, "clean")).record["scanner"]
    assert facts == {}


def test_shares_sum_to_one_and_follow_the_target() -> None:
    settings = SETTINGS.model_copy(update={"soft_target": True})
    sample = Generator(settings, [sphere_lesion()])(ellipsoid_anatomy(), rng=stream(5, "soft"))
    assert sample.shares is not None
    torch.testing.assert_close(sample.shares.sum(0), torch.ones(40, 48, 40))
    assert float(sample.shares.min()) >= 0
    agree = sample.shares.argmax(0) == sample.target
    assert float(agree.float().mean()) > 0.93


def test_scans_of_a_session_share_the_field() -> None:
    scans = Generator(SETTINGS).session(
        ellipsoid_anatomy(), weightings=["DWI", "ADC"], rng=stream(2, "session")
    )
    facts = [scan.record["scanner"] for scan in scans]
    assert facts[0]["field_direction"] == facts[1]["field_direction"]


@pytest.mark.parametrize("computed", [True, False])
def test_the_adc_is_moved_and_not_piled_up(computed: bool) -> None:
    diffusion = SETTINGS.diffusion.model_copy(update={"computed": computed})
    common = {"weighting": "ADC", "snr": (400.0, 401.0), "receive_strength": 0.0, "diffusion": diffusion}
    means = []
    for probability in (0.0, 1.0):
        still = SETTINGS.echo_planar.model_copy(update={"diffusion": probability})
        settings = SETTINGS.model_copy(update={**common, "echo_planar": still})
        sample = Generator(settings)(ellipsoid_anatomy(), rng=stream(4, "adc"))
        white = sample.image[sample.target == CLASSES.index("white_matter")]
        means.append(torch.quantile(white, torch.tensor([0.05, 0.5, 0.95])))
    assert float(means[1][1]) == pytest.approx(float(means[0][1]), rel=0.03)
    assert float(means[1][2]) < 1.35 * float(means[0][2])


def test_a_skull_stripped_scan_keeps_the_brain_that_is_seen() -> None:
    settings = SETTINGS.model_copy(update={"skull_strip": 1.0, "snr": (200.0, 201.0)})
    for k in range(3):
        sample = Generator(settings)(ellipsoid_anatomy(), rng=stream(k, "strip"))
        brain = (sample.target == CLASSES.index("white_matter")) & (sample.image == 0)
        assert float(brain.float().sum()) < 0.03 * float((sample.target > 0).sum())


def test_soft_labels_give_the_field_of_hard_ones() -> None:
    hard = ellipsoid_anatomy()
    assert isinstance(hard.tissues, LabelField)
    shares = torch.nn.functional.one_hot(hard.tissues.labels.long(), len(TISSUES)).movedim(-1, 0)[1:].float()
    soft = Anatomy("soft", ShareField(shares, hard.tissues.affine), hard.to_mni)
    fields = [head_field(coarse_head(each), NO_CAVITY) for each in (hard, soft)]
    torch.testing.assert_close(fields[0], fields[1], atol=1e-4, rtol=1e-4)


@pytest.mark.real_data
@pytest.mark.parametrize("number", ["01", "04", "10"])
def test_real_heads_shift_as_published(data_dir: Path, number: str) -> None:
    """At 3 T: an SD of 15 to 35 Hz over the brain, more than 100 Hz above the sinuses.

    Whole-brain spread after a second-order shim, and hot spots above the nasal cavity and the ear canals: J.
    P. Stockmann and L. L. Wald, NeuroImage 168:71 (2018). With an effective echo spacing of 0.6 ms over 220
    mm, 100 Hz are 13 mm: P. Jezzard and R. S. Balaban, Magn Reson Med 34:65 (1995).
    """
    path = data_dir / "anatomies" / "synthseg" / f"training_seg_{number}.nii.gz"
    labels, scheme = load_label_map(path)
    anatomy = build_anatomy(labels, scheme, stored_registration(path).affine, name=number)
    head = coarse_head(anatomy)
    hertz = head_field(head, NO_CAVITY) * PROTON_HZ_PER_TESLA * 3e-6
    linear = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64))
    linear[:3, 3] = torch.tensor([-75.0, -108.0, -60.0])
    grid = still_grid((50, 60, 45), torch.linalg.inv(anatomy.to_mni) @ linear)
    hertz = shimmed_on_grid(head, hertz, grid, order=2)
    x, y, z = (
        torch.arange(n).reshape([-1 if k == axis else 1 for k in range(3)]) * 3.0 + float(linear[axis, 3])
        for axis, n in enumerate(grid.shape)
    )
    brain = lesion_area(anatomy.tissues, grid, 3.0) > 0.5
    assert 10 < float(hertz[brain].std()) < 35
    orbitofrontal = brain & (x.abs() < 14) & (y > 20) & (y < 55) & (z < -12)
    poles = brain & (x.abs() > 22) & (x.abs() < 55) & (y > 0) & (y < 25) & (z < -20)
    shift = 0.0006 * 220
    assert 7 < float(torch.quantile(hertz[orbitofrontal], 0.95)) * shift < 35
    assert 3 < float(torch.quantile(hertz[poles].abs(), 0.95)) * shift < 20
    assert float(hertz[brain & (z > 30)].std()) * shift < 3
