"""Tissues follow the intensities within the network's voxels, and stay where there is no contrast."""

import torch

from anystroke.core.volume import Volume
from anystroke.tasks.segmentation.tissue_maps import partial_volume, tissues_of_scan
from stand_in import axial_affine

SHAPE = (48, 48, 48)
AFFINE = axial_affine(1.0, 1.0, 1.0, shape=SHAPE)


def _truth() -> torch.Tensor:
    """Folded grey matter around white matter, fluid around both: 0 grey, 1 white, 2 fluid, -1 air."""
    x, y, z = torch.meshgrid(*(torch.arange(float(n)) - n / 2 for n in SHAPE), indexing="ij")
    radius = (x**2 + y**2 + z**2).sqrt() + 1.5 * torch.sin(x) * torch.sin(y) * torch.sin(z)
    labels = torch.full(SHAPE, -1)
    labels[radius < 21] = 2
    labels[radius < 18] = 0
    labels[radius < 14] = 1
    return labels


def _network(truth: torch.Tensor) -> dict[str, Volume]:
    """What a network on a grid of 4 mm would say, in the scan's grid."""
    shares = torch.stack([(truth == i).float() for i in range(3)])
    coarse = torch.nn.functional.avg_pool3d(shares[None], 4)
    wide = torch.nn.functional.interpolate(coarse, SHAPE, mode="trilinear")[0]
    return {
        name: Volume(wide[i : i + 1], AFFINE) for i, name in enumerate(("grey_matter", "white_matter", "csf"))
    }


def _scan(truth: torch.Tensor, levels: tuple[float, float, float]) -> Volume:
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    field = torch.linspace(0.8, 1.25, SHAPE[1]).view(1, -1, 1)
    clean = sum(((truth == i).float() * level for i, level in enumerate(levels)), torch.zeros(SHAPE))
    return Volume((clean * field + 4 * noise).clamp(min=0)[None], AFFINE)


def _right(truth: torch.Tensor, tissues: dict[str, Volume]) -> float:
    best = torch.stack([volume.data[0] for volume in tissues.values()]).argmax(0)
    return float((best == truth)[truth >= 0].float().mean())


def test_tissues_follow_the_intensities_under_a_bias_field() -> None:
    truth = _truth()
    network, empty = _network(truth), Volume(torch.zeros(1, *SHAPE, dtype=torch.uint8), AFFINE)
    for levels in ((70.0, 110.0, 25.0), (110.0, 80.0, 200.0)):
        sharp = tissues_of_scan(_scan(truth, levels), network, empty)
        assert _right(truth, sharp) > max(0.96, _right(truth, network) + 0.05)
        before, after = (sum(v.data for v in each.values()) for each in (network, sharp))
        torch.testing.assert_close(before, after, atol=1e-4, rtol=0)


def test_without_contrast_the_network_is_believed() -> None:
    truth = _truth()
    network, empty = _network(truth), Volume(torch.zeros(1, *SHAPE, dtype=torch.uint8), AFFINE)
    same = tissues_of_scan(_scan(truth, (80.0, 80.0, 80.0)), network, empty)
    assert all(torch.equal(same[name].data, network[name].data) for name in network)
    nothing = {name: Volume(torch.zeros_like(v.data), AFFINE) for name, v in network.items()}
    assert tissues_of_scan(_scan(truth, (70.0, 110.0, 25.0)), nothing, empty) == nothing


def test_partial_volume_needs_a_quarter_of_both() -> None:
    grey = torch.tensor([0.9, 0.74, 0.5, 0.2, 0.3])
    found = partial_volume(torch.tensor([1, 1, 1, 1, 0]).bool(), grey, 1 - grey)
    assert found.tolist() == [False, True, True, False, False]
