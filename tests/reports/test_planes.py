from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from anystroke.core.volume import Volume, VolumeError
from anystroke.reports.planes import comparison

AFFINE = torch.diag(torch.tensor([2.0, 2, 4, 1]))


def _volumes() -> tuple[Volume, Volume, Volume]:
    data = torch.zeros(1, 24, 28, 12)
    data[:, 4:20, 4:24, 2:10] = 0.5
    predicted, true = torch.zeros_like(data, dtype=torch.bool), torch.zeros_like(data, dtype=torch.bool)
    predicted[:, 5:8, 6:12, 4:8] = True
    true[:, 5:8, 10:16, 4:8] = True
    return Volume(data, AFFINE), Volume(predicted, AFFINE), Volume(true, AFFINE)


def _coloured(picture: np.ndarray[tuple[int, ...], np.dtype[np.float32]], channel: int) -> float:
    """Mean column, 0 to 1, of pixels that are clearly of one primary colour."""
    others = [c for c in range(3) if c != channel]
    hits = np.nonzero(picture[..., channel] - picture[..., others].max(-1) > 0.3)
    return float(hits[1].mean()) / picture.shape[1] if hits[0].size > 50 else float("nan")


def test_the_prediction_is_red_in_the_middle_column(tmp_path: Path) -> None:
    scan, predicted, true = _volumes()
    comparison(scan, predicted, true, tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")
    assert 1 / 3 < _coloured(picture, 0) < 2 / 3
    comparison(scan, Volume(torch.zeros_like(true.data), AFFINE), true, tmp_path / "b.png")
    # What red is left is the column's title.
    assert not np.array_equal(imread(tmp_path / "b.png"), picture)


def test_orientation_does_not_change_the_picture(tmp_path: Path) -> None:
    volumes = _volumes()
    comparison(*volumes, tmp_path / "a.png")
    scan, predicted, true = (volume.reorient("PSL") for volume in volumes)
    comparison(scan, predicted, true, tmp_path / "b.png")
    assert np.array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "b.png"))


def test_masks_that_are_empty_or_do_not_fit(tmp_path: Path) -> None:
    scan, predicted, true = _volumes()
    empty = Volume(torch.zeros_like(true.data), AFFINE)
    comparison(scan, empty, empty, tmp_path / "empty.png")
    with pytest.raises(VolumeError, match="one grid"):
        comparison(scan, predicted, Volume(true.data[:, 1:], AFFINE), tmp_path / "c.png")
    with pytest.raises(FileExistsError):
        comparison(scan, predicted, true, tmp_path / "empty.png")
