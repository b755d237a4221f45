"""The compiled loops of ``anystroke.evaluation.metrics.distance_transform``."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, arg-type, no-untyped-call"

import numba
import numpy as np

BLOCK = 8
"""Neighbouring lines that are fetched together: one line of the processor's cache."""

_FAR = np.inf


@numba.njit(nogil=True, cache=True)
def along_rows(sources, spacing, squares, first, last):
    """Fill ``squares`` (X, Y, Z) with the squared distance to a source of the same row."""
    nz = sources.shape[2]
    for x in range(first, last):
        for y in range(sources.shape[1]):
            near = _FAR
            for z in range(nz):
                near = 0.0 if sources[x, y, z] else near + spacing
                squares[x, y, z] = near
            near = _FAR
            for z in range(nz - 1, -1, -1):
                near = 0.0 if sources[x, y, z] else near + spacing
                nearest = min(near, squares[x, y, z])
                squares[x, y, z] = nearest * nearest


@numba.njit(nogil=True, cache=True)
def _envelope(line, step, centres, bounds, out):
    """Take the minimum over parabolas ``line[q] + (step * (p - q))**2`` at every p.

    Felzenszwalb and Huttenlocher, Theory of Computing 8 (2012), doi:10.4086/toc.2012.v008a019.
    """
    n = line.shape[0]
    last = -1
    square = step * step
    for q in range(n):
        if line[q] == _FAR:
            continue
        while last >= 0:
            c = centres[last]
            meeting = ((line[q] - line[c]) / square + (q * q - c * c)) / (2.0 * (q - c))
            if meeting > bounds[last]:
                break
            last -= 1
        if last < 0:
            bounds[0] = -_FAR
            last = 0
        else:
            last += 1
            bounds[last] = meeting
        centres[last] = q
    if last < 0:
        out[:] = _FAR
        return
    k = 0
    for p in range(n):
        while k < last and bounds[k + 1] < p:
            k += 1
        offset = step * (p - centres[k])
        out[p] = line[centres[k]] + offset * offset


@numba.njit(nogil=True, cache=True)
def along_columns(squares, spacing, first, last):
    """Extend the squared distances of planes first..last along y."""
    _, ny, nz = squares.shape
    lines = np.empty((BLOCK, ny))
    out = np.empty(ny)
    centres = np.empty(ny, np.int64)
    bounds = np.empty(ny)
    for x in range(first, last):
        for start in range(0, nz, BLOCK):
            width = min(BLOCK, nz - start)
            for y in range(ny):
                for k in range(width):
                    lines[k, y] = squares[x, y, start + k]
            for k in range(width):
                _envelope(lines[k], spacing, centres, bounds, out)
                lines[k] = out
            for y in range(ny):
                for k in range(width):
                    squares[x, y, start + k] = lines[k, y]


@numba.njit(nogil=True, cache=True)
def along_planes(squares, wanted, spacing, first, last):
    """Extend the squared distances of columns first..last along x, on lines that hold a wanted voxel."""
    nx, _, nz = squares.shape
    lines = np.empty((BLOCK, nx))
    out = np.empty(nx)
    centres = np.empty(nx, np.int64)
    bounds = np.empty(nx)
    needed = np.empty(BLOCK, np.bool_)
    for y in range(first, last):
        for start in range(0, nz, BLOCK):
            width = min(BLOCK, nz - start)
            needed[:] = False
            for x in range(nx):
                for k in range(width):
                    needed[k] |= wanted[x, y, start + k]
            if not needed.any():
                continue
            for x in range(nx):
                for k in range(width):
                    lines[k, x] = squares[x, y, start + k]
            for k in range(width):
                if needed[k]:
                    _envelope(lines[k], spacing, centres, bounds, out)
                    lines[k] = out
            for x in range(nx):
                for k in range(width):
                    squares[x, y, start + k] = lines[k, x]
