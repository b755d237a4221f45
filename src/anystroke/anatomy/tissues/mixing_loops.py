"""The compiled loops of ``anystroke.anatomy.tissues.mixing``."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, arg-type, no-untyped-call"

import numba
import numpy as np

PAD = 2
"""Voxels of label 0 around a label map."""

_SHIFT = 4096


@numba.njit(nogil=True, cache=True)
def _row_positions(geometry, plane, x, y, rows):
    """Fill rows (3, Z) with the label-voxel positions of one output row.

    ``plane`` (3, b, c) holds the displacement's control points, summed along x for this plane.
    """
    matrix, offset, _, _, _, by, bz = geometry
    nz = bz.shape[1]
    for k in range(3):
        base = offset[k] + matrix[k, 0] * x + matrix[k, 1] * y
        step = matrix[k, 2]
        row = rows[k]
        for z in range(nz):
            row[z] = base + step * z
        for c in range(plane.shape[2]):
            amount = np.float32(0.0)
            for b in range(plane.shape[1]):
                amount += by[y, b] * plane[k, b, c]
            for z in range(nz):
                row[z] += amount * bz[c, z]


@numba.njit(nogil=True, cache=True)
def _sum_plane(control, bx, x, plane):
    plane[:] = 0
    for a in range(control.shape[1]):
        plane += bx[x, a] * control[:, a]


@numba.njit(nogil=True, cache=True)
def _read_row(flat, shape, rows, hits, places):
    """Note the marked label of each voxel of a row, and its place in the padded label map (0 outside)."""
    for z in range(hits.shape[0]):
        # Positions are shifted to be positive, so that cutting off decimals rounds down.
        i = np.int64(rows[0, z] + _SHIFT) - (_SHIFT - PAD)
        j = np.int64(rows[1, z] + _SHIFT) - (_SHIFT - PAD)
        k = np.int64(rows[2, z] + _SHIFT) - (_SHIFT - PAD)
        inside = (
            (PAD - 1 <= i <= shape[0] - PAD)
            & (PAD - 1 <= j <= shape[1] - PAD)
            & (PAD - 1 <= k <= shape[2] - PAD)
        )
        place = (i * shape[1] + j) * shape[2] + k if inside else 0
        places[z] = place
        hits[z] = flat[place]


@numba.njit(nogil=True, cache=True)
def _read_parts(flat, shape, i, j, k, steps, found):
    """Note the labels of the eight parts of a voxel."""
    for part in range(8):
        x = np.int64(i + steps[part, 0] + _SHIFT) - (_SHIFT - PAD)
        y = np.int64(j + steps[part, 1] + _SHIFT) - (_SHIFT - PAD)
        z = np.int64(k + steps[part, 2] + _SHIFT) - (_SHIFT - PAD)
        x = min(max(x, 0), shape[0] - 1)
        y = min(max(y, 0), shape[1] - 1)
        z = min(max(z, 0), shape[2] - 1)
        found[part] = flat[(x * shape[1] + y) * shape[2] + z] & 127


@numba.njit(nogil=True, cache=True)
def read_planes(labels, geometry, trusted, found, planes):
    """Read labels for planes of the output.

    Args:
        labels: Marked and padded labels, see ``LabelField.marked``.
        geometry: Matrix, offset (half a voxel added), parts, control points and spline matrices.
        trusted: Whether a mark decides for all parts of a voxel.
        found: (X, Y, Z), the label of each voxel, its highest bit set where all parts have it; and
            (X, Y, Z, 8), the labels of the parts of the other voxels.
        planes: First and last + 1.
    """
    hits, parts = found
    ny, nz = hits.shape[1], hits.shape[2]
    flat, shape = labels.ravel(), labels.shape
    rows = np.empty((3, nz), dtype=np.float32)
    places = np.empty(nz, dtype=np.int64)
    plane = np.empty((3, geometry[3].shape[2], geometry[3].shape[3]), dtype=np.float32)
    for x in range(planes[0], planes[1]):
        _sum_plane(geometry[3], geometry[4], x, plane)
        for y in range(ny):
            line = hits[x, y]
            _row_positions(geometry, plane, x, y, rows)
            _read_row(flat, shape, rows, line, places)
            for z in range(nz):
                if places[z] == 0 or (trusted and line[z] & 128):
                    line[z] |= 128
                    continue
                line[z] &= 127
                _read_parts(flat, shape, rows[0, z], rows[1, z], rows[2, z], geometry[2], parts[x, y, z])


@numba.njit(nogil=True, cache=True)
def _mix_voxel(found, table, votes, total):
    """Sum eight table columns over the parts of a voxel into ``total``; return the votes."""
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = np.float32(0)
    count = np.int64(0)
    for part in range(8):
        hit = found[part]
        count += votes[hit]
        t0 += table[hit, 0]
        t1 += table[hit, 1]
        t2 += table[hit, 2]
        t3 += table[hit, 3]
        t4 += table[hit, 4]
        t5 += table[hit, 5]
        t6 += table[hit, 6]
        t7 += table[hit, 7]
    total[0], total[1], total[2], total[3] = t0, t1, t2, t3
    total[4], total[5], total[6], total[7] = t4, t5, t6, t7
    return count


@numba.njit(nogil=True, cache=True)
def _winner(count):
    best, most = np.uint8(0), np.int64(-1)
    for c in range(8):
        share = (count >> (8 * c)) & 255
        if share > most:
            best, most = np.uint8(c), share
    return best


@numba.njit(nogil=True, cache=True)
def mix_planes(found, tables, noise, least, results, planes):
    """Mix planes of the output: means of all voxels, then those of voxels at borders.

    Args:
        found: As `read_planes` leaves it.
        tables: (T, 8): four means and four standard deviations, each an eighth; votes; class of each label.
        noise: Tiles, start, and whether to use them.
        least: Smallest value.
        results: Values (C <= 4, X, Y, Z) and winning classes (X, Y, Z).
        planes: First and last + 1.
    """
    read, parts = found
    table, votes, classes = tables
    tiles, start, noisy = noise
    values, winners = results
    columns, ny, nz = values.shape[0], values.shape[2], values.shape[3]
    side = tiles.shape[1]
    tile = np.zeros((columns, nz), dtype=np.float32)
    total = np.empty(8, dtype=np.float32)
    along = (np.arange(nz) + start[2]) % side
    lookup = np.ascontiguousarray(table.T) * np.float32(8)
    for x in range(planes[0], planes[1]):
        for y in range(ny):
            hits = read[x, y]
            for z in range(nz):
                winners[x, y, z] = classes[hits[z] & 127]
            for c in range(columns):
                mean, sd, row, noises = lookup[c], lookup[c + 4], values[c, x, y], tile[c]
                if noisy:
                    line = tiles[c, (x + start[0]) % side, (y + start[1]) % side]
                    for z in range(nz):
                        noises[z] = line[along[z]]
                for z in range(nz):
                    hit = hits[z] & 127
                    row[z] = max(mean[hit] + sd[hit] * noises[z], least)
            for z in range(nz):
                if hits[z] & 128:
                    continue
                count = _mix_voxel(parts[x, y, z], table, votes, total)
                winners[x, y, z] = _winner(count)
                for c in range(columns):
                    values[c, x, y, z] = max(total[c] + total[c + 4] * tile[c, z], least)
