"""Units are told by the values, reported, and refused where they cannot be told."""

from dataclasses import replace

import pytest
import torch

from anystroke.core.rng import stream
from anystroke.qmri.tissue_priors import MAPS, load_table
from anystroke.qmri.units_check import (
    UNITS,
    UnitError,
    check_units,
    clamp_maps,
    find_unit,
    r2_from_r2star,
)

TISSUES = ["cortical_grey_matter", "white_matter", "ventricular_csf"]


def _head(field_strength: float = 3.0, seed: int = 1) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Maps of 16^3 voxels, slabs of grey matter, white matter, fluid; and the tissue of each voxel."""
    draw = load_table().sample(stream(seed), TISSUES, field_strength)
    labels = torch.arange(16).clamp(max=14).div(7, rounding_mode="floor")[:, None, None].expand(16, 16, 16)
    rng = stream(seed, "noise")
    maps = {}
    for column, name in enumerate(MAPS):
        noise = torch.randn(16, 16, 16, generator=rng)
        maps[name] = (draw.mean[labels, column] + draw.sd[labels, column] * noise).abs()
    return maps, labels


@pytest.mark.parametrize("field_strength", [0.5, 1.5, 3.0, 7.0])
@pytest.mark.parametrize("name", MAPS)
def test_maps_in_their_units_are_left_alone(name: str, field_strength: float) -> None:
    for seed in range(5):
        maps, labels = _head(field_strength, seed)
        checked, (finding,) = check_units({name: maps[name]}, labels < 2, white_matter=labels == 1)
        assert finding.factor == 1.0
        assert finding.unit == UNITS[name]
        assert checked[name] is maps[name]


@pytest.mark.parametrize(
    ("name", "unit", "scale"),
    [
        ("r1", "1/ms", 1e-3),
        ("r1", "10^-3/s", 1e3),
        ("r2", "1/ms", 1e-3),
        ("r2", "10^-3/s", 1e3),
        ("r2star", "1/ms", 1e-3),
        ("r2star", "10^-3/s", 1e3),
        ("proton_density", "fraction", 0.01),
        ("mt_saturation", "fraction", 0.01),
        ("adc", "10^-3 mm^2/s", 1e3),
        ("adc", "10^-6 mm^2/s", 1e6),
        ("adc", "m^2/s", 1e-6),
    ],
)
@pytest.mark.parametrize("field_strength", [1.5, 3.0, 7.0])
def test_other_units_are_recognised_and_reported(
    name: str, unit: str, scale: float, field_strength: float
) -> None:
    maps, labels = _head(field_strength)
    checked, (finding,) = check_units({name: maps[name] * scale}, labels < 2)
    assert (finding.map, finding.unit) == (name, unit)
    assert finding.factor == pytest.approx(1 / scale)
    assert "median in the brain" in finding.evidence
    assert torch.allclose(checked[name], maps[name], rtol=1e-5)


def test_proton_density_in_arbitrary_units_needs_white_matter() -> None:
    maps, labels = _head()
    arbitrary = maps["proton_density"] * 37.0
    checked, (finding,) = check_units(
        {"proton_density": arbitrary}, labels < 2, white_matter=labels == 1, grey_matter=labels == 0
    )
    assert finding.unit == "arbitrary"
    assert float(checked["proton_density"][labels == 1].median()) == pytest.approx(69.0)
    with pytest.raises(UnitError, match=r"median in the brain is .*needs white matter"):
        check_units({"proton_density": arbitrary}, labels < 2)
    drifted = find_unit(
        "proton_density", 1.6 * maps["proton_density"], white_matter=torch.full((200,), 110.0)
    )
    assert drifted.unit == "arbitrary"


def test_what_cannot_be_told_is_refused() -> None:
    maps, labels = _head()
    brain, white, grey = labels < 2, labels == 1, labels == 0
    with pytest.raises(UnitError, match=r"r1: the median in the brain is \d+.*expected 0.2 to 2.5 1/s"):
        check_units({"r1": maps["r1"] * 30}, brain)
    with pytest.raises(UnitError, match="mt_saturation: the median in the brain is 4"):
        check_units({"mt_saturation": torch.full_like(maps["r1"], 40) + torch.rand(16, 16, 16)}, brain)
    with pytest.raises(UnitError, match=r"r1: its median is .*a T1 map is no R1 map"):
        check_units({"r1": 1 / maps["r1"]}, brain, white_matter=white, grey_matter=grey)
    with pytest.raises(UnitError, match="at least 100 voxels with values in the brain, got 0"):
        check_units({"r1": torch.full((16, 16, 16), torch.nan)}, brain)
    with pytest.raises(UnitError, match=r"every voxel of the brain is 0\.7"):
        check_units({"r1": torch.full((16, 16, 16), 0.7)}, brain)
    with pytest.raises(UnitError, match=r"shape of the brain mask, \(16, 16, 16\), got \(4, 4, 4\)"):
        check_units({"r1": torch.rand(4, 4, 4)}, brain)
    with pytest.raises(UnitError, match="no map 't1'"):
        find_unit("t1", torch.rand(200))


def test_a_stated_unit_must_agree() -> None:
    maps, labels = _head()
    for stated in ("1/s", "s^-1", "Hz", "arbitrary"):
        check_units({"r1": maps["r1"]}, labels < 2, stated={"r1": stated})
    with pytest.raises(UnitError, match=r"r1: the sidecar states '1/ms', but the median in the brain"):
        check_units({"r1": maps["r1"]}, labels < 2, stated={"r1": "1/ms"})
    _, (finding,) = check_units({"adc": maps["adc"] * 1e6}, labels < 2, stated={"adc": "µm^2/s"})
    assert finding.factor == 1e-6


def test_missing_values_do_not_hide_the_unit() -> None:
    maps, labels = _head()
    holed = torch.where(torch.rand(16, 16, 16, generator=stream(1)) < 0.3, torch.nan, maps["r1"] * 1e3)
    assert find_unit("r1", holed[labels < 2]).unit == "10^-3/s"


def test_clamps_are_those_stated_and_counted() -> None:
    maps, _ = _head()
    head = torch.ones(16, 16, 16, dtype=torch.bool)
    head[:, :, 0] = False
    wild = {name: values.clone() for name, values in maps.items()}
    wild["r1"][0, 0, 1:4] = -1.0
    wild["r1"][1, 0, 1:3] = 7.0
    wild["proton_density"][0, 0, 1] = 150.0
    wild["mt_saturation"][0, 0, 1:5] = -0.4
    wild["r2"][2, 2, 2] = 30.0
    wild["r2star"][2, 2, 2] = 12.0
    wild["r2star"][3, 3, 3] = 900.0
    clamped, findings = clamp_maps(wild, head)
    changed = {finding.map: (finding.raised, finding.lowered) for finding in findings}
    low = {name: int((maps["r2star"] < maps["r2"])[head].sum()) for name in ("r2star",)}
    assert changed["r1"] == (3, 2)
    assert changed["proton_density"] == (0, 1)
    assert changed["mt_saturation"] == (4, 0)
    assert changed["r2"] == (0, 0)
    assert changed["r2star"] == (low["r2star"] + 1, 1)
    assert "adc" not in changed
    assert all(finding.voxels == int(head.sum()) for finding in findings)
    for name, values in clamped.items():
        assert float(values[~head].abs().max()) == 0
        same = torch.isclose(values, wild[name])[head]
        assert int((~same).sum()) == sum(changed.get(name, (0, 0)))
    assert bool((clamped["r2star"] >= clamped["r2"]).all())
    assert float(wild["r1"].min()) == -1.0


def test_what_no_limit_can_mend_is_refused() -> None:
    head = torch.ones(4, 4, 4, dtype=torch.bool)
    adc = torch.full((4, 4, 4), 1e-3)
    adc[0, 0, 0] = -2e-3
    with pytest.raises(UnitError, match=r"adc: 1 of 64 voxels of the head are negative, down to -0\.002"):
        clamp_maps({"adc": adc}, head)
    holed = torch.ones(4, 4, 4)
    holed[0] = torch.nan
    with pytest.raises(UnitError, match="r1: 16 of 64 voxels of the head are not finite"):
        clamp_maps({"r1": holed}, head)
    head[0] = False
    assert bool(torch.isfinite(clamp_maps({"r1": holed}, head)[0]["r1"]).all())


@pytest.mark.parametrize("field_strength", [1.5, 3.0, 7.0])
def test_r2_from_r2star_comes_near_the_table(field_strength: float) -> None:
    table = load_table()
    table = replace(table, sd_of_means=torch.zeros_like(table.mean))
    for name, tolerance in (("cortical_grey_matter", 0.2), ("white_matter", 0.2), ("ventricular_csf", 0.2)):
        mean = table.sample(stream(1), [name], field_strength).mean[0]
        r2 = r2_from_r2star(mean[3], mean[1], field_strength=field_strength)
        assert float(r2) == pytest.approx(float(mean[2]), rel=tolerance)


def test_r2_from_r2star_by_its_formula_and_limits() -> None:
    one = torch.tensor(1.0)
    assert float(r2_from_r2star(20 * one, one)) == pytest.approx(13.0)
    assert float(r2_from_r2star(20 * one, 0.24 * one)) == pytest.approx(0.6)
    assert float(r2_from_r2star(20 * one, 0.375 * one)) == pytest.approx(0.5 * 13 + 0.3)
    assert float(r2_from_r2star(300 * one, one)) == 30.0
    assert float(r2_from_r2star(20 * one, one, ratio=0.5)) == pytest.approx(10.0)
    with pytest.raises(UnitError, match=r"above 0 T, got 0\.0"):
        r2_from_r2star(one, one, field_strength=0.0)
    with pytest.raises(UnitError, match=r"at most 1, got 2\.0"):
        r2_from_r2star(one, one, ratio=2.0)
