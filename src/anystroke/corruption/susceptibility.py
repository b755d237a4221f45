"""The magnetic field that a head disturbs: susceptibilities of tissues, the dipole field, the shim."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.corruption.limits import check_positive, check_within

Triple = tuple[float, float, float]

PROTON_HZ_PER_TESLA = 42.577478518e6
"""Gyromagnetic ratio of the proton over 2 pi [Hz/T], CODATA 2018."""

AIR = 0.36
"""Volume susceptibility of air [ppm, SI]: J. F. Schenck, Med Phys 23:815 (1996)."""

SUSCEPTIBILITY: Mapping[str, float] = MappingProxyType(
    {
        "background": AIR,
        # Water at body temperature, and most soft tissues within 0.1 of it: Schenck 1996.
        "cortical_grey_matter": -9.03,
        "grey_white_partial_volume": -9.04,
        # Myelin is diamagnetic, by about 0.03 against grey matter: J. H. Duyn et al., PNAS 104:11796 (2007).
        "white_matter": -9.06,
        "thalamus": -9.03,
        # Iron, relative to white matter or CSF: C. Langkammer et al., NeuroImage 62:1593 (2012); the values
        # are rounded means over adults.
        "caudate": -8.99,
        "putamen": -8.99,
        "pallidum": -8.91,
        "ventricular_csf": -9.05,
        "sulcal_csf": -9.05,
        # Triglycerides: J. A. Hopkins and F. W. Wehrli, Magn Reson Med 37:494 (1997), 0.6 above water.
        "fat": -8.42,
        "muscle": -9.03,
        # Hopkins and Wehrli 1997: cortical bone is 2.3 (SI) more diamagnetic than marrow fat.
        "cortical_bone": -11.0,
        "bone_marrow": -8.6,
        "skin": -9.05,
        "mucosa": -9.05,
        "vitreous": -9.05,
        # Oxygenation 0.6, haematocrit 0.42: W. M. Spees et al., Magn Reson Med 45:533 (2001).
        "venous_blood": -8.6,
        "arterial_blood": -9.1,
        "choroid_plexus": -9.05,
    }
)
"""Volume susceptibility [ppm, SI] of each of ``TISSUES``."""


def susceptibility_table() -> Tensor:
    """Return (T,) float32, the susceptibility of each of ``TISSUES`` above that of air [ppm].

    Example:
        >>> susceptibility_table()[TISSUES.index("background")]
        tensor(0.)
    """
    return torch.tensor([SUSCEPTIBILITY[tissue] - AIR for tissue in TISSUES])


def dipole_field(
    susceptibility: Tensor, spacing: float, direction: Triple = (0.0, 0.0, 1.0), *, margin: float = 1.0
) -> Tensor:
    """Return how far the field that protons see is from the static field, in ppm of it.

    The sphere of Lorentz is taken out, so the field within a uniform sphere is zero. What is constant over
    the grid is not known to the kernel and set to zero.

    Args:
        susceptibility: (X, Y, Z) [ppm] above that of what surrounds the grid.
        spacing: Voxel size [mm].
        direction: Of the static field along the grid's axes; any length.
        margin: Of surroundings along each axis before the grid repeats, as a multiple of its size.

    Returns:
        (X, Y, Z) float32 [ppm].

    Raises:
        ValueError: If the grid is not 3-D, the direction is null, or a number is out of range.

    Source: R. Salomir et al., Concepts Magn Reson B 19:26 (2003); J. P. Marques and R. Bowtell, Concepts Magn
    Reson B 25:65 (2005).

    Example:
        >>> dipole_field(torch.zeros(4, 4, 4), 3.0).abs().max()
        tensor(0.)
    """
    check_positive("a voxel size", spacing, "mm")
    check_within("a margin", margin, 0.0, 8.0, "times the grid")
    if susceptibility.ndim != 3:
        raise ValueError(f"expected susceptibilities (X, Y, Z), got shape {tuple(susceptibility.shape)}")
    length = math.sqrt(sum(part**2 for part in direction))
    if not 0 < length < math.inf:
        raise ValueError(f"expected a direction of the static field, got {direction}")
    nx, ny, nz = susceptibility.shape
    sizes = [int(next_fast_len(math.ceil(n * (1 + margin)), real=True)) for n in (nx, ny, nz)]
    grown = [edge for n, size in zip((nz, ny, nx), reversed(sizes), strict=True) for edge in (0, size - n)]
    spectrum = torch.fft.rfftn(pad(susceptibility.float(), grown))
    spectrum.mul_(_kernel(sizes, [part / length for part in direction], susceptibility.device))
    field: Tensor = torch.fft.irfftn(spectrum, s=sizes)
    return field[:nx, :ny, :nz]


def _kernel(sizes: list[int], unit: list[float], device: torch.device) -> Tensor:
    frequencies = [
        (torch.fft.rfftfreq if axis == 2 else torch.fft.fftfreq)(n, device=device)
        for axis, n in enumerate(sizes)
    ]
    x, y, z = (f.reshape([-1 if k == axis else 1 for k in range(3)]) for axis, f in enumerate(frequencies))
    along = (x * unit[0] + y * unit[1]) + z * unit[2]
    square = (x.square() + y.square()) + z.square()
    square[0, 0, 0] = 1.0
    kernel: Tensor = along.square_().div_(square).neg_().add_(1 / 3)
    kernel[0, 0, 0] = 0.0
    return kernel


def solid_harmonics(points: Tensor, order: int) -> Tensor:
    """Return the real solid harmonics that shim coils make, up to an order.

    Args:
        points: (3, N), in any unit.
        order: 0, 1 or 2.

    Returns:
        (terms, N): 1; x, y, z; xy, yz, zx, x^2 - y^2, z^2 - (x^2 + y^2) / 2.

    Raises:
        ValueError: If the order is another.

    Source: F. Romeo and D. I. Hoult, Magn Reson Med 1:44 (1984).
    """
    check_within("the order of a shim", order, 0, 2)
    x, y, z = points
    terms = [torch.ones_like(x)]
    if order > 0:
        terms += [x, y, z]
    if order > 1:
        terms += [x * y, y * z, z * x, x**2 - y**2, z**2 - (x**2 + y**2) / 2]
    return torch.stack(terms)


def shim_coefficients(field: Tensor, points: Tensor, *, order: int) -> Tensor:
    """Fit the harmonics to a field, as a scanner's shim procedure does.

    Args:
        field: (N,) at the points of the region that is shimmed.
        points: (3, N); scale them so that the region has a size of about one.
        order: Of the shim, 0 to 2.

    Returns:
        (terms,) float32: subtract ``shim_coefficients @ solid_harmonics`` to shim.

    Raises:
        ValueError: If there are fewer points than harmonics.
    """
    harmonics = solid_harmonics(points.double(), order)
    if harmonics.shape[1] < harmonics.shape[0]:
        raise ValueError(
            f"expected at least {harmonics.shape[0]} points to shim order {order}, got {harmonics.shape[1]}"
        )
    normal = harmonics @ harmonics.T
    # Points in one plane leave a harmonic open; the least of its multiples will do.
    normal += 1e-9 * normal.diagonal().mean() * torch.eye(len(normal)).to(normal)
    fitted: Tensor = torch.linalg.solve(normal, harmonics @ field.double())
    return fitted.float()


def shimmed(field: Tensor, weight: Tensor, *, order: int) -> Tensor:
    """Subtract the harmonics that fit a field best within a region.

    Args:
        field: (X, Y, Z).
        weight: (X, Y, Z), above 0.5 in the region.
        order: Of the shim, 0 to 2.
    """
    axes = [torch.linspace(-1, 1, n, device=field.device) for n in field.shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    inside = weight.flatten() > 0.5
    coefficients = shim_coefficients(field.flatten()[inside], points[:, inside], order=order)
    return field - (coefficients @ solid_harmonics(points, order)).reshape(field.shape)
