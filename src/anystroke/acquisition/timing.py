"""Is a sequence's timing possible? What the checks of all sequences share."""

import math

from anystroke.core.errors import AnystrokeError

HINT = "times are in seconds"
ROUNDING = 1e-9


class TimingError(AnystrokeError):
    """A sequence's parameters cannot be played by any scanner."""


def check_times(*, echo_time: float, **positive: float) -> None:
    """Refuse an echo time below 0 s and other times that are not above it.

    Args:
        echo_time: Excitation to echo, s.
        **positive: Other times by name, s.

    Raises:
        TimingError: With the name and the value.

    Example:
        >>> check_times(echo_time=0.0, repetition_time=2.0)
    """
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0.0):
            raise TimingError(f"{name} must be finite and above 0 s, got {value!r}; {HINT}")
    if not (math.isfinite(echo_time) and echo_time >= 0.0):
        raise TimingError(f"echo_time must be finite and at least 0 s, got {echo_time!r}; {HINT}")


def check_range(name: str, value: float, low: float, high: float, unit: str) -> None:
    """Refuse a value outside its range.

    Raises:
        TimingError: With the name, the range and the value.

    Example:
        >>> check_range("flip_angle", 90.0, 0.0, 180.0, "degrees")
    """
    if not low <= value <= high:
        raise TimingError(f"{name} must lie in {low:g}..{high:g} {unit}, got {value!r}")


def check_count(name: str, value: int) -> None:
    """Refuse a number of pulses or echoes that is not whole and at least 1.

    Raises:
        TimingError: With the name and the value.

    Example:
        >>> check_count("echo_train_length", 16)
    """
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
    check_times(echo_time=echo_time, repetition_time=repetition_time)
    if echo_time >= repetition_time:
        raise TimingError(
            f"the echo must come before the next excitation: echo_time {echo_time:g} s is not below "
            f"repetition_time {repetition_time:g} s; {HINT}"
        )
    check_range("b_value", b_value, 0.0, 1e5, "s/mm^2")


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
    check_range("flip_angle", flip_angle, 0.0, 180.0, "degrees")


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
    check_times(echo_time=echo_time, repetition_time=repetition_time, echo_spacing=echo_spacing)
    check_count("echo_train_length", echo_train_length)
    if not (math.isfinite(inversion_time) and inversion_time >= 0.0):
        raise TimingError(f"inversion_time must be finite and at least 0 s, got {inversion_time!r}; {HINT}")
    check_range("inversion_efficiency", inversion_efficiency, 0.0, 1.0, "(a fraction)")
    train = echo_spacing * echo_train_length
    if echo_time > train + ROUNDING:
        raise TimingError(
            f"echo_time {echo_time:g} s lies behind the last echo at {train:g} s (echo_train_length "
            f"{echo_train_length} x echo_spacing {echo_spacing:g} s); lengthen the train or shorten echo_time"
        )
    if inversion_time + train > repetition_time + ROUNDING:
        raise TimingError(
            f"inversion_time {inversion_time:g} s + echo train {train:g} s do not fit into repetition_time "
            f"{repetition_time:g} s; {HINT}"
        )
    return train
