"""What must hold for all tissues and protocols: limits, monotonicity, bounds, ADC and uniform images."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anystroke.acquisition.relaxation import power
from anystroke.acquisition.sequences.balanced_ssfp import balanced_ssfp
from anystroke.acquisition.sequences.diffusion import apparent_diffusion_coefficient, diffusion_weighted
from anystroke.acquisition.sequences.double_inversion import double_inversion_recovery
from anystroke.acquisition.sequences.echo_train import incidental_mt_factor
from anystroke.acquisition.sequences.flair import flair
from anystroke.acquisition.sequences.gradient_echo import spoiled_gradient_echo
from anystroke.acquisition.sequences.mp2rage import mp2rage, uniform_image
from anystroke.acquisition.sequences.spin_echo import spin_echo
from anystroke.acquisition.sequences.turbo_spin_echo import turbo_spin_echo
from anystroke.acquisition.timing import TimingError

quick = settings(max_examples=60, deadline=None)
rates = st.floats(0.15, 5.0)
decays = st.floats(0.3, 100.0)


def maps(r1: float, transverse: float, name: str = "r2") -> dict[str, Any]:
    return {
        "proton_density": torch.ones(1, dtype=torch.float64),
        "r1": torch.full((1,), r1, dtype=torch.float64),
        name: torch.full((1,), transverse, dtype=torch.float64),
    }


def train(**changes: Any) -> dict[str, Any]:
    return {"echo_time": 0.1, "echo_spacing": 0.01, "echo_train_length": 16} | changes


@quick
@given(r1=rates, r2=decays, short=st.floats(0.6, 4.0), more=st.floats(0.01, 4.0))
def test_longer_repetition_gives_more_spin_echo_signal(
    r1: float, r2: float, short: float, more: float
) -> None:
    for signal, extra in (
        (spin_echo, {"echo_time": 0.02}),
        (turbo_spin_echo, train()),
    ):
        one, two = (signal(**maps(r1, r2), repetition_time=tr, **extra) for tr in (short, short + more))
        assert two.item() >= one.item() - 1e-12


@quick
@given(r1=rates, r2=decays, index=st.integers(1, 15))
def test_later_echo_gives_less_signal(r1: float, r2: float, index: int) -> None:
    early, late = (
        flair(**maps(r1, r2), repetition_time=9.0, inversion_time=2.5, **train(echo_time=0.01 * number))
        for number in (index, index + 1)
    )
    assert late.item() <= early.item()
    assert late.item() == pytest.approx(early.item() * torch.exp(torch.tensor(-0.01 * r2)).item(), rel=1e-6)


@quick
@given(r1=rates, r2=decays, adc=st.floats(0.0, 3.2e-3), b=st.floats(1.0, 3000.0))
def test_diffusion_weighting_darkens_and_gives_the_adc_back(
    r1: float, r2: float, adc: float, b: float
) -> None:
    diffusion = torch.full((1,), adc, dtype=torch.float64)
    low, high = (
        diffusion_weighted(**maps(r1, r2), adc=diffusion, repetition_time=4.0, echo_time=0.08, b_value=value)
        for value in (0.0, b)
    )
    assert high.item() <= low.item()
    back = apparent_diffusion_coefficient(low=low, high=high, b_values=(0.0, b))
    assert back.item() == pytest.approx(adc, abs=1e-12 + 1e-14 / b)


@quick
@given(r1=rates, r2star=decays, angle=st.floats(1.0, 89.0), saturated=st.floats(0.0, 100.0))
def test_mt_only_takes_signal(r1: float, r2star: float, angle: float, saturated: float) -> None:
    echo: dict[str, Any] = {"repetition_time": 0.03, "echo_time": 0.004, "flip_angle": angle}
    plain = spoiled_gradient_echo(**maps(r1, r2star, "r2star"), **echo)
    with_mt = spoiled_gradient_echo(
        **maps(r1, r2star, "r2star"), mt_saturation=torch.full((1,), saturated, dtype=torch.float64), **echo
    )
    assert 0.0 <= with_mt.item() <= plain.item() * (1 + 1e-12) <= 1.0


@quick
@given(
    r1=rates,
    eff=st.floats(0.0, 1.0),
    angles=st.tuples(st.floats(1.0, 20.0), st.floats(1.0, 20.0)),
    beta=st.floats(0.0, 0.1),
)
def test_uniform_image_is_bounded_and_dark_without_signal(
    r1: float, eff: float, angles: tuple[float, float], beta: float
) -> None:
    inv1, inv2, uni = mp2rage(
        **maps(r1, 20.0, "r2star"),
        repetition_time=5.5,
        inversion_times=(0.8, 2.4),
        flip_angles=angles,
        excitation_spacing=0.007,
        n_excitations=130,
        echo_time=0.003,
        inversion_efficiency=eff,
        robust_beta=beta,
        signed=True,
    )
    assert -0.5 <= uni.item() <= 0.5
    assert uni.item() <= (inv1 * inv2 / (inv1**2 + inv2**2)).item() + 1e-12
    nothing = torch.zeros(1)
    dark = uniform_image(inv1=nothing, inv2=nothing, robust_beta=beta).item()
    assert dark == (pytest.approx(-0.5) if beta > 1e-30 else pytest.approx(0.0, abs=0.5))


def test_uniform_image_does_not_depend_on_proton_density_and_decay_and_falls_with_t1() -> None:
    parameters: dict[str, Any] = {
        "repetition_time": 5.5,
        "inversion_times": (0.8, 2.4),
        "flip_angles": (4.0, 5.0),
        "excitation_spacing": 0.007,
        "n_excitations": 130,
        "echo_time": 0.003,
    }
    r1 = 1.0 / torch.linspace(0.6, 2.8, 60, dtype=torch.float64)
    one = torch.ones_like(r1)
    _, _, uni = mp2rage(proton_density=one, r1=r1, r2star=one, **parameters)
    _, _, other = mp2rage(proton_density=70 * one, r1=r1, r2star=50 * one, **parameters)
    assert torch.allclose(uni, other, rtol=1e-12)
    assert bool((uni.diff() < 0).all())
    assert float(uni[0]) > 0 > float(uni[-1])


def test_second_mp2rage_image_is_stable_in_float32_for_short_t1() -> None:
    """Followed backwards it would be 0.99 in place of 0.08 at T1 = 0.2 s."""

    def second(dtype: torch.dtype) -> Tensor:
        t1 = torch.tensor([0.1, 0.2, 0.25, 0.4, 1.0, 4.0], dtype=dtype)
        one = torch.ones_like(t1)
        return mp2rage(
            proton_density=one,
            r1=1 / t1,
            r2star=one,
            repetition_time=6.25,
            inversion_times=(0.8, 2.2),
            flip_angles=(4.0, 5.0),
            excitation_spacing=0.0058,
            n_excitations=160,
            echo_time=0.0029,
        )[1]

    assert torch.allclose(second(torch.float32).double(), second(torch.float64), rtol=3e-6)


@quick
@given(r1=rates, factor=st.floats(0.5, 50.0), angle=st.floats(40.0, 85.0), offset=st.floats(-80.0, 80.0))
def test_ssfp_is_dark_at_its_null_and_symmetric_about_resonance(
    r1: float, factor: float, angle: float, offset: float
) -> None:
    tissue = maps(r1, max(r1 * factor, 0.3))
    shots: dict[str, Any] = {"repetition_time": 0.005, "flip_angle": angle}
    on = balanced_ssfp(**tissue, **shots)
    zero = torch.zeros(1, dtype=torch.float64)
    assert balanced_ssfp(**tissue, **shots, off_resonance=zero).item() == pytest.approx(on.item())
    null = balanced_ssfp(**tissue, **shots, off_resonance=zero + 100.0)
    assert null.item() <= 0.06
    one, mirrored = (
        balanced_ssfp(**tissue, **shots, off_resonance=zero + shift) for shift in (offset, -offset)
    )
    assert one.item() == pytest.approx(mirrored.item())


def test_ssfp_tends_to_its_short_repetition_limit() -> None:
    tissue = maps(0.5, 5.0)
    signal = balanced_ssfp(**tissue, repetition_time=1e-4, flip_angle=40.0).item()
    angle = torch.deg2rad(torch.tensor(40.0, dtype=torch.float64))
    limit = torch.sin(angle) / (1 + torch.cos(angle) + (1 - torch.cos(angle)) * 10.0)
    assert signal == pytest.approx(limit.item(), rel=1e-3)


def test_no_inversion_leaves_double_inversion_a_saturation_recovery() -> None:
    signal = double_inversion_recovery(
        **maps(1.0, 1.0),
        repetition_time=9.0,
        inversion_times=(2.5, 0.4),
        inversion_efficiency=0.0,
        **train(),
    )
    assert signal.item() == pytest.approx(0.9048374 * (1 - 0.6703200), rel=1e-6)


def test_adc_is_zero_where_an_image_has_no_logarithm_and_keeps_gradients() -> None:
    low = torch.tensor([0.0, 5.0, 5.0, -1.0], requires_grad=True)
    high = torch.tensor([1.0, 0.0, 2.5, 1.0], requires_grad=True)
    adc = apparent_diffusion_coefficient(low=low, high=high)
    assert adc.tolist() == pytest.approx([0.0, 0.0, 0.0006931472, 0.0])
    adc.sum().backward()  # type: ignore[no-untyped-call]
    assert low.grad is not None
    assert bool(low.grad.isfinite().all())
    with pytest.raises(TimingError, match=r"must rise .* got \(1000\.0, 0\.0\)"):
        apparent_diffusion_coefficient(low=low, high=high, b_values=(1000.0, 0.0))


def test_incidental_mt_refuses_a_negative_sensitivity() -> None:
    with pytest.raises(ValueError, match=r"not negative, got -0\.1"):
        incidental_mt_factor(mt_saturation=torch.ones(1), sensitivity=-0.1)


@quick
@given(exponent=st.integers(0, 300), base=st.floats(-1.0, 1.0))
def test_power_by_squaring(exponent: int, base: float) -> None:
    squared = power(torch.tensor([base], dtype=torch.float64), exponent)
    assert float(squared) == pytest.approx(base**exponent, rel=1e-12, abs=1e-300)
