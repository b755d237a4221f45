import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to
from nibabel.spatialimages import SpatialImage
from scipy import ndimage
from torch import Tensor

from anystroke.core.grids import keep_volume, resample
from anystroke.core.rng import stream
from stand_in import axial_affine, phantom, rotation

SHAPE = (14, 17, 12)


def _data(channels: int = 1) -> Tensor:
    return torch.rand(channels, *SHAPE, generator=stream(1, "data"))


def _interior(to_source: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Mark the voxels whose centres lie between voxel centres of the source."""
    index = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij"))
    place = torch.einsum("ij,jxyz->ixyz", to_source[:3, :3], index) + to_source[:3, 3].view(3, 1, 1, 1)
    upper = torch.tensor(SHAPE, dtype=torch.float64).view(3, 1, 1, 1) - 1
    return ((place >= 0) & (place <= upper)).all(dim=0)


def _scaled(*scales: float, shift: float = 0.0) -> Tensor:
    to_source = torch.diag(torch.tensor([*scales, 1.0], dtype=torch.float64))
    to_source[:3, 3] = shift
    return to_source


PERMUTED = torch.tensor(
    [[0, -0.7, 0, 13], [0, 0, 1.3, 0.2], [0.5, 0, 0, 1.1], [0, 0, 0, 1]], dtype=torch.float64
)
OBLIQUE = rotation(20.0, 35.0) @ _scaled(0.8, 0.9, 1.1, shift=1.0)
SHEARED = OBLIQUE @ torch.tensor(
    [[1, 0.2, 0, 0], [0, 1, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64
)
MAPPINGS = {
    "finer": _scaled(0.5, 0.7, 0.6, shift=0.31),
    "permuted": PERMUTED,
    "oblique": OBLIQUE,
    "sheared": SHEARED,
}


@pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=MAPPINGS.keys())
def test_linear_agrees_with_scipy(mapping: Tensor) -> None:
    data, shape = _data(), (15, 16, 13)
    ours = resample(data, mapping, shape)[0].numpy()
    golden = ndimage.affine_transform(
        data[0].numpy(), mapping[:3, :3].numpy(), mapping[:3, 3].numpy(), shape, order=1, mode="nearest"
    )
    inside = _interior(mapping, shape).numpy()
    assert inside.sum() > 200
    # The oblique way computes coordinates in float32: 1e-6 of the size of the grid.
    np.testing.assert_allclose(ours[inside], golden[inside], atol=2e-5)


@pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=MAPPINGS.keys())
def test_nearest_agrees_with_scipy(mapping: Tensor) -> None:
    labels, shape = (_data() * 1000).to(torch.int32), (15, 16, 13)
    ours = resample(labels, mapping, shape, "nearest")[0].numpy()
    golden = ndimage.affine_transform(
        labels[0].numpy(), mapping[:3, :3].numpy(), mapping[:3, 3].numpy(), shape, order=0, mode="nearest"
    )
    inside = _interior(mapping, shape).numpy()
    # Half-way positions may round either way.
    assert (ours[inside] != golden[inside]).mean() < 0.02


def test_linear_agrees_with_nibabel_between_worlds() -> None:
    shape, other = (20, 22, 18), (17, 19, 21)
    source = axial_affine(4.0, 4.0, 4.0, shape=shape)
    target = rotation(15.0, -10.0) @ axial_affine(3.0, 3.5, 2.5, shape=other)
    volume = phantom(source, shape)
    image = SpatialImage(volume.data[0].numpy(), source.numpy())
    golden = resample_from_to(image, (other, target.numpy()), order=1, mode="nearest").get_fdata()
    ours = volume.resample_to(target, other).data[0].numpy()
    covered = np.abs(ours) > 0
    assert covered.mean() > 0.5
    np.testing.assert_allclose(ours[covered], golden[covered], atol=0.01)  # of intensities up to 300


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("antialias", [False, True])
def test_identity_returns_the_very_values(mode: Literal["linear", "nearest"], antialias: bool) -> None:
    data = _data(2)
    affine = rotation(31.0, 12.0) @ _scaled(1.1, 0.9, 3.0, shift=-40.0)
    to_source = torch.linalg.inv(affine) @ affine
    assert torch.equal(resample(data, to_source, SHAPE, mode, antialias=antialias), data)


def test_whole_voxel_shift_copies_and_fills() -> None:
    data = _data()
    shifted = resample(data, _scaled(1, 1, 1, shift=2.0), SHAPE, fill=-7.0)
    assert torch.equal(shifted[:, :-2, :-2, :-2], data[:, 2:, 2:, 2:])
    assert bool((shifted[:, -2:] == -7.0).all())


@pytest.mark.parametrize("angle", [0.0, 25.0])
def test_edge_is_held_for_half_a_voxel_then_filled(angle: float) -> None:
    data = torch.full((1, 9, 9, 9), 5.0)
    to_source = rotation(0.0, angle)
    to_source[:3, 3] = (
        torch.tensor([4.0, 4.0, 8.45]) - to_source[:3, :3] @ torch.tensor([4.0, 4.0, 0.0]).double()
    )
    values = resample(data, to_source, (9, 9, 2), fill=-1.0)[0, 4, 4]
    assert values.tolist() == [5.0, -1.0]


def test_oblique_and_parallel_ways_agree() -> None:
    data = _data()
    parallel = _scaled(0.8, 0.9, 0.7, shift=0.4)
    nearly = parallel.clone()
    nearly[0, 1] = 3e-5  # enough to take the oblique way, too little to matter
    difference = (resample(data, parallel, SHAPE) - resample(data, nearly, SHAPE)).abs()
    assert float(difference[:, :12, :12, :12].max()) < 1e-3


def test_single_slices_are_sampled_by_both_ways() -> None:
    data = torch.rand(1, 8, 8, 1)
    assert torch.equal(resample(data, _scaled(1, 1, 0.4), (8, 8, 2))[..., 1:], data)
    tilted = _scaled(1, 1, 1)
    tilted[0, 1] = 0.01
    assert torch.allclose(resample(data, tilted, (7, 8, 1))[:, :, 0], data[:, :7, 0], atol=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_antialias_suppresses_what_the_coarse_grid_cannot_hold(degrees: float) -> None:
    x = torch.arange(64.0).view(1, 64, 1, 1).expand(1, 64, 64, 64)
    stripes = torch.cos(math.pi * x)  # the finest pattern there is: no coarse grid can show it
    to_source = _scaled(4, 4, 4)
    centre = torch.full((3,), 31.5, dtype=torch.float64)
    to_source[:3, :3] = rotation(0.0, degrees)[:3, :3] * 4
    to_source[:3, 3] = centre - to_source[:3, :3] @ torch.full((3,), 5.3, dtype=torch.float64)
    plain = resample(stripes, to_source, (11, 11, 11))[:, 2:9, 2:9, 2:9]
    smooth = resample(stripes, to_source, (11, 11, 11), antialias=True)[:, 2:9, 2:9, 2:9]
    assert float(plain.abs().max()) > 0.3
    assert float(smooth.abs().max()) < 0.02


def test_antialias_keeps_constants_and_the_width_it_promises() -> None:
    assert torch.allclose(
        resample(torch.ones(1, 30, 30, 30), _scaled(3, 3, 3), (10, 10, 10), antialias=True), torch.ones(1)
    )
    point = torch.zeros(1, 61, 1, 1)
    point[0, 30] = 1.0
    starts = (_scaled(3, 1, 1) + _shift(start) for start in range(3))
    profiles = [resample(point, start, (20, 1, 1), antialias=True)[0, :, 0, 0] for start in starts]
    profile = torch.stack(profiles, dim=1).flatten()
    place = torch.arange(60.0) - 30
    variance = float((profile * place**2).sum() / profile.sum())
    assert variance == pytest.approx((3**2 - 1) / (8 * math.log(2)), rel=0.02)


def _shift(amount: float) -> Tensor:
    shift = torch.zeros(4, 4, dtype=torch.float64)
    shift[0, 3] = amount
    return shift


def test_channels_are_resampled_alike() -> None:
    data = _data(3)
    for mapping in (PERMUTED, OBLIQUE):
        together = resample(data, mapping, SHAPE)
        alone = torch.cat([resample(data[i : i + 1], mapping, SHAPE) for i in range(3)])
        assert torch.allclose(together, alone, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    angles=st.tuples(st.floats(-180, 180), st.floats(-180, 180)),
    spacing=st.tuples(*[st.floats(0.5, 1.5)] * 3),
    slope=st.tuples(*[st.floats(-1, 1)] * 3),
)
def test_linear_functions_are_reproduced_on_any_grid(
    angles: tuple[float, float], spacing: tuple[float, float, float], slope: tuple[float, float, float]
) -> None:
    index = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing="ij")
    data = sum((s * i for s, i in zip(slope, index, strict=True)), torch.zeros(SHAPE))[None]
    to_source = rotation(*angles) @ _scaled(*spacing)
    middle = torch.tensor([(n - 1) / 2 for n in SHAPE], dtype=torch.float64)
    to_source[:3, 3] = middle - to_source[:3, :3] @ torch.full((3,), 4.0, dtype=torch.float64)
    result = resample(data, to_source, (9, 9, 9))[0]
    place = torch.meshgrid(*(torch.arange(9.0) for _ in range(3)), indexing="ij")
    world = torch.einsum("ij,jxyz->ixyz", to_source[:3, :3].float(), torch.stack(place))
    expected = (
        (world + to_source[:3, 3].float().view(3, 1, 1, 1)) * torch.tensor(slope).view(3, 1, 1, 1)
    ).sum(0)
    inside = _interior(to_source, (9, 9, 9))
    # 1e-4 of a voxel may be snapped away on each axis.
    assert float((result - expected)[inside].abs().max()) < 5e-4


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), wanted=st.floats(0, 200))
def test_volume_is_kept_as_near_as_can_be(seed: int, wanted: float) -> None:
    share = torch.rand(5, 6, 7, generator=stream(seed, "share"))
    assert int(keep_volume(share, wanted).sum()) == max(round(wanted), 1)
    assert not keep_volume(torch.zeros(3, 3, 3), wanted).any()
