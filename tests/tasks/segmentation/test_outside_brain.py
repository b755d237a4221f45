import numpy as np
import pytest
import torch
from torch import Tensor

from anystroke.anatomy.regions.grid import affine, tissue
from anystroke.core.volume import Volume
from anystroke.tasks.segmentation import outside_brain
from anystroke.tasks.segmentation.mni_places import MniSpace
from anystroke.tasks.segmentation.outside_brain import within_mni_brain

BRAIN = torch.from_numpy(tissue().template > 0)
IMAGE = Volume(torch.from_numpy(tissue().template)[None], torch.from_numpy(affine()))


@pytest.fixture
def registrations(monkeypatch: pytest.MonkeyPatch) -> list[Volume]:
    """Collect the scans that are registered; all of them are in MNI space."""
    seen: list[Volume] = []

    def found(scan: Volume, brain: Volume) -> MniSpace:
        assert brain.data.any()
        seen.append(scan)
        return MniSpace(torch.eye(4, dtype=torch.float64), 1.0)

    monkeypatch.setattr(outside_brain, "find_mni_space", found)
    return seen


def _box(*bounds: tuple[int, int]) -> Tensor:
    box = torch.zeros(BRAIN.shape, dtype=torch.bool)
    box[tuple(slice(*each) for each in bounds)] = True
    return box


def _face() -> Tensor:
    """Return what a network may call brain beside the brain: an orbit, on a bridge of a few voxels."""
    return _box((50, 64), (90, 106), (10, 22)) | _box((55, 58), (80, 92), (18, 30))


def test_lesions_in_the_brain_stay_and_cost_no_registration(registrations: list[Volume]) -> None:
    lesion = (_box((10, 40), (40, 70), (35, 60)) & BRAIN) | (_box((60, 64), (20, 24), (60, 64)) & BRAIN)
    assert within_mni_brain(lesion, BRAIN & ~lesion, IMAGE).all()
    assert not registrations


def test_a_lesion_of_half_a_hemisphere_stays(registrations: list[Volume]) -> None:
    lesion = _box((10, 40), (30, 80), (30, 70)) & BRAIN
    assert within_mni_brain(lesion, BRAIN & ~lesion, IMAGE).all()
    assert registrations


def test_a_lesion_of_the_face_goes_whatever_the_network_calls_it(registrations: list[Volume]) -> None:
    stroke, orbit = _box((10, 40), (30, 80), (30, 70)) & BRAIN, _box((50, 62), (92, 104), (6, 18))
    keep = within_mni_brain(stroke | orbit, (BRAIN | _face()) & ~stroke & ~orbit, IMAGE)
    assert len(registrations) == 1
    assert not keep[orbit].any()
    assert keep[~orbit].all()


def test_of_a_lesion_that_reaches_out_the_brain_keeps_its_part(registrations: list[Volume]) -> None:
    whole = _box((60, 91), (30, 70), (40, 60))
    keep = within_mni_brain(whole, BRAIN & ~whole, IMAGE)
    assert registrations
    assert keep[whole & BRAIN].all()
    assert not keep[90, 50, 50]


def test_without_a_registration_all_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_brain, "find_mni_space", lambda *_: MniSpace(overlap=0.5, problem="poor"))
    orbit = _box((50, 62), (92, 104), (6, 18))
    assert within_mni_brain(orbit, (BRAIN | _face()) & ~orbit, IMAGE).all()


def test_a_small_lesion_of_the_face_is_seen_beside_a_large_stroke(registrations: list[Volume]) -> None:
    stroke, small = _box((10, 40), (40, 70), (35, 60)) & BRAIN, _box((54, 56), (100, 102), (8, 9))
    keep = within_mni_brain(stroke | small, (BRAIN | _face()) & ~stroke & ~small, IMAGE)
    assert registrations
    assert not keep[small].any()
    assert keep[stroke].all()


def test_beside_a_large_stroke_the_whole_brain_is_registered() -> None:
    stroke, orbit = _box((5, 38), (25, 95), (20, 70)) & BRAIN, _box((50, 62), (92, 104), (6, 18))
    scan = Volume(IMAGE.data.clone(), IMAGE.affine)
    scan.data[0][stroke] *= 0.4
    keep = within_mni_brain(stroke | orbit, (BRAIN | _face()) & ~stroke & ~orbit, scan)
    assert not keep[orbit].any()
    assert keep[stroke].float().mean() > 0.99


def test_the_lowest_slice_of_the_template_is_no_edge() -> None:
    below = outside_brain._from_mni_brain(np.array([[0.0, -44.0, -74.0], [0.0, -44.0, -200.0]]))
    assert below[0] < 6
    assert np.isinf(below[1])


@pytest.mark.parametrize("brain", [torch.zeros_like(BRAIN), _box((40, 44), (50, 54), (40, 44))])
def test_where_there_is_hardly_a_brain_all_stays(brain: Tensor, registrations: list[Volume]) -> None:
    assert within_mni_brain(_box((0, 9), (0, 9), (0, 9)), brain, IMAGE).all()
    assert within_mni_brain(torch.zeros_like(BRAIN), BRAIN, IMAGE).all()
    assert not registrations
