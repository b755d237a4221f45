from pathlib import Path

import pytest
import torch
from torch import Tensor

from anystroke.anatomy.registration.affine import RegistrationError
from anystroke.anatomy.registration.rigid import register_rigid
from anystroke.core.volume import Volume
from stand_in import rotation

SHAPE = (60, 70, 52)


def head(size: float = 1.0, *, inverted: bool = False) -> Volume:
    """A head without symmetry, in one of two contrasts, 3 mm."""
    affine = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-88.5, -103.5, -76.5])
    i, j, k = torch.meshgrid(*(torch.arange(n).double() for n in SHAPE), indexing="ij")
    x, y, z = (
        (index * 3 + start) / size for index, start in zip((i, j, k), (-88.5, -103.5, -76.5), strict=True)
    )
    data = torch.zeros(SHAPE, dtype=torch.float64)
    levels = (1.0, 0.55, 0.8, 0.3, 0.9, 0.45) if not inverted else (0.4, 0.9, 0.3, 1.0, 0.5, 0.75)
    balls = (
        (0, 0, 0, 70, 85, 62),
        (0, -5, 5, 60, 74, 50),
        (30, 20, 10, 20, 30, 16),
        (-25, -30, 5, 18, 24, 28),
        (-35, 35, -12, 14, 12, 10),
        (12, -50, -20, 22, 14, 12),
    )
    for level, (a, b, c, p, q, r) in zip(levels, balls, strict=True):
        data[((x - a) / p) ** 2 + ((y - b) / q) ** 2 + ((z - c) / r) ** 2 < 1] = level
    return Volume(data[None].float(), affine)


def _far(found: Tensor, true: Tensor) -> float:
    points = torch.tensor([[70.0, 0, 0, 1], [0, 85, 0, 1], [0, 0, 62, 1], [0, 0, 0, 1]], dtype=torch.float64)
    return float((points @ (found - true).T).norm(dim=1).max())


def test_a_moved_head_of_another_contrast_is_found() -> None:
    move = rotation(9.0, -7.0)
    move[:3, 3] = torch.tensor([8.0, -6.0, 12.0])
    moving = Volume(head(inverted=True).data, move @ head().affine)
    found = register_rigid(moving, head())
    assert torch.equal(register_rigid(moving, head()).affine, found.affine)
    assert found.problem == ""
    assert _far(found.affine @ move, torch.eye(4, dtype=torch.float64)) < 1.5
    assert found.rotation == pytest.approx(11.4, abs=1.0)
    assert found.inconsistency < 2
    assert found.stretch < 0.045


def test_a_head_of_another_size_is_not_believed() -> None:
    found = register_rigid(head(0.9, inverted=True), head())
    assert "differ in size" in found.problem or "there and back" in found.problem


def test_nothing_in_it() -> None:
    with pytest.raises(RegistrationError, match="constant"):
        register_rigid(Volume(torch.ones(1, *SHAPE), head().affine), head())


@pytest.mark.real_data
@pytest.mark.slow
def test_contrasts_of_one_patient_and_of_two(data_dir: Path) -> None:
    patient, other = (
        Volume.load(data_dir / "scans" / name)
        for name in ("ms_patient07/T2w.nii.gz", "stroke_arc/M2208_T2w.nii.gz")
    )
    fixed = Volume.load(data_dir / "scans" / "ms_patient07" / "T1w.nii.gz")
    assert register_rigid(patient, fixed).problem == ""
    assert register_rigid(other, fixed).problem
