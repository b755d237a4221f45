from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from anystroke.core.volume import Volume
from anystroke.reports.glass_brain import glass_brain, overlap


def _lesion(x: int) -> Volume:
    affine = torch.diag(torch.tensor([3.0, 3, 3, 1], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-97.0, -133, -71])
    data = torch.zeros(1, 66, 78, 63)
    data[:, x : x + 8, 30:40, 20:30] = 1.0
    return Volume(data, affine)


def _red(path: Path) -> np.ndarray:
    """Where a picture is red."""
    rgb = imread(path)[..., :3]
    return np.asarray(rgb[..., 0] - rgb[..., 1:].max(axis=-1) > 0.3)


def test_a_left_lesion_is_drawn_on_the_left(tmp_path: Path) -> None:
    glass_brain(_lesion(10), tmp_path / "left.png", title="a scan")
    glass_brain(_lesion(48), tmp_path / "right.png", title="a scan")
    left, right = _red(tmp_path / "left.png"), _red(tmp_path / "right.png")
    third = slice(round(0.37 * left.shape[1]), round(0.7 * left.shape[1]))  # seen from the back
    assert left[:, third].nonzero()[1].mean() < right[:, third].nonzero()[1].mean() - 100
    side = slice(0, round(0.37 * left.shape[1]))
    assert left[:, side].sum() == pytest.approx(right[:, side].sum(), rel=0.02)


def test_without_a_lesion_the_brain_is_empty(tmp_path: Path) -> None:
    empty = Volume(torch.zeros_like(_lesion(10).data), _lesion(10).affine)
    glass_brain(empty, tmp_path / "empty.png")
    assert not _red(tmp_path / "empty.png").any()


def test_overlap_counts_scans(tmp_path: Path) -> None:
    small = Volume(0.2 * _lesion(10).data, _lesion(10).affine)
    total = overlap([_lesion(10), _lesion(14), small])
    assert torch.unique(total.data).tolist() == [0, 1, 2, 3]
    assert float(total.data.sum()) == 3 * 8 * 10 * 10
    glass_brain(total, tmp_path / "all.png", title="3 scans", count=3)
    assert _red(tmp_path / "all.png").any()
    with pytest.raises(ValueError, match="at least one map"):
        overlap([])
