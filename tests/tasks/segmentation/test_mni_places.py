import pytest
import torch

from anystroke.anatomy.regions.grid import affine, tissue
from anystroke.anatomy.registration.affine import RegistrationError
from anystroke.anatomy.registration.atlas import Atlas
from anystroke.anatomy.registration.mni import ScanRegistration
from anystroke.core.volume import Volume
from anystroke.tasks.segmentation.mni_places import (
    MniSpace,
    coarse_map,
    find_mni_space,
    find_places,
    with_lesion,
)

TO_MNI = torch.tensor([[1.0, 0, 0, -50], [0, 1, 0, -60], [0, 0, 1, -20], [0, 0, 0, 1]], dtype=torch.float64)

REGISTER = "anystroke.anatomy.registration.mni.register_scan"


def _numbered() -> Volume:
    data = torch.zeros(1, 50, 60, 40, dtype=torch.int32)
    data[:, 4:12, 20:30, 10:20] = 1  # x of 8 to 22 mm, -42 to -28 in MNI space
    data[:, 40:44, 20:24, 10:14] = 2
    return Volume(data, torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64)))


def _atlas() -> Atlas:
    labels = torch.zeros(1, 100, 100, 100, dtype=torch.int64)
    labels[:, :12] = 7
    labels[:, 12:50] = 8
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 3] = -50.0
    return Atlas(Volume(labels, affine), {7: "far left", 8: "left"}, "atlas.nii.gz", "")


def test_places_and_territories() -> None:
    places, volumes = find_places(_numbered(), MniSpace(TO_MNI, 0.9), _atlas())
    first, second = places
    assert first.centroid == pytest.approx((-35.0, -11.0, 9.0))
    # x of -42 and -40 lie in the first region, -38 to -28 in the second.
    assert (first.region, first.share) == ("left", 0.75)
    assert (second.region, second.share) == ("", 0.0)
    assert volumes == pytest.approx({"left": 6 * 10 * 10 * 0.008, "far left": 2 * 10 * 10 * 0.008})
    assert list(volumes) == ["left", "far left"]


def test_the_storage_order_does_not_matter() -> None:
    numbered = _numbered()
    places, volumes = find_places(numbered.reorient("PLI"), MniSpace(TO_MNI), _atlas())
    again, same = find_places(numbered, MniSpace(TO_MNI), _atlas())
    assert volumes == same
    for one, other in zip(places, again, strict=True):
        assert one.centroid == pytest.approx(other.centroid)
        assert (one.region, one.share) == (other.region, other.share)


def test_without_a_lesion_or_a_place_there_is_nothing() -> None:
    numbered = _numbered()
    empty = Volume(torch.zeros_like(numbered.data), numbered.affine)
    assert find_places(empty, MniSpace(TO_MNI), _atlas()) == ([], {})
    assert find_places(numbered, MniSpace(), _atlas()) == ([], {})
    assert coarse_map(numbered, MniSpace()) is None


def test_the_coarse_map_keeps_volume_and_centre() -> None:
    data = (_numbered().data == 1).to(torch.uint8)
    mask = Volume(data, _numbered().affine)
    coarse = coarse_map(mask, MniSpace(TO_MNI))
    assert coarse is not None
    assert float(coarse.data.sum()) * coarse.voxel_volume == pytest.approx(6.4, rel=0.05)
    index = coarse.data[0].nonzero()
    weight = coarse.data[0][tuple(index.T)].double()
    points = index.double() @ coarse.affine[:3, :3].T + coarse.affine[:3, 3]
    centre = (points * weight[:, None]).sum(0) / weight.sum()
    torch.testing.assert_close(centre, torch.tensor([-35.0, -11.0, 9.0]).double(), atol=0.5, rtol=0)


def test_a_registration_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = Volume(torch.rand(1, 40, 40, 40), torch.eye(4))
    brain = Volume(torch.ones(1, 40, 40, 40, dtype=torch.uint8), torch.eye(4))
    unknown = find_mni_space(scan, None)
    assert (unknown.affine, unknown.problem) == (None, "")

    def lost(*_: object, **__: object) -> ScanRegistration:
        raise RegistrationError("it went astray")

    monkeypatch.setattr(REGISTER, lost)
    failed = find_mni_space(scan, brain)
    assert failed.affine is None
    assert failed.problem == "the registration to MNI space failed: it went astray"
    monkeypatch.setattr(REGISTER, lambda *_, **__: ScanRegistration(TO_MNI, 0.6))
    poor = find_mni_space(scan, brain)
    assert (poor.affine, poor.overlap) == (None, 0.6)
    assert "overlap by 0.60, expected at least 0.85" in poor.problem
    monkeypatch.setattr(REGISTER, lambda *_, **__: ScanRegistration(TO_MNI, 0.9))
    assert find_mni_space(scan, brain).problem == ""


def test_a_large_stroke_does_not_spoil_the_place() -> None:
    grid = torch.from_numpy(affine())
    brain = torch.from_numpy(tissue().template > 0)
    stroke = torch.zeros_like(brain)
    stroke[:38, 25:95, 20:70] = True
    stroke &= brain
    assert float(stroke.sum()) * 0.008 > 250
    scan = Volume(torch.from_numpy(tissue().template)[None].clone(), grid)
    scan.data[0][stroke] *= 0.4
    healthy, lesion = (Volume(mask[None].to(torch.uint8), grid) for mask in (brain & ~stroke, stroke))
    assert "failed" in find_mni_space(scan, healthy).problem
    whole = find_mni_space(scan, with_lesion(healthy, lesion))
    assert whole.overlap is not None
    assert whole.overlap > 0.95
    assert with_lesion(None, lesion) is None
    nothing = Volume(torch.zeros_like(healthy.data), grid)
    assert with_lesion(nothing, lesion) is nothing
