import pathlib
from typing import Any, Literal

import matplotlib.image
import numpy as np
import pytest
import torch

from anystroke.core.volume import Volume, VolumeError
from anystroke.reports.mosaic import mosaic
from stand_in import axial_affine, phantom

SHAPE = (48, 56, 44)
AFFINE = axial_affine(4.0, 4.0, 4.0, shape=SHAPE)


def _draw(
    folder: pathlib.Path, scan: Volume, mask: Volume, convention: str = "radiological"
) -> np.ndarray[Any, Any]:
    path = folder / "picture.png"
    kind: Literal["radiological", "neurological"] = "radiological" if convention[0] == "r" else "neurological"
    mosaic(scan, mask, path, convention=kind, overwrite=True)
    return np.asarray(matplotlib.image.imread(path))[..., :3]


def _red(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(picture[..., 0] - picture[..., 1] > 0.2)


def _lesion(scan: Volume) -> Volume:
    """A mask in the left hemisphere (x < 0)."""
    mask = torch.zeros(scan.shape)
    mask[12:18, 20:26, 15:30] = 1
    return Volume(mask[None].to(torch.uint8), scan.affine)


@pytest.mark.parametrize(("convention", "right"), [("radiological", True), ("neurological", False)])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "ASL"])
def test_left_lesion_is_on_the_stated_side(
    tmp_path: pathlib.Path, convention: str, right: bool, orientation: str
) -> None:
    scan = phantom(AFFINE, SHAPE)
    picture = _draw(tmp_path, scan.reorient(orientation), _lesion(scan).reorient(orientation), convention)
    height, width = picture.shape[:2]
    first = _red(picture)[40 : 40 + (height - 40) // 3, : width // 6]  # the first axial panel
    columns = np.flatnonzero(first.any(axis=0))
    assert columns.size
    assert (columns.mean() > width / 12) == right


def test_no_lesion_draws_the_head_without_colour(tmp_path: pathlib.Path) -> None:
    scan = phantom(AFFINE, SHAPE)
    picture = _draw(tmp_path, scan, Volume(torch.zeros(1, *SHAPE), AFFINE))
    assert not _red(picture).any()
    assert (picture.mean(axis=2) > 0.3).mean() > 0.1


def test_thick_slices_keep_their_proportions(tmp_path: pathlib.Path) -> None:
    shape = (48, 56, 22)
    affine = axial_affine(4.0, 4.0, 8.0, shape=shape)
    thick = phantom(affine, shape)
    empty = Volume(torch.zeros(1, *shape), affine)
    ratios = []
    for scan, mask in ((thick, empty), (phantom(AFFINE, SHAPE), Volume(torch.zeros(1, *SHAPE), AFFINE))):
        picture = _draw(tmp_path, scan, mask)
        height, width = picture.shape[:2]
        panel = picture[height - 190 :, width // 6 : width // 3].mean(axis=2) > 0.15  # a coronal one
        rows, columns = (np.flatnonzero(panel.any(axis=a)) for a in (1, 0))
        ratios.append(np.ptp(rows) / np.ptp(columns))
    assert ratios[0] == pytest.approx(ratios[1], rel=0.12)


def test_few_slices_and_flat_images_can_be_drawn(tmp_path: pathlib.Path) -> None:
    for shape in ((20, 20, 1), (20, 1, 20), (3, 3, 3)):
        scan = Volume(torch.ones(1, *shape), torch.eye(4))
        _draw(tmp_path, scan, Volume(torch.ones(1, *shape), torch.eye(4)))


def test_mismatch_and_existing_files_are_refused(tmp_path: pathlib.Path) -> None:
    scan = phantom(AFFINE, SHAPE)
    with pytest.raises(VolumeError, match="one grid"):
        mosaic(scan, Volume(torch.zeros(1, 4, 4, 4), AFFINE), tmp_path / "a.png")
    (tmp_path / "a.png").touch()
    with pytest.raises(FileExistsError):
        mosaic(scan, _lesion(scan), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size == 0


def test_pictures_are_the_same_each_time(tmp_path: pathlib.Path) -> None:
    scan = phantom(AFFINE, SHAPE)
    for name in ("a.png", "b.png"):
        mosaic(scan, _lesion(scan), tmp_path / name, title="a $title$ with_signs")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
