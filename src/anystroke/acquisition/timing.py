"""Is a sequence's timing possible? One check per family, shared by signal functions and protocols."""

import math

from anystroke.core.errors import AnystrokeError

_HINT = "times are in seconds"
_ROUNDING = 1e-9


class TimingError(AnystrokeError):
    """A sequence's parameters cannot be played by any scanner."""


def _check_times(*, echo_time: float, **positive: float) -> None:
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0.0):
            raise TimingError(f"{name} must be finite and above 0 s, got {value!r}; {_HINT}")
    if not (math.isfinite(echo_time) and echo_time >= 0.0):
        raise TimingError(f"echo_time must be finite and at least 0 s, got {echo_time!r}; {_HINT}")


def _check_range(name: str, value: float, low: float, high: float, unit: str) -> None:
    if not low <= value <= high:
        raise TimingError(f"{name} must lie in {low:g}..{high:g} {unit}, got {value!r}")


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TimingError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_spin_echo(*, repetition_time: float, echo_time: float, b_value: float = 0.0) -> None:
    """Refuse a spin echo whose echo does not fit into the repetition, or a negative b-value.

    Args:
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        b_value: Diffusion weighting, s/mm^2.

    Raises:
        TimingError: With the values that do not fit.

    Example:
        >>> check_spin_echo(repetition_time=4.0, echo_time=0.08)
    """
    _check_times(echo_time=echo_time, repetition_time=repetition_time)
    if echo_time >= repetition_time:
        raise TimingError(
            f"the echo must come before the next excitation: echo_time {echo_time:g} s is not below "
            f"repetition_time {repetition_time:g} s; {_HINT}"
        )
    _check_range("b_value", b_value, 0.0, 1e5, "s/mm^2")


def check_gradient_echo(*, repetition_time: float, echo_time: float, flip_angle: float) -> None:
    """Refuse a gradient echo whose echo does not fit into the repetition, or an angle outside 0..180 degrees.

    Args:
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        flip_angle: Nominal flip angle, degrees.

    Raises:
        TimingError: With the values that do not fit.

    Example:
        >>> check_gradient_echo(repetition_time=0.025, echo_time=0.005, flip_angle=20.0)
    """
    check_spin_echo(repetition_time=repetition_time, echo_time=echo_time)
    _check_range("flip_angle", flip_angle, 0.0, 180.0, "degrees")


def check_echo_train(
    *,
    repetition_time: float,
    echo_time: float,
    echo_spacing: float,
    echo_train_length: int,
    inversion_time: float = 0.0,
    inversion_efficiency: float = 1.0,
) -> float:
    """Refuse a train of spin echoes that does not fit into the repetition or does not hold the echo time.

    Args:
        repetition_time: Excitation to excitation, s.
        echo_time: Effective echo time, s; at most the length of the train.
        echo_spacing: Time between echoes, s.
        echo_train_length: Number of echoes in the train.
        inversion_time: Inversion to excitation, s; 0 if there is no inversion.
        inversion_efficiency: Fraction of the magnetisation that is inverted, 0..1.

    Returns:
        Duration of the train in s.

    Raises:
        TimingError: With the values that do not fit.

    Example:
        >>> train = check_echo_train(
        ...     repetition_time=4.0, echo_time=0.1, echo_spacing=0.01, echo_train_length=16)
        >>> round(train, 6)
        0.16
    """
    _check_times(echo_time=echo_time, repetition_time=repetition_time, echo_spacing=echo_spacing)
    _check_count("echo_train_length", echo_train_length)
    if not (math.isfinite(inversion_time) and inversion_time >= 0.0):
        raise TimingError(f"inversion_time must be finite and at least 0 s, got {inversion_time!r}; {_HINT}")
    _check_range("inversion_efficiency", inversion_efficiency, 0.0, 1.0, "(a fraction)")
    train = echo_spacing * echo_train_length
    if echo_time > train + _ROUNDING:
        raise TimingError(
            f"echo_time {echo_time:g} s lies behind the last echo at {train:g} s (echo_train_length "
            f"{echo_train_length} x echo_spacing {echo_spacing:g} s); lengthen the train or shorten echo_time"
        )
    if inversion_time + train > repetition_time + _ROUNDING:
        raise TimingError(
            f"inversion_time {inversion_time:g} s + echo train {train:g} s do not fit into repetition_time "
            f"{repetition_time:g} s; {_HINT}"
        )
    return train


def check_mprage(
    *,
    repetition_time: float,
    inversion_time: float,
    excitation_spacing: float,
    n_excitations: int,
    flip_angle: float,
    echo_time: float,
    inversion_efficiency: float,
    centre_index: int | None = None,
) -> tuple[float, float, int]:
    """Refuse an inversion-prepared gradient-echo train that does not fit around its inversion time.

    Args:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to the excitation that fills the centre of k-space, s.
        excitation_spacing: Time between excitations of the train, s.
        n_excitations: Number of excitations in the train.
        flip_angle: Nominal flip angle, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: Fraction of the magnetisation that is inverted, 0..1.
        centre_index: Which excitation (from 0) fills the centre; ``n_excitations // 2`` if None.

    Returns:
        Delay from the inversion to the first excitation (s), delay from the end of the train to the next
        inversion (s), and the centre's index.

    Raises:
        TimingError: With the values that do not fit.

    Example:
        >>> before, after, centre = check_mprage(
        ...     repetition_time=2.3, inversion_time=0.9, excitation_spacing=0.008, n_excitations=160,
        ...     flip_angle=9.0, echo_time=0.003, inversion_efficiency=0.96)
        >>> round(before, 6), round(after, 6), centre
        (0.26, 0.76, 80)
    """
    _check_times(
        echo_time=echo_time,
        repetition_time=repetition_time,
        inversion_time=inversion_time,
        excitation_spacing=excitation_spacing,
    )
    if echo_time >= excitation_spacing:
        raise TimingError(
            f"the echo must come before the next excitation: echo_time {echo_time:g} s is not below "
            f"excitation_spacing {excitation_spacing:g} s; {_HINT}"
        )
    _check_range("flip_angle", flip_angle, 0.0, 180.0, "degrees")
    _check_count("n_excitations", n_excitations)
    _check_range("inversion_efficiency", inversion_efficiency, 0.0, 1.0, "(a fraction)")
    centre = n_excitations // 2 if centre_index is None else centre_index
    if not 0 <= centre < n_excitations:
        raise TimingError(
            f"centre_index must lie in 0..{n_excitations - 1}, below n_excitations, got {centre}"
        )
    before = inversion_time - centre * excitation_spacing
    if before < -_ROUNDING:
        raise TimingError(
            f"{centre} excitations of {excitation_spacing:g} s do not fit between the inversion and "
            f"inversion_time {inversion_time:g} s; {_HINT}"
        )
    after = repetition_time - before - n_excitations * excitation_spacing
    if after < -_ROUNDING:
        raise TimingError(
            f"the train ends {-after:g} s after the next inversion: repetition_time {repetition_time:g} s, "
            f"inversion_time {inversion_time:g} s, {n_excitations} excitations of {excitation_spacing:g} s"
        )
    return max(before, 0.0), max(after, 0.0), centre


def check_inversion_recovery(
    *, repetition_time: float, inversion_time: float, echo_time: float, inversion_efficiency: float = 1.0
) -> None:
    """Refuse an inversion-recovery spin echo that does not fit into the repetition.

    Args:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to excitation, s.
        echo_time: Excitation to echo, s.
        inversion_efficiency: Fraction of the magnetisation that is inverted, 0..1.

    Raises:
        TimingError: With the values that do not fit.

    Example:
        >>> check_inversion_recovery(repetition_time=3.0, inversion_time=1.0, echo_time=0.02)
    """
    _check_times(echo_time=echo_time, repetition_time=repetition_time, inversion_time=inversion_time)
    _check_range("inversion_efficiency", inversion_efficiency, 0.0, 1.0, "(a fraction)")
    if inversion_time + echo_time >= repetition_time:
        raise TimingError(
            f"inversion_time {inversion_time:g} s + echo_time {echo_time:g} s do not fit into "
            f"repetition_time {repetition_time:g} s; {_HINT}"
        )


def check_double_inversion(inversion_times: tuple[float, float]) -> float:
    """Refuse inversion times of a double inversion that are not above 0.

    Args:
        inversion_times: First to second inversion, and second inversion to excitation, s.

    Returns:
        First inversion to excitation, s.

    Raises:
        TimingError: With the values.

    Example:
        >>> check_double_inversion((2.5, 0.5))
        3.0
    """
    if not all(math.isfinite(time) and time > 0.0 for time in inversion_times):
        raise TimingError(f"inversion_times must be finite and above 0 s, got {inversion_times!r}; {_HINT}")
    return sum(inversion_times)


def check_mp2rage(
    *,
    repetition_time: float,
    inversion_times: tuple[float, float],
    excitation_spacing: float,
    n_excitations: int,
    flip_angles: tuple[float, float],
    echo_time: float,
    inversion_efficiency: float,
    centre_index: int | None = None,
) -> tuple[float, float, float, int]:
    """Refuse two inversion-prepared gradient-echo trains that do not fit around their inversion times.

    Args:
        repetition_time: Inversion to inversion, s.
        inversion_times: Inversion to the excitation that fills the centre of k-space of each train, s.
        excitation_spacing: Time between excitations of a train, s.
        n_excitations: Number of excitations in a train.
        flip_angles: Nominal flip angles, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: Fraction of the magnetisation that is inverted, 0..1.
        centre_index: Which excitation (from 0) fills the centre; ``n_excitations // 2`` if None.

    Returns:
        Delays from the inversion to the first train, from its end to the second, and from that one's end to
        the next inversion, s; and the centre's index.

    Raises:
        TimingError: With the values that do not fit.

    Example:
        >>> before, between, after, centre = check_mp2rage(
        ...     repetition_time=5.0, inversion_times=(0.8, 2.2), excitation_spacing=0.006, n_excitations=160,
        ...     flip_angles=(4.0, 5.0), echo_time=0.003, inversion_efficiency=0.96)
        >>> round(before, 6), round(between, 6), round(after, 6), centre
        (0.32, 0.44, 2.32, 80)
    """
    first, second = inversion_times
    _check_times(echo_time=echo_time, second_inversion_time=second)
    _check_range("flip_angles", flip_angles[1], 0.0, 180.0, "degrees")
    before, _, centre = check_mprage(
        repetition_time=repetition_time,
        inversion_time=first,
        excitation_spacing=excitation_spacing,
        n_excitations=n_excitations,
        flip_angle=flip_angles[0],
        echo_time=echo_time,
        inversion_efficiency=inversion_efficiency,
        centre_index=centre_index,
    )
    train = n_excitations * excitation_spacing
    between = second - first - train
    if between < -_ROUNDING:
        raise TimingError(
            f"the trains overlap by {-between:g} s: inversion_times {first:g} and {second:g} s, "
            f"{n_excitations} excitations of {excitation_spacing:g} s"
        )
    after = repetition_time - before - 2.0 * train - between
    if after < -_ROUNDING:
        raise TimingError(
            f"the second train ends {-after:g} s after the next inversion: repetition_time "
            f"{repetition_time:g} s, second of inversion_times {second:g} s, {n_excitations} excitations of "
            f"{excitation_spacing:g} s"
        )
    return before, max(between, 0.0), max(after, 0.0), centre
