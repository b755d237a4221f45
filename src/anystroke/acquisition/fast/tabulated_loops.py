"""The compiled loops of ``anystroke.acquisition.fast.tabulated``."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import numba
import numpy as np

_HIGHEST = np.int32(127)
_LOWEST = np.int32(-150)
# 2 ** k from k = _LOWEST, which float32 does not hold, to _HIGHEST.
_POWERS = (2.0 ** np.arange(float(_LOWEST), float(_HIGHEST) + 1)).astype(np.float32)


@numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _exp2(x):
    """Return ``2 ** x`` with a relative error of 2e-7; 0 below 2 ** -149, NaN of NaN."""
    whole = np.int32(np.floor(min(max(x, np.float32(_LOWEST)), np.float32(_HIGHEST))))
    whole = min(max(whole, _LOWEST), _HIGHEST)
    # Chebyshev interpolation about the middle of 0..1.
    f = x - np.float32(whole) - np.float32(0.5)
    f = min(max(f, np.float32(-0.5)), np.float32(0.5)) if f == f else f
    p = np.float32(0.0068419878) + f * np.float32(0.000946877)
    p = np.float32(0.039246952) + f * p
    p = np.float32(0.16986195) + f * p
    p = np.float32(0.49012908) + f * p
    p = np.float32(0.70710683) + f * p
    return np.float32(2.0) * p * _POWERS[whole - _LOWEST]


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def fill_row(image, proton_density, r1, table, rates, powers, loss, slope):
    """Fill an image with ``PD S(R1) 2 ** (powers . rates) (1 - slope loss)``.

    Args:
        image: (N,) float32.
        proton_density: (N,) float32.
        r1: (N,) float32.
        table: (intervals, 4): cubics of S, lowest power first, in equal intervals of ``R1 / (R1 + 1)``.
        rates: Two (N,) float32; the second is not read if its power is 0.
        powers: Two float32.
        loss: (N,) float32, not read if the slope is 0.
        slope: float32.
    """
    count, last = np.float32(len(table)), np.int32(len(table) - 1)
    (first, second), (power, other_power) = rates, powers
    for i in range(len(image)):
        x = r1[i] / (r1[i] + np.float32(1.0)) * count
        k = max(min(np.int32(x), last), np.int32(0))
        t = x - np.float32(k)
        s = table[k, 0] + t * (table[k, 1] + t * (table[k, 2] + t * table[k, 3]))
        exponent = power * first[i]
        if other_power != 0:
            exponent += other_power * second[i]
        value = proton_density[i] * s * _exp2(exponent)
        if slope != 0:
            value *= np.float32(1.0) - slope * loss[i]
        image[i] = value


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def fill_rows(image, proton_density, r1, b1_plus, table, rows, rates, powers, loss, slope):
    """Fill an image with ``PD S(R1, B1+) 2 ** (powers . rates) (1 - slope loss)``.

    Args:
        image: (N,) float32.
        proton_density: (N,) float32.
        r1: (N,) float32.
        b1_plus: (N,) float32, within the table.
        table: (rows, intervals, 4): the cubics of ``fill_row`` at rising B1+.
        rows: Smallest B1+, and rows per unit of B1+; float32.
        rates: Two (N,) float32; the second is not read if its power is 0.
        powers: Two float32.
        loss: (N,) float32, not read if the slope is 0.
        slope: float32.
    """
    smallest, per_b1 = rows
    count, last = np.float32(table.shape[1]), np.int32(table.shape[1] - 1)
    before_last = np.int32(table.shape[0] - 2)
    (first, second), (power, other_power) = rates, powers
    for i in range(len(image)):
        x = r1[i] / (r1[i] + np.float32(1.0)) * count
        k = max(min(np.int32(x), last), np.int32(0))
        t = x - np.float32(k)
        y = (b1_plus[i] - smallest) * per_b1
        j = max(min(np.int32(y), before_last), np.int32(0))
        low = table[j, k, 0] + t * (table[j, k, 1] + t * (table[j, k, 2] + t * table[j, k, 3]))
        j += np.int32(1)
        high = table[j, k, 0] + t * (table[j, k, 1] + t * (table[j, k, 2] + t * table[j, k, 3]))
        s = low + (y + np.float32(1.0) - np.float32(j)) * (high - low)
        exponent = power * first[i]
        if other_power != 0:
            exponent += other_power * second[i]
        value = proton_density[i] * s * _exp2(exponent)
        if slope != 0:
            value *= np.float32(1.0) - slope * loss[i]
        image[i] = value
