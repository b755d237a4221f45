import pytest
import torch

from anystroke.qmri.maps import QuantitativeMaps
from anystroke.qmri.tissue_priors import MAPS, load_table
from anystroke.rng import stream

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
