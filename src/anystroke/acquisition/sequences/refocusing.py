"""Trains of refocusing pulses other than 180 degrees, by extended phase graphs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anystroke.acquisition.timing import TimingError
from anystroke.core import units


def echo_amplitudes(
    *, refocusing_angles: Sequence[float], echo_spacing: float, t1: float, t2: float
) -> Tensor:
    """Amplitudes of the echoes of a train with any refocusing angles (CPMG phases, 90 degree excitation).

    Args:
        refocusing_angles: Flip angle of each refocusing pulse, degrees.
        echo_spacing: Time between echoes, s.
        t1: Longitudinal relaxation time, s; may be infinite.
        t2: Transverse relaxation time, s; may be infinite.

    Returns:
        Amplitude per M0 of each echo, float64, one per refocusing pulse.

    Raises:
        TimingError: If there is no pulse, or a time is not above 0.

    Source:
        Hennig, J Magn Reson 78:397 (1988); Weigel, J Magn Reson Imaging 41:266 (2015).

    Example:
        >>> echo_amplitudes(refocusing_angles=[180.0, 180.0], echo_spacing=0.01, t1=1.0, t2=0.1)
        tensor([0.9048, 0.8187], dtype=torch.float64)
    """
    count = len(refocusing_angles)
    if not count:
        raise TimingError("refocusing_angles needs at least one pulse, got none")
    if not (math.isfinite(echo_spacing) and echo_spacing > 0.0 and t1 > 0.0 and t2 > 0.0):
        raise TimingError(
            f"echo_spacing, t1 and t2 must be above 0 s, got {echo_spacing!r}, {t1!r} and {t2!r}"
        )
    # With CPMG phases all states are real: F(k), F(-k) and Z(k) in units where the echo is F(0).
    dephasing, rephasing, upright = (torch.zeros(2 * count + 2, dtype=torch.float64) for _ in range(3))
    dephasing[0] = rephasing[0] = 1.0
    transverse, longitudinal = math.exp(-0.5 * echo_spacing / t2), math.exp(-0.5 * echo_spacing / t1)
    echoes = []
    for angle in refocusing_angles:
        dephasing, rephasing, upright = _half_spacing(dephasing, rephasing, upright, transverse, longitudinal)
        half, whole = (units.degrees_to_radians(angle * part) for part in (0.5, 1.0))
        keep, flip, tip = math.cos(half) ** 2, math.sin(half) ** 2, math.sin(whole)
        dephasing, rephasing, upright = (
            keep * dephasing + flip * rephasing + tip * upright,
            flip * dephasing + keep * rephasing - tip * upright,
            0.5 * tip * (rephasing - dephasing) + math.cos(whole) * upright,
        )
        dephasing, rephasing, upright = _half_spacing(dephasing, rephasing, upright, transverse, longitudinal)
        echoes.append(dephasing[0])
    return torch.stack(echoes)


def _half_spacing(
    dephasing: Tensor, rephasing: Tensor, upright: Tensor, transverse: float, longitudinal: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Relax and dephase by one order. Fresh magnetisation is never refocused by the pulses after it."""
    out = torch.roll(dephasing, 1) * transverse
    back = torch.roll(rephasing, -1) * transverse
    back[-1] = 0.0
    out[0] = back[0]
    return out, back, upright * longitudinal


def equivalent_echo_time(
    *,
    refocusing_angles: Sequence[float],
    echo_spacing: float,
    echo_index: int,
    t1: float = 1.0,
    t2: float = 0.1,
) -> float:
    """Echo time of an ideal spin echo that has the T2 weighting of a variable-flip-angle train's echo.

    In 3-D turbo spin echoes (SPACE, CUBE, VISTA) magnetisation is stored along z for part of the train, where
    it decays with T1. ``TE = -T2 ln(S / S0)`` with the echo's amplitude with relaxation and without. It is
    what ``turbo_spin_echo`` and ``flair`` take as ``echo_time``; typically 0.22 to 0.35 of the nominal one.

    Args:
        refocusing_angles: Flip angle of each refocusing pulse, degrees.
        echo_spacing: Time between echoes, s.
        echo_index: Which echo (from 0) fills the centre of k-space.
        t1: Longitudinal relaxation time of the tissue that it is equivalent for, s.
        t2: Transverse relaxation time of that tissue, s.

    Returns:
        Equivalent echo time in s.

    Raises:
        TimingError: If there is no such echo, it has no amplitude, or a time is not above 0.

    Source:
        Busse et al., Magn Reson Med 60:640 (2008).

    Example:
        >>> round(equivalent_echo_time(refocusing_angles=[180.0] * 8, echo_spacing=0.01, echo_index=7), 6)
        0.08
    """
    if not 0 <= echo_index < len(refocusing_angles):
        raise TimingError(
            f"echo_index must lie in 0..{len(refocusing_angles) - 1}, below the number of pulses, "
            f"got {echo_index!r}"
        )
    angles = refocusing_angles[: echo_index + 1]
    relaxed = echo_amplitudes(refocusing_angles=angles, echo_spacing=echo_spacing, t1=t1, t2=t2)[-1]
    ideal = echo_amplitudes(refocusing_angles=angles, echo_spacing=echo_spacing, t1=math.inf, t2=math.inf)[-1]
    if not relaxed.item() * ideal.item() > 0.0:
        raise TimingError(f"echo {echo_index} of this train has no amplitude (flip angles {list(angles)})")
    return -t2 * math.log(relaxed.item() / ideal.item())
