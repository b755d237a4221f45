"""Cases of the estimator: the target maps are those that the scan was made of, in their units."""

from pathlib import Path

import pytest
import torch

from anystroke.acquisition.catalogue import from_dict
from anystroke.anatomy.tissues.classes import CLASSES, LESION
from anystroke.core.rng import stream
from anystroke.corruption.scanner import ScannerSettings
from anystroke.learning.sources.maps import MapSettings, pack_data
from anystroke.qmri.estimated_maps import DEFAULT_MAPS, MAP_OUTPUTS
from anystroke.simulation.cohorts import Pack
from anystroke.simulation.replay import regenerate
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.qmri.cases import MapTargetSettings, MeasuredMapSource, SimulatedMapSource
from map_phantoms import SPACING, STILL, write_map_subject
from phantoms import ellipsoid_anatomy, sphere_lesion

SHAPE = (52, 60, 50)
PLAIN = SynthesisSettings(
    preset="estimator",
    spacing=SPACING,
    deformation=STILL,
    corrupted=False,
    transmit_field=False,
    skull_strip=0.0,
    clear_air=0.0,
    defaced=0.0,
    cut=0.0,
    fat_suppression={},
    texture=0.0,
)
PACK = Pack([ellipsoid_anatomy()], [sphere_lesion()])
OWN_FIELD = MapTargetSettings(field_strength=None)


def _source(target: MapTargetSettings | None = None, **changes: object) -> SimulatedMapSource:
    names = (*DEFAULT_MAPS, "r2")
    return SimulatedMapSource(PACK, PLAIN.model_copy(update=changes), names=names, target=target)


def test_the_scan_is_the_signal_of_its_target() -> None:
    """Where a voxel holds one tissue, the protocol played on the target maps gives the noise-free scan."""
    case, classes = _source(OWN_FIELD).sampled(SHAPE, rng=stream(1, "case"))
    maps = dict(zip((*DEFAULT_MAPS, "r2"), case.target, strict=False))
    image = from_dict(case.record["protocol"]).signal(maps)
    same = torch.isclose(image, case.image, rtol=2e-3, atol=1e-3)
    inside = classes == CLASSES.index("white_matter")
    assert float(same[inside].float().mean()) > 0.9


def test_targets_at_one_field_are_those_of_the_same_patient() -> None:
    """At 3 T R1 of tissue is lower than at 1.5 T, by a factor of the tissue alone; PD is the same."""
    settings = PLAIN.model_copy(update={"preset": "estimator"})
    for number in range(20):
        rng = stream(number, "case")
        own = SimulatedMapSource(PACK, settings, names=DEFAULT_MAPS, target=OWN_FIELD).case(SHAPE, rng=rng)
        field = own.record["protocol"]["field_strength"]
        if field == 1.5:
            break
    else:
        raise AssertionError("expected a scan at 1.5 T among 20")
    rng = stream(number, "case")
    at_three, classes = SimulatedMapSource(PACK, settings, names=DEFAULT_MAPS).sampled(SHAPE, rng=rng)
    assert torch.equal(own.image, at_three.image)
    assert torch.allclose(own.target[0], at_three.target[0])
    assert torch.allclose(own.target[3], at_three.target[3])
    white = classes == CLASSES.index("white_matter")
    ratio = (own.target[1][white] / at_three.target[1][white]).median()
    assert float(ratio) == pytest.approx(2**0.37, rel=0.03)


def test_targets_have_values_of_tissue_and_weights_of_brain() -> None:
    target = MapTargetSettings(outside=0.2, lesion=3.0)
    case, classes = _source(target).sampled(SHAPE, rng=stream(3, "case"))
    white = classes == CLASSES.index("white_matter")
    for name, values, low, high in zip(
        (*DEFAULT_MAPS, "r2"), case.target, (62, 0.8, 15, 1.2, 11), (76, 1.2, 26, 2.0, 17), strict=False
    ):
        assert low < float(values[white].median()) < high, name
        assert float(values.max()) <= MAP_OUTPUTS[name].ceiling
    weight = case.target[-1]
    assert bool((weight[classes == 0] == 0.2).all())
    assert bool((weight[white] == 1.0).all())
    assert bool((weight[classes == LESION] == 3.0).all())


def test_fluid_of_the_brain_counts_more_where_told() -> None:
    even, told = (
        _source(MapTargetSettings(lesion=2.0, fluid=fluid)).sampled(SHAPE, rng=stream(3, "case"))
        for fluid in (1.0, 4.0)
    )
    (case, classes), weight = told, told[0].target[-1]
    assert torch.equal(case.target[:-1], even[0].target[:-1])
    fluid = (classes > 0) & (case.target[1] < 0.4)
    assert int(fluid.sum()) > 1000
    assert float((classes[fluid] == CLASSES.index("csf")).float().mean()) > 0.8
    assert bool((weight[fluid] == 4.0).all())
    assert torch.equal(weight[~fluid], even[0].target[-1][~fluid])


def test_what_the_scan_does_not_show_is_zero_in_the_target() -> None:
    case = _source(skull_strip=1.0, corrupted=True).case(SHAPE, rng=stream(4, "case"))
    nothing = case.image == 0
    assert 0.3 < float(nothing.float().mean()) < 0.95
    assert float(case.target[:-1, nothing].abs().max()) == 0
    assert float(case.target[0][~nothing].median()) > 50


def test_cases_are_those_of_their_stream() -> None:
    first, again = (_source().case(SHAPE, rng=stream(5, "case")) for _ in range(2))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target, again.target)
    assert torch.equal(regenerate(first.record, PACK.anatomies, PACK.masks).image, first.image)


@pytest.mark.parametrize("brain_only", [0.0, 1.0])
def test_measured_maps_come_back_as_targets(brain_only: float, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_map_subject(data, "sub-01")
    settings = MapSettings(
        data=(data,), preset="estimator", spacing=SPACING, deformed=0.0, brain_only=brain_only,
        scanner=ScannerSettings(corrupted=False), transmit_field=False,
    )  # fmt: skip
    pack_data(settings, tmp_path / "pack")
    source = MeasuredMapSource(tmp_path / "pack", settings, names=(*DEFAULT_MAPS, "r2"))
    case = source.case((48, 56, 48), rng=stream(1, "case"))
    assert from_dict(case.record["protocol"]).field_strength == 3.0
    brain = case.target[-1] == 1
    assert 0.6 < float(case.target[1][brain].median()) < 1.1
    assert 0 < float(case.target[4][brain].median()) < float(case.target[2][brain].median())
    image = from_dict(case.record["protocol"]).signal(dict(zip(DEFAULT_MAPS, case.target, strict=False)))
    brain &= case.target[2] < MAP_OUTPUTS["r2star"].ceiling
    assert int(brain.sum()) > 10_000
    assert torch.allclose(image[brain], case.image[brain], rtol=0.02, atol=0.05)
