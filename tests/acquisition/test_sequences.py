"""Signal equations against a pulse-by-pulse Bloch simulation in float64, limits and published vectors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anystroke.acquisition.sequences.balanced_ssfp import balanced_ssfp
from anystroke.acquisition.sequences.diffusion import diffusion_weighted
from anystroke.acquisition.sequences.flair import flair, null_inversion_time
from anystroke.acquisition.sequences.gradient_echo import spoiled_gradient_echo
from anystroke.acquisition.sequences.mprage import mprage
from anystroke.acquisition.sequences.spin_echo import spin_echo
from anystroke.acquisition.sequences.turbo_spin_echo import turbo_spin_echo
from anystroke.acquisition.timing import TimingError

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
        lambda dtype: spin_echo(
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
        lambda dtype: diffusion_weighted(
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
        lambda dtype: turbo_spin_echo(
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
        lambda dtype: flair(
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
        lambda dtype: spoiled_gradient_echo(
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
        lambda dtype: mprage(
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


ONE = torch.ones(1, dtype=torch.float64)


def test_published_vectors_of_gradient_echoes() -> None:
    """PD 100, R1 1, R2* 20: values of nitorch's equations where they are the same as these."""
    echo: dict[str, Any] = {"proton_density": 100 * ONE, "r1": ONE, "r2star": 20 * ONE}
    plain = spoiled_gradient_echo(**echo, repetition_time=0.025, echo_time=0.005, flip_angle=20.0)
    assert plain.item() == pytest.approx(9.149858, rel=1e-6)
    saturated = spoiled_gradient_echo(
        **echo, mt_saturation=ONE, repetition_time=0.025, echo_time=0.005, flip_angle=20.0
    )
    assert saturated.item() == pytest.approx(8.162534, rel=1e-6)


def test_published_vector_of_mprage() -> None:
    """nitorch reads one excitation before the centre: excitation 79 of 160, fired TX before TI."""
    signal = mprage(
        proton_density=100 * ONE,
        r1=ONE,
        r2star=20 * ONE,
        repetition_time=2.3,
        inversion_time=0.9 - 0.006,
        excitation_spacing=0.006,
        n_excitations=160,
        flip_angle=9.0,
        echo_time=0.003,
        inversion_efficiency=0.96,
        centre_index=79,
    )
    assert signal.item() == pytest.approx(3.315510, rel=1e-6)


def test_turbo_spin_echo_is_the_textbook_form_to_2e_5() -> None:
    signal = turbo_spin_echo(
        proton_density=tensor(PD),
        r1=tensor(1 / T1),
        r2=tensor(1 / T2),
        repetition_time=2.0,
        echo_time=0.08,
        echo_spacing=0.01,
        echo_train_length=15,
    )
    textbook = PD * np.exp(-0.08 / T2) * (1 - np.exp(-(2.0 - 0.15) / T1))
    assert np.max(np.abs(signal.numpy() - textbook) / PD) < 2e-5


def test_long_repetition_leaves_proton_density_and_decay() -> None:
    spin = spin_echo(proton_density=80 * ONE, r1=ONE, r2=10 * ONE, repetition_time=60.0, echo_time=0.05)
    assert spin.item() == pytest.approx(80 * math.exp(-0.5), rel=1e-12)
    gradient = spoiled_gradient_echo(
        proton_density=80 * ONE, r1=ONE, r2star=10 * ONE, repetition_time=60.0, echo_time=0.05, flip_angle=30
    )
    assert gradient.item() == pytest.approx(80 * math.exp(-0.5) * 0.5, rel=1e-12)


def test_no_diffusion_weighting_is_a_spin_echo() -> None:
    common: dict[str, Any] = {"proton_density": 80 * ONE, "r1": ONE, "r2": 10 * ONE}
    diffusion = diffusion_weighted(**common, adc=1e-3 * ONE, repetition_time=4.0, echo_time=0.08, b_value=0.0)
    assert torch.equal(diffusion, spin_echo(**common, repetition_time=4.0, echo_time=0.08))


def test_diffusion_decay_gives_the_adc_back() -> None:
    adc = torch.tensor([0.0, 0.5e-3, 3.1e-3], dtype=torch.float64)
    low, high = (
        diffusion_weighted(
            proton_density=80 * ONE,
            r1=ONE,
            r2=10 * ONE,
            adc=adc,
            repetition_time=4.0,
            echo_time=0.08,
            b_value=b,
        )
        for b in (0.0, 1000.0)
    )
    assert torch.allclose(torch.log(low / high) / 1000.0, adc, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("efficiency", [1.0, 0.9])
@pytest.mark.parametrize("t1", [0.35, 1.4, 4.2])
def test_null_inversion_time_nulls(t1: float, efficiency: float) -> None:
    train: dict[str, Any] = {
        "repetition_time": 9.0,
        "echo_spacing": 0.001,
        "inversion_efficiency": efficiency,
    }
    time = null_inversion_time(t1=t1, echo_train_length=100, **train)
    signal = flair(
        proton_density=100 * ONE,
        r1=ONE / t1,
        r2=ONE,
        inversion_time=time,
        echo_time=0.1,
        echo_train_length=100,
        **train,
    )
    assert abs(signal.item()) < 1e-3


def test_null_inversion_time_refuses_a_t1_of_zero() -> None:
    with pytest.raises(TimingError, match=r"t1 must be above 0 s, got 0\.0"):
        null_inversion_time(t1=0.0, repetition_time=9.0, echo_spacing=0.01, echo_train_length=4)


def test_gradient_echo_peaks_at_the_ernst_angle() -> None:
    angles = torch.linspace(1.0, 40.0, 40, dtype=torch.float64)
    signal = spoiled_gradient_echo(
        proton_density=ONE,
        r1=ONE,
        r2star=ONE,
        repetition_time=0.02,
        echo_time=0.0,
        flip_angle=1.0,
        b1_plus=angles,
    )
    ernst = math.degrees(math.acos(math.exp(-0.02)))
    assert abs(angles[signal.argmax()].item() - ernst) <= 0.5


def test_no_inversion_makes_flair_a_saturation_recovery() -> None:
    signal = flair(
        proton_density=ONE,
        r1=ONE,
        r2=ONE,
        repetition_time=5.0,
        inversion_time=1.5,
        echo_time=0.1,
        echo_spacing=0.0125,
        echo_train_length=8,
        inversion_efficiency=0.0,
    )
    assert signal.item() == pytest.approx(math.exp(-0.1) * (1 - math.exp(-1.5)), rel=1e-12)


@pytest.mark.parametrize("r1", [1e-4, 1e-2])
def test_long_t1_keeps_relative_accuracy_in_float32(r1: float) -> None:
    """1 - exp(-x) for small x: without expm1 the float32 error would be 1e-2 at TR R1 = 6e-6."""

    def signals(dtype: torch.dtype) -> list[float]:
        one = torch.ones((), dtype=dtype)
        gradient = spoiled_gradient_echo(
            proton_density=one,
            r1=r1 * one,
            r2star=one,
            repetition_time=0.006,
            echo_time=0.002,
            flip_angle=8.0,
        )
        balanced = balanced_ssfp(
            proton_density=one, r1=r1 * one, r2=one, repetition_time=0.006, flip_angle=40.0
        )
        return [gradient.item(), balanced.item()]

    assert signals(torch.float32) == pytest.approx(signals(torch.float64), rel=2e-6)


@pytest.mark.parametrize("r1", [1e-4, 1e-2, 0.24])
def test_spin_echoes_are_right_to_3e_7_of_m0_in_float32(r1: float) -> None:
    """They are sums of exponentials up to 2, so that is their last digit."""

    def signals(dtype: torch.dtype) -> list[float]:
        one = torch.ones((), dtype=dtype)
        maps: dict[str, Any] = {"proton_density": one, "r1": r1 * one, "r2": one}
        train: dict[str, Any] = {"echo_time": 0.1, "echo_spacing": 0.01, "echo_train_length": 16}
        return [
            spin_echo(**maps, repetition_time=0.5, echo_time=0.01).item(),
            turbo_spin_echo(**maps, repetition_time=2.0, **train).item(),
            flair(**maps, repetition_time=6.0, inversion_time=2.0, **train).item(),
        ]

    assert signals(torch.float32) == pytest.approx(signals(torch.float64), abs=3e-7)


def test_short_t1_stays_stable_in_float32() -> None:
    """Propagating a train backwards blows up for short T1 in float32; forwards it does not."""

    def signal(dtype: torch.dtype) -> torch.Tensor:
        t1 = torch.tensor([0.05, 0.1, 0.2, 0.25, 0.4], dtype=dtype)
        one = torch.ones_like(t1)
        return mprage(
            proton_density=one,
            r1=1 / t1,
            r2star=one,
            repetition_time=2.3,
            inversion_time=0.9,
            excitation_spacing=0.007,
            n_excitations=200,
            flip_angle=9.0,
            echo_time=0.003,
        )

    assert torch.allclose(signal(torch.float32).double(), signal(torch.float64), rtol=2e-6)
