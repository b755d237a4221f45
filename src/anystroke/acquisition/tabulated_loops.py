"""The compiled loop of ``anystroke.acquisition.tabulated``."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import numba
import numpy as np


@numba.njit(nogil=True, cache=True, error_model="numpy")
def scale_along(image, proton_density, r1, row, per_r1):
    """Multiply an image with proton density and a function of R1.

    Args:
        image: (N,) float32, is changed.
        proton_density: (N,) float32.
        r1: (N,) float32, within the table.
        row: (intervals, 4): coefficients of a cubic in each interval of R1, highest power last.
        per_r1: Intervals per unit of R1.
    """
    last = np.int32(row.shape[0] - 1)
    for i in range(image.shape[0]):
        x = r1[i] * per_r1
        k = min(np.int32(x), last)
        t = x - np.float32(k)
        c = row[k]
        image[i] *= proton_density[i] * (c[0] + t * (c[1] + t * (c[2] + t * c[3])))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def scale_over(image, proton_density, r1, b1_plus, table, scales):
    """Multiply an image with proton density and a function of R1 and B1+.

    Args:
        image: (N,) float32, is changed.
        proton_density: (N,) float32.
        r1: (N,) float32, within the table.
        b1_plus: (N,) float32, within the table.
        table: (rows, intervals, 4): ``row`` of ``scale_along`` at rising B1+.
        scales: Intervals per unit of R1, smallest B1+, rows per unit of B1+.
    """
    last, before_last = np.int32(table.shape[1] - 1), np.int32(table.shape[0] - 2)
    per_r1, smallest, per_b1 = scales
    for i in range(image.shape[0]):
        x = r1[i] * per_r1
        k = min(np.int32(x), last)
        t = x - np.float32(k)
        y = (b1_plus[i] - smallest) * per_b1
        j = min(np.int32(y), before_last)
        a = table[j, k]
        b = table[j + 1, k]
        low = a[0] + t * (a[1] + t * (a[2] + t * a[3]))
        high = b[0] + t * (b[1] + t * (b[2] + t * b[3]))
        image[i] *= proton_density[i] * (low + (y - np.float32(j)) * (high - low))
