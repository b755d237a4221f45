"""The compiled loops of ``anystroke.corruption.echo_planar``."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, arg-type, no-untyped-call"

import numba
import numpy as np

HALF = np.float32(0.4999)
"""Half of a voxel, less what rounding may take."""


@numba.njit(nogil=True, cache=True)
def _coarse_rows(field, along_x, along_z, x, rows):
    """Fill rows (b, Z) with the displacement at one plane of voxels, still coarse along the second axis."""
    i, u = int(along_x[0, x]), along_x[1, x]
    j = min(i + 1, field.shape[0] - 1)
    for b in range(field.shape[1]):
        low, high = field[i, b], field[j, b]
        for z in range(rows.shape[1]):
            k, w = int(along_z[0, z]), along_z[1, z]
            m = min(k + 1, field.shape[2] - 1)
            rows[b, z] = (1 - u) * ((1 - w) * low[k] + w * low[m]) + u * ((1 - w) * high[k] + w * high[m])


@numba.njit(nogil=True, cache=True)
def _edge(rows, taps, weights, y, edge):
    """Fill edge (Z,) with where the lower edges of a line's voxels come to lie."""
    a, b, c, d = rows[taps[y, 0]], rows[taps[y, 1]], rows[taps[y, 2]], rows[taps[y, 3]]
    p, q, r, s = weights[y, 0], weights[y, 1], weights[y, 2], weights[y, 3]
    for z in range(edge.shape[0]):
        edge[z] = np.float32(y) + p * a[z] + q * b[z] + r * c[z] + s * d[z]


@numba.njit(nogil=True, cache=True)
def push_planes(image, geometry, out, planes):
    """Add each voxel's signal to the voxels that its moved extent covers, in proportion.

    Args:
        image: (X, Y, Z) float32; displacements are along Y.
        geometry: Displacement (a, b, c) in voxels; first neighbour and weight along X and along Z (2, n);
            four neighbours and their weights at each edge along Y (Y + 1, 4).
        out: (X, Y, Z), zero at first.
        planes: First and last + 1 along X.
    """
    field, along_x, along_z, taps, weights = geometry
    ny, nz = image.shape[1], image.shape[2]
    rows = np.empty((field.shape[1], nz), dtype=np.float32)
    edges = np.empty((2, nz), dtype=np.float32)
    for x in range(planes[0], planes[1]):
        _coarse_rows(field, along_x, along_z, x, rows)
        _edge(rows, taps, weights, 0, edges[0])
        result = out[x]
        for y in range(ny):
            lower, upper, line = edges[y % 2], edges[(y + 1) % 2], image[x, y]
            _edge(rows, taps, weights, y + 1, upper)
            for z in range(nz):
                value = line[z]
                if value == 0:
                    continue
                low, high = min(lower[z], upper[z]), max(lower[z], upper[z])
                if high <= 0 or low >= ny:
                    continue
                first, last = int(np.floor(low)), int(np.floor(high))
                if first == last:
                    result[first, z] += value
                    continue
                share = value / (high - low)
                for place in range(max(first, 0), min(last, ny - 1) + 1):
                    covered = min(high, np.float32(place + 1)) - max(low, np.float32(place))
                    result[place, z] += share * covered


@numba.njit(nogil=True, cache=True)
def carry_planes(labels, geometry, out, planes):
    """Give each voxel the label of which most came to lie in it, 0 where labels cover less than half of it.

    Args:
        labels: (X, Y, Z) uint8.
        geometry: As for ``push_planes``.
        out: (X, Y, Z) uint8, zero at first.
        planes: First and last + 1 along X.
    """
    field, along_x, along_z, taps, weights = geometry
    ny, nz = labels.shape[1], labels.shape[2]
    rows = np.empty((field.shape[1], nz), dtype=np.float32)
    edges = np.empty((2, nz), dtype=np.float32)
    most = np.empty((ny, nz), dtype=np.float32)
    cover = np.empty((ny, nz), dtype=np.float32)
    for x in range(planes[0], planes[1]):
        _coarse_rows(field, along_x, along_z, x, rows)
        _edge(rows, taps, weights, 0, edges[0])
        result = out[x]
        most[:] = 0
        cover[:] = 0
        for y in range(ny):
            lower, upper, line = edges[y % 2], edges[(y + 1) % 2], labels[x, y]
            _edge(rows, taps, weights, y + 1, upper)
            for z in range(nz):
                if line[z] == 0:
                    continue
                low, high = min(lower[z], upper[z]), max(lower[z], upper[z])
                if high <= 0 or low >= ny:
                    continue
                first, last = int(np.floor(low)), int(np.floor(high))
                width = max(high - low, np.float32(1e-6))
                for place in range(max(first, 0), min(last, ny - 1) + 1):
                    covered = min(high, np.float32(place + 1)) - max(low, np.float32(place))
                    share = covered / width if last > first else np.float32(1)
                    cover[place, z] += covered
                    if share > most[place, z]:
                        most[place, z] = share
                        result[place, z] = line[z]
        for y in range(ny):
            for z in range(nz):
                if cover[y, z] < HALF:
                    result[y, z] = 0
