import math

import pytest
import torch

from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.core.rng import stream
from anystroke.corruption.susceptibility import (
    SUSCEPTIBILITY,
    dipole_field,
    shim_coefficients,
    shimmed,
    solid_harmonics,
    susceptibility_table,
)


def _sphere(side: int, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the share of each voxel in a sphere, from parts, and the voxels' places."""
    fine = 4 * side
    line = (torch.arange(fine) + 0.5) / 4 - side / 2
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    inside = ((x**2 + y**2 + z**2) <= radius**2).float()
    share = torch.nn.functional.avg_pool3d(inside[None], 4)[0]
    coarse = torch.arange(side) + 0.5 - side / 2
    return share, torch.stack(torch.meshgrid(coarse, coarse, coarse, indexing="ij"))


@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), (0.0, 2.0, 0.0), (0.3, -0.5, 0.8)])
def test_a_sphere_has_the_field_of_a_dipole_outside_and_none_inside(
    direction: tuple[float, float, float],
) -> None:
    radius, contrast = 6.0, 9.4
    share, places = _sphere(40, radius)
    field = dipole_field(contrast * share, 2.0, direction, margin=2.0)
    distance = places.square().sum(0).sqrt()
    unit = torch.tensor(direction) / math.sqrt(sum(part**2 for part in direction))
    cosine = (places * unit[:, None, None, None]).sum(0) / distance
    expected = contrast / 3 * (radius / distance) ** 3 * (3 * cosine**2 - 1)
    outside = (distance > radius + 2) & (distance < 16)
    largest = 2 / 3 * contrast
    assert float((field - expected)[outside].abs().max()) < 0.03 * largest
    assert float((field - expected)[outside].square().mean().sqrt()) < 0.006 * largest
    # Within, the edges of voxels ring.
    assert float(field[distance < radius - 2].square().mean().sqrt()) < 0.025 * largest


def test_the_field_is_linear_and_does_not_depend_on_voxel_size_or_a_constant() -> None:
    share, _ = _sphere(16, 4.0)
    once = dipole_field(share, 1.0)
    torch.testing.assert_close(dipole_field(3 * share, 5.0), 3 * once, atol=1e-5, rtol=1e-4)
    moved = dipole_field(share.roll(2, 0), 1.0)
    torch.testing.assert_close(moved[3:13], once[1:11], atol=2e-3, rtol=0)


def test_more_margin_changes_little() -> None:
    share, _ = _sphere(32, 6.0)
    near, far = dipole_field(share, 1.0, margin=1.0), dipole_field(share, 1.0, margin=3.0)
    assert float((near - far).abs().max()) < 0.01


@pytest.mark.parametrize("bad", [{"direction": (0.0, 0.0, 0.0)}, {"margin": -1.0}, {"spacing": 0.0}])
def test_what_makes_no_sense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        dipole_field(torch.zeros(4, 4, 4), **{"spacing": 1.0, **bad})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected susceptibilities"):
        dipole_field(torch.zeros(4, 4), 1.0)


def test_every_tissue_has_a_susceptibility_and_soft_ones_are_near_water() -> None:
    assert set(SUSCEPTIBILITY) == set(TISSUES)
    table = susceptibility_table()
    assert float(table[TISSUES.index("background")]) == 0
    for tissue in TISSUES[1:12]:
        assert float(table[TISSUES.index(tissue)]) == pytest.approx(-9.41, abs=1.0)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_shim_removes_harmonics_of_its_order_and_no_more(order: int) -> None:
    points = torch.rand((3, 500), generator=stream(1, "points")) * 2 - 1
    harmonics = solid_harmonics(points, 2)
    terms = (1, 4, 9)[order]
    field = torch.arange(1.0, 10.0) @ harmonics
    left = field - shim_coefficients(field, points, order=order) @ solid_harmonics(points, order)
    assert (float(left.std()) < 1e-4) == (order == 2)
    exact = torch.arange(1.0, terms + 1) @ solid_harmonics(points, order)
    coefficients = shim_coefficients(exact, points, order=order)
    torch.testing.assert_close(coefficients, torch.arange(1.0, terms + 1), atol=1e-4, rtol=1e-4)


def test_harmonics_have_no_sources() -> None:
    line = torch.linspace(-1, 1, 9, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"))
    for harmonic in solid_harmonics(points.flatten(1), 2).reshape(-1, 9, 9, 9):
        inner = (slice(1, -1),) * 3
        laplacian = -6 * harmonic[inner]
        for axis in range(3):
            laplacian += harmonic.roll(1, axis)[inner] + harmonic.roll(-1, axis)[inner]
        assert float(laplacian.abs().max()) < 1e-12


def test_a_shim_of_higher_order_leaves_less_within_the_region() -> None:
    share, places = _sphere(24, 4.0)
    field = dipole_field(share, 1.0)
    region = (places[2] > 5).float()
    left = [shimmed(field, region, order=order)[region > 0.5] for order in (0, 1, 2)]
    assert float(left[2].std()) < float(left[1].std()) < float(left[0].std())
    for each in left:
        assert abs(float(each.mean())) < 1e-5
