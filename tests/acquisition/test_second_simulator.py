"""All signal equations against a second simulator: magnetisation vectors followed pulse by pulse in float64.

Every sequence is played with 200 random protocols x 16 tissues at once, each until its steady state (which an
affine map has in closed form). Errors are relative to the signal, floored at 1 % of M0 as the nulls need.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anystroke.acquisition.sequences import balanced_ssfp as balanced_ssfp_file
from anystroke.acquisition.sequences import diffusion as diffusion_file
from anystroke.acquisition.sequences import double_inversion as double_inversion_file
from anystroke.acquisition.sequences import flair as flair_file
from anystroke.acquisition.sequences import gradient_echo as gradient_echo_file
from anystroke.acquisition.sequences import inversion_recovery as inversion_recovery_file
from anystroke.acquisition.sequences import mp2rage as mp2rage_file
from anystroke.acquisition.sequences import mprage as mprage_file
from anystroke.acquisition.sequences import spin_echo as spin_echo_file
from anystroke.acquisition.sequences import turbo_spin_echo as turbo_spin_echo_file
from anystroke.acquisition.sequences.refocusing import echo_amplitudes, equivalent_echo_time
from anystroke.acquisition.timing import TimingError

Array = NDArray[np.float64]
Play = Callable[["Spins"], Array]

PROTOCOLS, GROUPS = 200, 4
T1 = np.geomspace(0.25, 4.5, 16)
T2 = np.geomspace(0.02, 2.0, 16)[(np.arange(16) * 7) % 16]
T2STAR = T2 * 0.6
MT = np.linspace(0.0, 2.0, 16)
ADC = np.linspace(0.0, 3.2e-3, 16)


class Spins:
    """Vectors (protocol, tissue), followed event by event; angles and times are numbers or (protocol, 1)."""

    def __init__(self, start: Array, count: int, r2: Array) -> None:
        self.m: Array = np.tile(start[:, None, None], (1, count, T1.size))
        self.r1, self.r2 = 1 / T1, r2

    def turn(self, angle: Any, axis: int = 0) -> None:
        across = 1 - axis
        cosine, sine = np.cos(angle), np.sin(angle)
        level, up = self.m[across].copy(), self.m[2].copy()
        self.m[across], self.m[2] = cosine * level + sine * up, cosine * up - sine * level

    def precess(self, phase: Any) -> None:
        x, y = self.m[0].copy(), self.m[1].copy()
        self.m[0], self.m[1] = np.cos(phase) * x - np.sin(phase) * y, np.sin(phase) * x + np.cos(phase) * y

    def wait(self, time: Any) -> None:
        self.m[:2] *= np.exp(-time * self.r2)
        self.m[2] = 1.0 + (self.m[2] - 1.0) * np.exp(-time * self.r1)

    def spoil(self) -> None:
        self.m[:2] = 0.0

    @property
    def y(self) -> Array:
        copied: Array = self.m[1].copy()
        return copied


def steady(play: Play, count: int, r2: Array) -> Array:
    """Signal of a repetition that ends as it began: solve M = A M + b from four plays."""
    ends = []
    for start in np.vstack([np.zeros(3), np.eye(3)]):
        spins = Spins(start, count, r2)
        play(spins)
        ends.append(spins.m)
    offset = np.moveaxis(ends[0], 0, -1)
    matrix = np.stack([np.moveaxis(end - ends[0], 0, -1) for end in ends[1:]], -1)
    start = np.linalg.solve(np.eye(3) - matrix, offset[..., None])[..., 0]
    spins = Spins(np.zeros(3), count, r2)
    spins.m[:] = np.moveaxis(start, -1, 0)
    return play(spins)


def column(draw: np.random.Generator, low: float, high: float, count: int) -> Array:
    return draw.uniform(low, high, (count, 1))


def tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


ONE = torch.ones(16, dtype=torch.float64)
SPIN: dict[str, Any] = {"proton_density": ONE, "r1": tensor(1 / T1), "r2": tensor(1 / T2)}
GRADIENT: dict[str, Any] = {"proton_density": ONE, "r1": tensor(1 / T1), "r2star": tensor(1 / T2STAR)}
Compared = tuple[Array, Callable[[int], Any]]


def at(parameters: dict[str, Any], row: int) -> dict[str, Any]:
    """One protocol's numbers of columns."""

    def pick(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(pick(one) for one in value)
        return float(value[row, 0]) if isinstance(value, np.ndarray) else value

    return {key: pick(value) for key, value in parameters.items()}


def spin_echo(draw: np.random.Generator, count: int, b: float = 0.0) -> Compared:
    te, tr = column(draw, 0.01, 0.12, count), column(draw, 0.4, 8.0, count)

    def play(spins: Spins) -> Array:
        spins.turn(np.pi / 2)
        spins.wait(te / 2)
        spins.turn(np.pi, axis=1)
        spins.wait(te / 2)
        echo = spins.y
        spins.spoil()
        spins.wait(tr - te)
        return echo * np.exp(-b * ADC)

    parameters = {"repetition_time": tr, "echo_time": te}
    if b == 0.0:
        return steady(play, count, 1 / T2), lambda row: spin_echo_file.spin_echo(
            **SPIN, **at(parameters, row)
        )
    return steady(play, count, 1 / T2), lambda row: diffusion_file.diffusion_weighted(
        **SPIN, adc=tensor(ADC), b_value=b, **at(parameters, row)
    )


def diffusion_weighted(draw: np.random.Generator, count: int) -> Compared:
    return spin_echo(draw, count, b=draw.uniform(100.0, 2000.0))


def inversion_recovery_spin_echo(draw: np.random.Generator, count: int) -> Compared:
    te, ti = column(draw, 0.01, 0.12, count), column(draw, 0.1, 2.8, count)
    tr, eff = ti + te + column(draw, 0.1, 5.0, count), column(draw, 0.85, 1.0, count)

    def play(spins: Spins) -> Array:
        spins.m[2] *= -eff
        spins.wait(ti)
        spins.turn(np.pi / 2)
        spins.wait(te / 2)
        spins.turn(np.pi, axis=1)
        spins.wait(te / 2)
        echo = spins.y
        spins.spoil()
        spins.wait(tr - te - ti)
        return echo

    parameters = {
        "repetition_time": tr,
        "inversion_time": ti,
        "echo_time": te,
        "inversion_efficiency": eff,
    }
    return steady(play, count, 1 / T2), lambda row: inversion_recovery_file.inversion_recovery_spin_echo(
        **SPIN, **at(parameters, row), signed=True
    )


def echo_train(draw: np.random.Generator, count: int, inversions: int) -> Compared:
    esp, etl = column(draw, 0.004, 0.014, count), int(draw.integers(1, 60))
    index = int(draw.integers(1, etl + 1))
    times = [column(draw, 0.1, 2.8, count), column(draw, 0.3, 0.6, count)][:inversions]
    tr = sum(times, column(draw, 0.3, 8.0, count)) + etl * esp
    eff = column(draw, 0.85, 1.0, count)

    def play(spins: Spins) -> Array:
        for time in times:
            spins.m[2] *= -eff
            spins.wait(time)
        spins.turn(np.pi / 2)
        echo = spins.y
        for number in range(1, etl + 1):
            spins.wait(esp / 2)
            spins.turn(np.pi, axis=1)
            spins.wait(esp / 2)
            if number == index:
                echo = spins.y
        spins.spoil()
        spins.wait(tr - etl * esp - sum(times))
        return echo

    parameters: dict[str, Any] = {
        "repetition_time": tr,
        "echo_time": index * esp,
        "echo_spacing": esp,
        "echo_train_length": etl,
    }
    simulated = steady(play, count, 1 / T2)
    if inversions == 0:
        return simulated, lambda row: turbo_spin_echo_file.turbo_spin_echo(**SPIN, **at(parameters, row))
    parameters["inversion_efficiency"] = eff
    if inversions == 1:
        parameters["inversion_time"] = times[0]
        return simulated, lambda row: flair_file.flair(**SPIN, **at(parameters, row), signed=True)
    parameters["inversion_times"] = tuple(times)
    return simulated, lambda row: double_inversion_file.double_inversion_recovery(
        **SPIN, **at(parameters, row), signed=True
    )


def turbo_spin_echo(draw: np.random.Generator, count: int) -> Compared:
    return echo_train(draw, count, 0)


def flair(draw: np.random.Generator, count: int) -> Compared:
    return echo_train(draw, count, 1)


def double_inversion_recovery(draw: np.random.Generator, count: int) -> Compared:
    return echo_train(draw, count, 2)


def gradient_echo(draw: np.random.Generator, count: int, mt: bool = False) -> Compared:
    tr, angle = np.exp(column(draw, math.log(0.006), math.log(0.9), count)), column(draw, 3.0, 85.0, count)
    te = tr * column(draw, 0.0, 0.8, count)

    def play(spins: Spins) -> Array:
        spins.m[2] *= 1.0 - MT / 100 if mt else 1.0
        spins.turn(np.deg2rad(angle))
        spins.wait(te)
        echo = spins.y
        spins.spoil()
        spins.wait(tr - te)
        return echo

    parameters = {"repetition_time": tr, "echo_time": te, "flip_angle": angle}
    extra: dict[str, Any] = {"mt_saturation": tensor(MT)} if mt else {}
    return steady(play, count, 1 / T2STAR), lambda row: gradient_echo_file.spoiled_gradient_echo(
        **GRADIENT, **extra, **at(parameters, row)
    )


def mt_gradient_echo(draw: np.random.Generator, count: int) -> Compared:
    return gradient_echo(draw, count, mt=True)


def play_train(spins: Spins, angle: Array, tx: Array, te: Array, n: int, centre: int) -> Array:
    echo = spins.y
    for index in range(n):
        spins.turn(np.deg2rad(angle))
        if index == centre:
            spins.wait(te)
            echo = spins.y
            spins.spoil()
            spins.wait(tx - te)
        else:
            spins.spoil()
            spins.wait(tx)
    return echo


def mprage(draw: np.random.Generator, count: int) -> Compared:
    n, tx, angle = int(draw.integers(60, 200)), column(draw, 0.004, 0.01, count), column(draw, 4, 15, count)
    centre = n // 2 if draw.random() < 0.5 else int(draw.integers(1, n))
    te, ti = tx * column(draw, 0.0, 0.5, count), centre * tx + column(draw, 0.0, 0.6, count)
    tr = ti + (n - centre) * tx + column(draw, 0.0, 1.0, count)
    eff = column(draw, 0.85, 1.0, count)

    def play(spins: Spins) -> Array:
        spins.m[2] *= -eff
        spins.wait(ti - centre * tx)
        echo = play_train(spins, angle, tx, te, n, centre)
        spins.wait(tr - ti - (n - centre) * tx)
        return echo

    parameters = {
        "repetition_time": tr,
        "inversion_time": ti,
        "excitation_spacing": tx,
        "n_excitations": n,
        "flip_angle": angle,
        "echo_time": te,
        "inversion_efficiency": eff,
        "centre_index": centre,
    }
    return steady(play, count, 1 / T2STAR), lambda row: mprage_file.mprage(
        **GRADIENT, **at(parameters, row), signed=True
    )


def mp2rage(draw: np.random.Generator, count: int) -> Compared:
    """The two images and the uniform one, side by side along the tissues."""
    n, tx = int(draw.integers(60, 140)), column(draw, 0.004, 0.008, count)
    centre, te = n // 2, tx * column(draw, 0.0, 0.5, count)
    angles = (column(draw, 3.0, 8.0, count), column(draw, 3.0, 8.0, count))
    first = centre * tx + column(draw, 0.0, 0.5, count)
    second = first + n * tx + column(draw, 0.0, 0.8, count)
    tr, eff = second + (n - centre) * tx + column(draw, 0.0, 3.0, count), column(draw, 0.85, 1.0, count)

    def play(spins: Spins) -> Array:
        spins.m[2] *= -eff
        spins.wait(first - centre * tx)
        one = play_train(spins, angles[0], tx, te, n, centre)
        spins.wait(second - first - n * tx)
        two = play_train(spins, angles[1], tx, te, n, centre)
        spins.wait(tr - second - (n - centre) * tx)
        return np.hstack([one, two, one * two / (one**2 + two**2)])

    parameters = {
        "repetition_time": tr,
        "inversion_times": (first, second),
        "excitation_spacing": tx,
        "n_excitations": n,
        "flip_angles": angles,
        "echo_time": te,
        "inversion_efficiency": eff,
    }
    return steady(play, count, 1 / T2STAR), lambda row: torch.cat(
        mp2rage_file.mp2rage(**GRADIENT, **at(parameters, row), signed=True)
    )


def balanced_ssfp(draw: np.random.Generator, count: int) -> Compared:
    tr, angle = column(draw, 0.003, 0.009, count), column(draw, 15.0, 80.0, count)
    offset = np.linspace(-150.0, 150.0, 16) * (draw.random() < 0.75)

    def play(spins: Spins) -> Array:
        spins.turn(np.deg2rad(angle))
        spins.wait(tr / 2)
        spins.precess(np.pi * tr * offset)
        echo: Array = np.hypot(spins.m[0], spins.m[1])
        spins.wait(tr / 2)
        spins.precess(np.pi * tr * offset + np.pi)
        return echo

    parameters = {"repetition_time": tr, "flip_angle": angle}
    shift = tensor(offset) if offset.any() else None
    return steady(play, count, 1 / T2), lambda row: balanced_ssfp_file.balanced_ssfp(
        **SPIN, **at(parameters, row), off_resonance=shift
    )


LIMITS: dict[Callable[[np.random.Generator, int], Compared], float] = {
    spin_echo: 1e-4,
    diffusion_weighted: 1e-4,
    inversion_recovery_spin_echo: 1e-4,
    gradient_echo: 1e-4,
    mt_gradient_echo: 1e-4,
    mprage: 1e-4,
    mp2rage: 1e-4,
    balanced_ssfp: 1e-4,
    turbo_spin_echo: 1e-3,
    flair: 1e-3,
    double_inversion_recovery: 1e-3,
}


@pytest.mark.parametrize("simulate", list(LIMITS), ids=lambda simulate: simulate.__name__)
def test_200_random_protocols_equal_the_simulation(
    simulate: Callable[[np.random.Generator, int], Compared], record_property: Callable[[str, float], None]
) -> None:
    count, worst = PROTOCOLS // GROUPS, 0.0
    for group in range(GROUPS):
        simulated, signal = simulate(np.random.default_rng(group), count)
        for row in range(count):
            error = np.abs(signal(row).numpy() - simulated[row]) / np.maximum(np.abs(simulated[row]), 0.01)
            worst = max(worst, float(error.max()))
    record_property("max_relative_error", worst)
    assert worst < 1e-8 < LIMITS[simulate]


def test_echo_amplitudes_equal_many_isochromats() -> None:
    """A train of 120 to 60 degree pulses with gradients that turn spins evenly within each half spacing."""
    angles = [120.0, 110.0, 90.0, 75.0, 60.0, 60.0, 80.0]
    esp, t1, t2, spins = 0.008, 0.9, 0.09, 512
    phase = 2 * np.pi * np.arange(spins) / spins
    x, y, z = np.zeros(spins), np.ones(spins), np.zeros(spins)

    def relax() -> None:
        nonlocal x, y, z
        x, y = np.cos(phase) * x - np.sin(phase) * y, np.sin(phase) * x + np.cos(phase) * y
        x, y = x * math.exp(-esp / 2 / t2), y * math.exp(-esp / 2 / t2)
        z = 1 + (z - 1) * math.exp(-esp / 2 / t1)

    echoes = []
    for angle in np.deg2rad(angles):
        relax()
        x, z = np.cos(angle) * x + np.sin(angle) * z, np.cos(angle) * z - np.sin(angle) * x
        relax()
        echoes.append(y.mean())
    amplitudes = echo_amplitudes(refocusing_angles=angles, echo_spacing=esp, t1=t1, t2=t2)
    assert amplitudes.tolist() == pytest.approx(echoes, abs=1e-12)


def test_equivalent_echo_time_of_a_variable_flip_angle_train() -> None:
    """A SPACE-like train: down to 20 degrees, up to 100 at the centre of k-space and 140 at the end."""
    ramp = [130.0, 80.0, 50.0, 35.0, 25.0, 20.0]
    angles = ramp + list(np.linspace(20.0, 140.0, 144))
    centre = 100
    nominal = (centre + 1) * 0.0035
    time = equivalent_echo_time(refocusing_angles=angles, echo_spacing=0.0035, echo_index=centre)
    assert 0.2 * nominal < time < 0.5 * nominal
    full = equivalent_echo_time(refocusing_angles=[180.0] * 150, echo_spacing=0.0035, echo_index=centre)
    assert full == pytest.approx(nominal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"echo_index": 3}, r"echo_index must lie in 0\.\.2, .* got 3"),
        ({"echo_spacing": 0.0}, r"above 0 s, got 0\.0"),
        ({"t2": -1.0}, r"and -1\.0"),
        ({"refocusing_angles": [0.0] * 3}, "has no amplitude"),
    ],
)
def test_trains_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    train: dict[str, Any] = {"refocusing_angles": [150.0] * 3, "echo_spacing": 0.01, "echo_index": 1}
    with pytest.raises(TimingError, match=message):
        equivalent_echo_time(**(train | change))
