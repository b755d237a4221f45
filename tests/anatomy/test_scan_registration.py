import math
from pathlib import Path

import numpy as np
import pytest
import torch
from nilearn.datasets import load_mni152_template
from torch import Tensor

from anystroke.anatomy.lesions.bank import load_masks
from anystroke.anatomy.registration import mni as scan_registration
from anystroke.anatomy.registration.affine import RegistrationError
from anystroke.anatomy.registration.mni import ScanRegistration, lesion_in_mni, mni_grid, register_scan
from anystroke.core.volume import Volume

PLACE = (-38.0, -20.0, 12.0)


def known_affine() -> Tensor:
    """Scan mm -> MNI mm: a tilted, smaller head, off the centre."""
    c, s = math.cos(math.radians(14)), math.sin(math.radians(14))
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.tensor([[1.0, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64) * 1.08
    affine[:3, 3] = torch.tensor([11.0, -24.0, 18.0])
    return affine


def scan_of_mni() -> tuple[Volume, Volume, Volume]:
    """MNI152 in the space of a patient, in another contrast: the scan, its brain, a ball of 12 mm in it."""
    image = load_mni152_template(resolution=2)
    template = torch.from_numpy(np.array(image.dataobj, dtype=np.float32))
    to_scan = torch.linalg.inv(known_affine()) @ torch.from_numpy(image.affine.astype(np.float64))
    x, y, z = torch.meshgrid(*(torch.arange(n) for n in template.shape), indexing="ij")
    world = torch.stack([x, y, z, torch.ones_like(x)]).double().flatten(1)
    points = (torch.from_numpy(image.affine.astype(np.float64)) @ world)[:3]
    distance = (points - torch.tensor(PLACE).double()[:, None]).norm(dim=0).reshape(template.shape)
    inside = template > 0.05  # interpolation leaves traces outside
    contrast = torch.where(inside, 1.4 - template, 0.0) * 300
    grid = torch.diag(torch.tensor([-2.5, 2.5, 3.0, 1.0], dtype=torch.float64))
    grid[:3, 3] = torch.tensor([90.0, -110.0, -95.0])
    scan, brain, ball = (
        Volume(data[None].float(), to_scan).resample_to(grid, (76, 88, 66))
        for data in (contrast, inside, distance < 12)
    )
    brain, ball = (Volume((each.data > 0.5).to(torch.uint8), grid) for each in (brain, ball))
    return scan, brain, ball


@pytest.fixture(scope="module")
def found() -> ScanRegistration:
    scan, brain, _ = scan_of_mni()
    return register_scan(scan, brain=brain)


def test_the_result_depends_on_the_input_alone(found: ScanRegistration) -> None:
    scan, brain, _ = scan_of_mni()
    assert torch.equal(register_scan(scan, brain=brain).affine, found.affine)


def test_a_known_affine_is_found_whatever_the_contrast(found: ScanRegistration) -> None:
    axis = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    corners = torch.cartesian_prod(axis * 60, axis * 80 - 18, axis * 60 + 5, torch.ones(1).double())
    back = corners @ torch.linalg.inv(known_affine()).T
    assert float((back @ found.affine.T - corners).norm(dim=1).max()) < 2
    assert found.overlap > 0.95


def test_a_lesion_comes_to_its_place(
    found: ScanRegistration, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scan, _, ball = scan_of_mni()
    monkeypatch.setattr(scan_registration, "register_scan", lambda *_, **__: found)
    lesion = lesion_in_mni(ball, scan)
    assert lesion.shape == (197, 233, 189)
    assert lesion.space_code == 4
    lesion.save(tmp_path / "ball.nii.gz")
    [mask] = load_masks([tmp_path / "ball.nii.gz"])
    assert float((mask.centre - torch.tensor(PLACE).double()).norm()) < 3
    assert mask.volume_ml == pytest.approx(4 / 3 * math.pi * 12**3 / 1000, rel=0.1)
    empty = Volume(torch.zeros_like(ball.data), ball.affine)
    assert not lesion_in_mni(empty, scan).data.any()


def test_a_poor_registration_is_refused(found: ScanRegistration, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, _, ball = scan_of_mni()
    poor = ScanRegistration(found.affine, 0.6)
    monkeypatch.setattr(scan_registration, "register_scan", lambda *_, **__: poor)
    with pytest.raises(RegistrationError, match=r"overlap by 0\.60, expected at least 0\.85"):
        lesion_in_mni(ball, scan)


def test_scans_without_a_brain_are_refused() -> None:
    scan, brain, _ = scan_of_mni()
    with pytest.raises(RegistrationError, match="it is constant"):
        register_scan(Volume(torch.ones_like(scan.data), scan.affine))
    with pytest.raises(RegistrationError, match="all of it is empty"):
        register_scan(scan, brain=Volume(torch.zeros_like(brain.data), brain.affine))


def test_the_template_is_that_of_nilearn() -> None:
    affine, shape = mni_grid()
    image = load_mni152_template(resolution=1)
    read = scan_registration._template_image()
    np.testing.assert_array_equal(read.affine, image.affine)
    data = np.asarray(read.dataobj, dtype=np.float32)
    np.testing.assert_allclose(data / data.max(), np.asarray(image.dataobj), atol=1e-6)
    low, high = (
        affine @ torch.tensor([*corner, 1.0]).double() for corner in ((-0.5,) * 3, [n - 0.5 for n in shape])
    )
    assert float(low[:3].max()) < -70
    assert float(high[:3].min()) > 95
