import pytest
import torch

from anystroke.core.rng import stream
from anystroke.qmri.maps import QuantitativeMaps
from anystroke.qmri.tissue_priors import MAPS, load_table

NAMES = ("white_matter", "sulcal_csf")


def _maps(fractions: torch.Tensor, key: int = 1) -> QuantitativeMaps:
    return QuantitativeMaps(fractions, load_table().sample(stream(1, "tissue"), NAMES), key=key)


def test_pure_tissue_has_its_mean_and_spread() -> None:
    fractions = torch.zeros(2, 30, 30, 30)
    fractions[0] = 1
    draw = load_table().sample(stream(1, "tissue"), NAMES)
    maps = _maps(fractions)
    for column, name in enumerate(MAPS):
        if name != "r2star":
            assert float(maps[name].mean()) == pytest.approx(float(draw.mean[0, column]), rel=0.02)
            assert float(maps[name].std()) == pytest.approx(float(draw.sd[0, column]), rel=0.03)


def test_partial_volume_is_a_weighted_mean_and_air_is_zero() -> None:
    fractions = torch.zeros(2, 12, 12, 12)
    fractions[:, :6] = 0.5
    draw = load_table().sample(stream(1, "tissue"), NAMES)
    maps = _maps(fractions)
    assert float(maps["r1"][:6].mean()) == pytest.approx(float(draw.mean[:, 1].mean()), rel=0.03)
    assert float(maps["proton_density"][6:].abs().max()) == 0


def test_maps_do_not_depend_on_the_order_they_are_asked_for() -> None:
    fractions = torch.rand((2, 8, 8, 8), generator=stream(1, "f")) / 2
    first, second = _maps(fractions), _maps(fractions)
    forward = {name: first[name] for name in MAPS}
    backward = {name: second[name] for name in reversed(MAPS)}
    assert all(torch.equal(forward[name], backward[name]) for name in MAPS)
    assert not torch.equal(forward["r1"], _maps(fractions, key=2)["r1"])
    assert bool((forward["r2star"] >= forward["r2"]).all())
    assert list(first) == list(MAPS)
    assert len(first) == len(MAPS)
    with pytest.raises(KeyError):
        first["t1"]


def test_a_tissue_without_properties_is_an_error() -> None:
    draw = load_table().sample(stream(1, "tissue"), NAMES)
    with pytest.raises(ValueError, match="properties of 3 tissues, but got 2"):
        QuantitativeMaps(torch.zeros(3, 4, 4, 4), draw, key=1)


@pytest.mark.parametrize("smoothness", [0.0, 0.3, 0.7, 1.5, 3.0])
@pytest.mark.parametrize("texture", [0.5, 1.0])
def test_smoothing_keeps_the_variance(smoothness: float, texture: float) -> None:
    fractions = torch.zeros(2, 24, 24, 24)
    fractions[0] = 1
    draw = load_table().sample(stream(1, "tissue"), NAMES)
    roughness = []
    for key in range(3):
        maps = QuantitativeMaps(fractions, draw, key=key, smoothness=smoothness, texture=texture)
        for column, name in ((0, "proton_density"), (1, "r1"), (5, "adc")):
            expected = texture * float(draw.sd[0, column])
            assert float(maps[name].std()) == pytest.approx(expected, rel=0.03)
            roughness.append(float(maps[name].diff(dim=0).std()) / float(maps[name].std()))
    mean = sum(roughness) / len(roughness)
    assert mean == pytest.approx(2**0.5, rel=0.03) if smoothness == 0 else mean < 1.35


def test_smoother_textures_are_smoother() -> None:
    fractions = torch.zeros(2, 24, 24, 24)
    fractions[0] = 1
    draw = load_table().sample(stream(1, "tissue"), NAMES)
    steps = []
    for smoothness in (0.0, 0.7, 1.5, 3.0):
        made = [QuantitativeMaps(fractions, draw, key=key, smoothness=smoothness)["r1"] for key in range(6)]
        steps.append(sum(float(r1.diff(dim=0).std()) for r1 in made) / len(made))
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] < 0.5 * steps[0]


def test_one_hot_fractions_are_hard_labels() -> None:
    labels = torch.randint(0, 2, (20, 20, 20), generator=stream(2, "labels"))
    fractions = torch.stack([(labels == tissue).float() for tissue in range(2)])
    draw = load_table().sample(stream(1, "tissue"), NAMES)
    maps = _maps(fractions)
    for tissue in range(2):
        inside = maps["mt_saturation"][labels == tissue]
        if tissue == 0:
            assert float(inside.mean()) == pytest.approx(float(draw.mean[tissue, 4]), rel=0.01)
            assert float(inside.std()) == pytest.approx(float(draw.sd[tissue, 4]), rel=0.05)
        assert float(inside.min()) >= 0
