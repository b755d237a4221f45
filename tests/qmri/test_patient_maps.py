import pytest
import torch

from anystroke.acquisition.sequences.flair import Flair
from anystroke.acquisition.sequences.turbo_spin_echo import TurboSpinEcho
from anystroke.anatomy.tissues.deformation import SamplingGrid, still_grid
from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.anatomy.tissues.mixing import LabelField
from anystroke.core.rng import stream
from anystroke.qmri.patient_maps import Exchange, Inclusion, PatientMaps
from anystroke.qmri.tissue_priors import MAPS, TissueDraw, load_table

FLAIR = Flair(
    weighting="FLAIR",
    repetition_time=9.0,
    inversion_time=2.5,
    echo_time=0.1,
    echo_spacing=0.01,
    echo_train_length=16,
)
NAMES = (*TISSUES[1:], "acute_infarct", "subacute_infarct")


def _half_and_half() -> LabelField:
    """White matter on the left, fluid on the right; the border runs through coarse voxels."""
    labels = torch.zeros((22, 16, 16), dtype=torch.uint8)
    labels[:11] = TISSUES.index("white_matter")
    labels[11:] = TISSUES.index("ventricular_csf")
    return LabelField(labels, torch.eye(4, dtype=torch.float64))


def _grid(factor: int) -> SamplingGrid:
    linear = torch.diag(torch.tensor([factor, factor, factor, 1.0], dtype=torch.float64))
    linear[:3, 3] = (factor - 1) / 2
    n = 16 // factor
    return still_grid((22 // factor, n, n), linear)


def _draw() -> TissueDraw:
    return load_table().sample(stream(1, "draw"), NAMES, spread=0.0)


def _maps(factor: int, *, texture: float = 0.0, inclusions: tuple[Inclusion, ...] = ()) -> PatientMaps:
    return PatientMaps(
        _half_and_half(), _grid(factor), _draw(), inclusions=inclusions, key=3, texture=texture
    )


def test_a_voxel_of_fluid_and_tissue_has_the_mean_of_their_signals() -> None:
    image = _maps(2).signal(FLAIR).image
    white, fluid = image[1, 4, 4], image[-2, 4, 4]
    border = image[5, 4, 4]
    draw = _draw()
    signed = {}
    for tissue in ("white_matter", "ventricular_csf", "sulcal_csf"):
        row = draw.names.index(tissue)
        maps = {name: draw.mean[row, MAPS.index(name)].reshape(1) for name in FLAIR.needs}
        signed[tissue] = float(FLAIR.signal(maps, signed=True))
    assert float(white) == pytest.approx(abs(signed["white_matter"]), rel=1e-4)
    assert float(fluid) == pytest.approx(abs(signed["ventricular_csf"]), rel=1e-3)
    mixed = _maps(2)
    of_maps = FLAIR.signal({name: mixed[name][5, 4, 4].reshape(1) for name in FLAIR.needs})
    low, high = (abs(signed["white_matter"] + signed[name]) / 2 for name in ("ventricular_csf", "sulcal_csf"))
    assert min(low, high) * 0.5 - 1e-3 <= float(border) <= max(low, high) * 1.5
    assert float(of_maps) > 1.2 * float(border)


def test_signals_of_fine_voxels_average_to_that_of_the_coarse_one() -> None:
    protocol = TurboSpinEcho(
        weighting="T2w", repetition_time=4.0, echo_time=0.1, echo_spacing=0.01, echo_train_length=12
    )
    fine = _maps(1).signal(protocol).image
    coarse = _maps(2).signal(protocol).image
    averaged = torch.nn.functional.avg_pool3d(fine[None], 2)[0]
    # Fluid in a border voxel is the mean of ventricular and sulcal fluid.
    assert torch.allclose(coarse, averaged, rtol=0.08)


def test_a_partial_lesion_has_the_mean_of_signals_too() -> None:
    box = (slice(1, 4), slice(2, 6), slice(2, 6))
    whole = Inclusion(box, {"acute_infarct": torch.ones(3, 4, 4)})
    half = Inclusion(box, {"acute_infarct": torch.full((3, 4, 4), 0.5)})
    plain = _maps(2).signal(FLAIR).image
    all_of_it = _maps(2, inclusions=(whole,)).signal(FLAIR).image
    half_of_it = _maps(2, inclusions=(half,)).signal(FLAIR).image
    assert torch.allclose(half_of_it, (plain + all_of_it) / 2, rtol=1e-4)
    assert float(all_of_it[2, 3, 3]) > 1.05 * float(plain[2, 3, 3])
    outside = torch.ones_like(plain, dtype=torch.bool)
    outside[box] = False
    assert torch.equal(all_of_it[outside], plain[outside])


@pytest.mark.parametrize("way", ["signal", "signal_of_means"])
def test_what_a_watched_inclusion_changes_is_told(way: str) -> None:
    box = (slice(1, 4), slice(2, 6), slice(2, 6))
    old = Inclusion(box, {"subacute_infarct": torch.full((3, 4, 4), 0.4)})
    lesion = Inclusion(box, {"acute_infarct": torch.full((3, 4, 4), 0.6)}, watched=True)
    without, _, nothing = getattr(_maps(2, inclusions=(old,)), way)(FLAIR)
    image, _, change = getattr(_maps(2, inclusions=(old, lesion)), way)(FLAIR)
    assert nothing is None
    assert float(change[2, 3, 3]) > 0.02 * float(image[2, 3, 3])
    assert torch.allclose(change, image.abs() - without.abs(), atol=1e-4 * float(image.max()))


def test_the_part_of_a_tissue_is_its_share_of_the_signal() -> None:
    maps = _maps(2, texture=1.0)
    image = maps.signal(FLAIR).image
    [part] = maps.parts_of(["white_matter"], [image], [FLAIR])
    assert torch.equal(part[:5], image[:5])
    assert not part[6:].any()
    plain = _maps(2)
    white = float(plain.signal(FLAIR).image[1, 4, 4])
    border = plain.parts_of(["white_matter"], [torch.full_like(image, 1e9)], [FLAIR])[0][5]
    torch.testing.assert_close(border, torch.full_like(border, white / 2), rtol=1e-3, atol=0)
    assert not maps.parts_of(["fat"], [image], [FLAIR])[0].any()


def test_a_part_that_gives_another_signal_counts_as_it_does() -> None:
    maps = _maps(2)
    image = torch.full((11, 8, 8), 1e9)
    whole = maps.parts_of(["white_matter"], [image], [FLAIR])[0][5]
    twice = Exchange(("white_matter",), torch.ones_like(image), FLAIR, density=2.0)
    other = Exchange(("fat",), torch.ones_like(image), None)
    found = maps.parts_of(["white_matter"], [image], [FLAIR], exchanges=[twice, other])[0][5]
    torch.testing.assert_close(found, 2 * whole)


def test_a_map_does_not_depend_on_the_others_asked_for() -> None:
    alone = _maps(1, texture=1.0)["r1"]
    together = _maps(1, texture=1.0)
    together.make(["proton_density", "adc", "r1", "r2star"])
    assert torch.equal(alone, together["r1"])
    assert bool((together["r2star"] >= together["r2"]).all())
    assert set(together) == set(MAPS)
    with pytest.raises(KeyError):
        together["t1"]


def test_texture_has_the_spread_of_the_tissue() -> None:
    draw = _draw()
    row, column = draw.names.index("white_matter"), MAPS.index("r1")
    white = _maps(1, texture=1.0)["r1"][:10]
    assert float(white.std()) == pytest.approx(float(draw.sd[row, column]), rel=0.15)
    assert float(white.mean()) == pytest.approx(float(draw.mean[row, column]), rel=0.02)


def test_draws_without_a_needed_tissue_are_refused() -> None:
    with pytest.raises(ValueError, match="begins with cortical_grey_matter"):
        PatientMaps(_half_and_half(), _grid(1), load_table().sample(stream(1), ["white_matter"]), key=1)
    inclusion = Inclusion((slice(0, 1),) * 3, {"chronic_core": torch.ones(1, 1, 1)})
    with pytest.raises(ValueError, match="chronic_core has none"):
        _maps(1, inclusions=(inclusion,))


def test_the_signal_of_mean_maps_is_that_of_the_maps() -> None:
    classes = torch.arange(len(TISSUES), dtype=torch.uint8).clamp(max=7)
    image, winners, _change = _maps(2, texture=0.5).signal_of_means(FLAIR, classes=classes)
    maps = _maps(2, texture=0.5)
    expected = FLAIR.signal({name: maps[name] for name in FLAIR.needs})
    assert torch.equal(image, expected)
    of_parts, same, _change = _maps(2, texture=0.5).signal(FLAIR, classes=classes)
    assert torch.equal(winners, same)
    # Only a voxel that holds both fluid and tissue tells the two apart.
    different = ((image - of_parts).abs() > 0.02 * of_parts.max()).any(1).any(1)
    assert different.tolist() == [k == 5 for k in range(11)]
