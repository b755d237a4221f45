import math
from typing import Any

import pytest
import torch

from anystroke.corruption.scanner import Scan, ScannerSettings, acquire_scan

STILL = ScannerSettings(
    blur=0, receive_strength=0, snr=(1e5, 1.001e5), several_channels=0, thick_slices=0, few_lines=0,
    motion=0, ghosts=0, spikes=0, clipped=0, surface_coils=0, uneven_slices=0,
)  # fmt: skip
SIDE = 60


def _scan(key: int, weighting: str = "T2w", **changes: Any) -> Scan:
    """Scan a block with an edge across each axis."""
    signal = torch.zeros(SIDE, SIDE, SIDE)
    signal[20:41, 20:41, 20:41] = 100.0
    return acquire_scan(
        signal.clone(), signal > 0, spacing=1.0, weighting=weighting,
        settings=STILL.model_copy(update=changes), key=key, change=signal.clone(),
    )  # fmt: skip


def _rise(image: torch.Tensor, axis: int) -> float:
    """Measure how many voxels an edge takes from 10 to 90 % [voxels], along an axis through the middle."""
    middle: list[Any] = [30, 30, 30]
    middle[axis] = slice(8, 30)
    line = image[tuple(middle)].cummax(0).values
    at = [float((line < share * line[-1]).sum()) for share in (0.1, 0.9)]
    return at[1] - at[0]


@pytest.mark.parametrize("weighting", ["T1w", "FLAIR", "DWI"])
def test_large_voxels_blur_edges_within_slices_as_much_as_they_are_large(weighting: str) -> None:
    rises = []
    for size in (1.0, 3.0, 6.0):
        scan = _scan(1, weighting, large_voxels=1.0, voxel_size=(size, size * 1.0001))
        assert scan.facts["voxel_size"] == pytest.approx(size, rel=1e-3)
        rises.append(sum(sorted(_rise(scan.image, axis) for axis in range(3))[-2:]) / 2)
    assert rises[0] == 0
    assert rises[1] >= 1
    assert rises[2] >= rises[1] + 2


def test_half_of_the_scans_of_large_voxels_have_them_across_the_slices_too() -> None:
    across = [
        _rise(_scan(key, "DWI", large_voxels=1.0, voxel_size=(5.0, 5.001)).image, 2) > 0 for key in range(24)
    ]
    assert 6 <= sum(across) <= 18


def test_thick_slices_stay_as_thick_as_they_were_drawn() -> None:
    thick = {"thick_slices": 1.0, "slice_thickness": (6.0, 6.001)}
    plain, large = (_scan(3, "DWI", **thick, large_voxels=p, voxel_size=(2.0, 2.001)) for p in (0.0, 1.0))
    assert plain.facts["slice_thickness"] == large.facts["slice_thickness"]
    assert _rise(plain.image, 2) == _rise(large.image, 2)
    assert _rise(plain.image, 0) == 0 < _rise(large.image, 0)


def test_whether_voxels_are_large_changes_no_other_draw() -> None:
    without, never = _scan(5, few_lines=1.0), _scan(5, few_lines=1.0, large_voxels=0.0, voxel_size=(1.0, 9.0))
    assert torch.equal(without.image, never.image)
    large = _scan(5, few_lines=1.0, large_voxels=1.0)
    assert without.facts["encoded_share"] == large.facts["encoded_share"]


def test_what_a_lesion_changes_is_blurred_as_the_scan_is() -> None:
    sharp, blurred = _scan(7), _scan(7, large_voxels=1.0, voxel_size=(4.0, 4.001))
    assert sharp.change is not None
    assert blurred.change is not None
    apart = float((blurred.change.abs() - blurred.image).abs().mean())  # a magnitude rings upwards
    assert apart < 0.3 * float((sharp.change - blurred.image).abs().mean())


def test_voxels_are_never_smaller_than_those_of_the_grid() -> None:
    scan = _scan(9, large_voxels=1.0, voxel_size=(0.4, 0.5))
    assert scan.facts["voxel_size"] == 1.0
    assert math.isclose(float(scan.image[30, 30, 30]), 100.0, rel_tol=1e-3)
