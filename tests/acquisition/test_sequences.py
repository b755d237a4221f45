"""Signal equations against a pulse-by-pulse Bloch simulation in float64, limits and published vectors."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anystroke.acquisition import sequences

Array = NDArray[np.float64]

# T1 and T2 of 16 tissues from fat to CSF in s, and T2*; MT in p.u.; ADC in mm^2/s.
T1 = np.geomspace(0.25, 4.5, 16)
T2 = np.geomspace(0.02, 2.0, 16)[(np.arange(16) * 7) % 16]
T2STAR = T2 * 0.6
MT = np.linspace(0.0, 2.0, 16)
ADC = np.linspace(0.0, 3.2e-3, 16)
PD = np.linspace(60.0, 100.0, 16)
B1 = np.linspace(0.6, 1.4, 16)


class Bloch:
    """Magnetisation vectors per tissue (one isochromat, or many for crushers), followed event by event."""

    def __init__(self, mz: Array, r1: Array, r2: Array, isochromats: int = 1) -> None:
        self.x, self.y = (np.zeros((isochromats, mz.size)) for _ in range(2))
        self.z = np.broadcast_to(mz, (isochromats, mz.size)).copy()
        self.r1, self.r2 = r1, r2
        self.phase = 2 * np.pi * np.arange(isochromats)[:, None] / isochromats

    def turn_x(self, angle: float | Array) -> None:
        cosine, sine = np.cos(angle), np.sin(angle)
        self.y, self.z = cosine * self.y + sine * self.z, cosine * self.z - sine * self.y

    def turn_y(self, angle: float | Array) -> None:
        cosine, sine = np.cos(angle), np.sin(angle)
        self.x, self.z = cosine * self.x + sine * self.z, cosine * self.z - sine * self.x

    def dephase(self) -> None:
        cosine, sine = np.cos(self.phase), np.sin(self.phase)
        self.x, self.y = cosine * self.x - sine * self.y, sine * self.x + cosine * self.y

    def wait(self, time: float) -> None:
        decay = np.exp(-time * self.r2)
        self.x, self.y = self.x * decay, self.y * decay
        self.z = 1.0 + (self.z - 1.0) * np.exp(-time * self.r1)

    def spoil(self) -> None:
        self.x, self.y = np.zeros_like(self.x), np.zeros_like(self.y)
        self.z = np.broadcast_to(self.z.mean(0), self.z.shape).copy()


def steady(play: Callable[[Array], tuple[Array, Array]]) -> Array:
    """Signal of a repetition that ends as it began; Mz after is affine in Mz before."""
    zero = np.zeros_like(T1)
    (_, at_zero), (_, at_one) = play(zero), play(zero + 1.0)
    return play(at_zero / (1.0 - (at_one - at_zero)))[0]


def simulate_spin_echo(*, tr: float, te: float, b: float = 0.0, b1: Array | None = None) -> Array:
    scale = np.ones_like(T1) if b1 is None else b1

    def play(mz: Array) -> tuple[Array, Array]:
        spins = Bloch(mz, 1 / T1, 1 / T2, isochromats=8)
        spins.turn_x(np.pi / 2 * scale)
        spins.wait(te / 2)
        spins.dephase()
        spins.turn_y(np.pi * scale)
        spins.dephase()
        spins.z = np.broadcast_to(spins.z.mean(0), spins.z.shape).copy()
        spins.wait(te / 2)
        echo = np.hypot(spins.x.mean(0), spins.y.mean(0))
        spins.spoil()
        spins.wait(tr - te)
        return echo, spins.z.mean(0)

    return PD * steady(play) * np.exp(-b * ADC)


def simulate_train(
    *,
    tr: float,
    te_index: int,
    esp: float,
    etl: int,
    ti: float | None = None,
    eff: float = 1.0,
    b1: Array | None = None,
) -> Array:
    """Turbo spin echo, inversion-prepared if ``ti`` is given; the echo of number ``te_index`` is recorded."""
    scale = np.ones_like(T1) if b1 is None else b1

    def play(mz: Array) -> tuple[Array, Array]:
        spins = Bloch(mz, 1 / T1, 1 / T2)
        if ti is not None:
            spins.z = -eff * spins.z
            spins.wait(ti)
        spins.turn_x(np.pi / 2 * scale)
        echo = np.zeros_like(mz)
        for index in range(1, etl + 1):
            spins.wait(esp / 2)
            spins.turn_y(np.pi)
            spins.wait(esp / 2)
            if index == te_index:
                echo = spins.y[0].copy()
        spins.spoil()
        spins.wait(tr - etl * esp - (ti or 0.0))
        return echo, spins.z[0]

    return PD * steady(play)


def simulate_gradient_echo(
    *, tr: float, te: float, fa: float, mt: Array | None = None, b1: Array | None = None
) -> Array:
    scale = np.ones_like(T1) if b1 is None else b1

    def play(mz: Array) -> tuple[Array, Array]:
        spins = Bloch(mz, 1 / T1, 1 / T2STAR)
        spins.z = spins.z * (1.0 if mt is None else 1.0 - mt / 100)
        spins.turn_x(np.deg2rad(fa) * scale)
        spins.wait(te)
        echo = spins.y[0].copy()
        spins.spoil()
        spins.wait(tr - te)
        return echo, spins.z[0]

    return PD * steady(play)


def simulate_mprage(
    *,
    tr: float,
    ti: float,
    tx: float,
    n: int,
    fa: float,
    te: float,
    eff: float,
    centre: int,
    b1: Array | None = None,
) -> Array:
    scale = np.ones_like(T1) if b1 is None else b1

    def play(mz: Array) -> tuple[Array, Array]:
        spins = Bloch(-eff * mz, 1 / T1, 1 / T2STAR)
        echo = np.zeros_like(mz)
        spins.wait(ti - centre * tx)
        for index in range(n):
            spins.turn_x(np.deg2rad(fa) * scale)
            spins.wait(te)
            if index == centre:
                echo = spins.y[0].copy()
            spins.spoil()
            spins.wait(tx - te)
        spins.wait(tr - (ti - centre * tx) - n * tx)
        return echo, spins.z[0]

    return PD * steady(play)


def tensor(array: Array, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(array.copy()).to(dtype)


def check(simulated: Array, signal: Callable[[torch.dtype], torch.Tensor], tolerance: float) -> None:
    """Compare at float64 and float32; relative to the signal, floored at 1 % of M0 as the nulls need."""
    scale = np.maximum(np.abs(simulated), 0.01 * PD)
    double = signal(torch.float64)
    assert double.dtype == torch.float64
    assert np.max(np.abs(double.numpy() - simulated) / scale) < tolerance
    single = signal(torch.float32)
    assert single.dtype == torch.float32
    assert np.max(np.abs(single.double().numpy() - simulated) / scale) < tolerance + 2e-5


def b1_maps(use_b1: bool) -> tuple[Array | None, Callable[[torch.dtype], torch.Tensor | None]]:
    return (B1, lambda dtype: tensor(B1, dtype)) if use_b1 else (None, lambda dtype: None)


# 20 draws x with and without B1+ for each sequence; tolerances are a few times the errors of float64.
DRAWS = [(seed, use_b1) for seed in range(20) for use_b1 in (False, True)]
TOLERANCE = 1e-9


@pytest.mark.parametrize(("seed", "use_b1"), DRAWS)
def test_spin_echo_and_diffusion_equal_bloch(seed: int, use_b1: bool) -> None:
    draw = np.random.default_rng(seed)
    te, tr, b = draw.uniform(0.01, 0.12), draw.uniform(0.4, 8.0), draw.uniform(0, 1500)
    b1, b1_tensor = b1_maps(use_b1)
    check(
        simulate_spin_echo(tr=tr, te=te, b1=b1),
        lambda dtype: sequences.spin_echo(
            proton_density=tensor(PD, dtype),
            r1=tensor(1 / T1, dtype),
            r2=tensor(1 / T2, dtype),
            repetition_time=tr,
            echo_time=te,
            b1_plus=b1_tensor(dtype),
        ),
        TOLERANCE,
    )
    check(
        simulate_spin_echo(tr=tr, te=te, b=b, b1=b1),
        lambda dtype: sequences.diffusion_weighted(
            proton_density=tensor(PD, dtype),
            r1=tensor(1 / T1, dtype),
            r2=tensor(1 / T2, dtype),
            adc=tensor(ADC, dtype),
            repetition_time=tr,
            echo_time=te,
            b_value=b,
            b1_plus=b1_tensor(dtype),
        ),
        TOLERANCE,
    )


@pytest.mark.parametrize(("seed", "use_b1"), DRAWS)
def test_turbo_spin_echo_equals_bloch(seed: int, use_b1: bool) -> None:
    draw = np.random.default_rng(seed)
    esp, etl = draw.uniform(0.004, 0.014), int(draw.integers(1, 40))
    te_index, tr = int(draw.integers(1, etl + 1)), draw.uniform(0.6, 8.0)
    b1, b1_tensor = b1_maps(use_b1)
    check(
        simulate_train(tr=tr, te_index=te_index, esp=esp, etl=etl, b1=b1),
        lambda dtype: sequences.turbo_spin_echo(
            proton_density=tensor(PD, dtype),
            r1=tensor(1 / T1, dtype),
            r2=tensor(1 / T2, dtype),
            repetition_time=tr,
            echo_time=te_index * esp,
            echo_spacing=esp,
            echo_train_length=etl,
            b1_plus=b1_tensor(dtype),
        ),
        TOLERANCE,
    )


@pytest.mark.parametrize(("seed", "use_b1"), DRAWS)
def test_flair_equals_bloch_with_its_sign(seed: int, use_b1: bool) -> None:
    draw = np.random.default_rng(seed)
    esp, etl = draw.uniform(0.004, 0.014), int(draw.integers(1, 40))
    te_index, ti = int(draw.integers(1, etl + 1)), draw.uniform(0.1, 2.8)
    tr, eff = ti + etl * esp + draw.uniform(0.0, 8.0), draw.uniform(0.85, 1.0)
    b1, b1_tensor = b1_maps(use_b1)
    check(
        simulate_train(tr=tr, te_index=te_index, esp=esp, etl=etl, ti=ti, eff=eff, b1=b1),
        lambda dtype: sequences.flair(
            proton_density=tensor(PD, dtype),
            r1=tensor(1 / T1, dtype),
            r2=tensor(1 / T2, dtype),
            repetition_time=tr,
            inversion_time=ti,
            echo_time=te_index * esp,
            echo_spacing=esp,
            echo_train_length=etl,
            inversion_efficiency=eff,
            b1_plus=b1_tensor(dtype),
            signed=True,
        ),
        TOLERANCE,
    )


@pytest.mark.parametrize("use_mt", [False, True])
@pytest.mark.parametrize(("seed", "use_b1"), DRAWS)
def test_spoiled_gradient_echo_equals_bloch(seed: int, use_b1: bool, use_mt: bool) -> None:
    draw = np.random.default_rng(seed)
    tr, fa = math.exp(draw.uniform(math.log(0.006), math.log(0.9))), draw.uniform(3.0, 85.0)
    te = tr * draw.uniform(0.0, 0.8)
    b1, b1_tensor = b1_maps(use_b1)
    check(
        simulate_gradient_echo(tr=tr, te=te, fa=fa, mt=MT if use_mt else None, b1=b1),
        lambda dtype: sequences.spoiled_gradient_echo(
            proton_density=tensor(PD, dtype),
            r1=tensor(1 / T1, dtype),
            r2star=tensor(1 / T2STAR, dtype),
            repetition_time=tr,
            echo_time=te,
            flip_angle=fa,
            mt_saturation=tensor(MT, dtype) if use_mt else None,
            b1_plus=b1_tensor(dtype),
        ),
        TOLERANCE,
    )


@pytest.mark.parametrize(("seed", "use_b1"), DRAWS)
def test_mprage_equals_bloch_with_its_sign(seed: int, use_b1: bool) -> None:
    draw = np.random.default_rng(seed)
    tx, n, fa = draw.uniform(0.004, 0.010), int(draw.integers(60, 200)), draw.uniform(4.0, 15.0)
    centre = n // 2 if seed % 2 else int(draw.integers(0, n))
    ti = centre * tx + draw.uniform(0.0, 0.6) * (seed % 5 > 0) + (0.001 if centre == 0 else 0.0)
    tr = ti + (n - centre) * tx + draw.uniform(0.0, 1.0) * (seed % 3 > 0)
    eff, te = draw.uniform(0.85, 1.0), tx * draw.uniform(0.0, 0.5)
    b1, b1_tensor = b1_maps(use_b1)
    check(
        simulate_mprage(tr=tr, ti=ti, tx=tx, n=n, fa=fa, te=te, eff=eff, centre=centre, b1=b1),
        lambda dtype: sequences.mprage(
            proton_density=tensor(PD, dtype),
            r1=tensor(1 / T1, dtype),
            r2star=tensor(1 / T2STAR, dtype),
            repetition_time=tr,
            inversion_time=ti,
            excitation_spacing=tx,
            n_excitations=n,
            flip_angle=fa,
            echo_time=te,
            inversion_efficiency=eff,
            centre_index=None if seed % 2 else centre,
            b1_plus=b1_tensor(dtype),
            signed=True,
        ),
        TOLERANCE,
    )
