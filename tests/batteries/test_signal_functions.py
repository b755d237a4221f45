"""One battery of checks that every signal function passes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from anystroke.acquisition.sequences.balanced_ssfp import balanced_ssfp
from anystroke.acquisition.sequences.diffusion import diffusion_weighted
from anystroke.acquisition.sequences.double_inversion import double_inversion_recovery
from anystroke.acquisition.sequences.flair import flair
from anystroke.acquisition.sequences.gradient_echo import spoiled_gradient_echo
from anystroke.acquisition.sequences.inversion_recovery import inversion_recovery_spin_echo
from anystroke.acquisition.sequences.mp2rage import mp2rage
from anystroke.acquisition.sequences.mprage import mprage
from anystroke.acquisition.sequences.spin_echo import spin_echo
from anystroke.acquisition.sequences.turbo_spin_echo import turbo_spin_echo
from anystroke.acquisition.timing import TimingError

Signal = Callable[..., Tensor]
Case = tuple[Signal, tuple[str, ...], dict[str, Any]]

TRAIN = {"echo_time": 0.1, "echo_spacing": 0.01, "echo_train_length": 15}
INVERSION = {"repetition_time": 2.3, "inversion_time": 0.9, "inversion_efficiency": 0.95}
SHOTS = {"excitation_spacing": 0.008, "n_excitations": 160, "flip_angle": 9.0, "echo_time": 0.003}
SPIN = ("proton_density", "r1", "r2")
GRADIENT = ("proton_density", "r1", "r2star")

DOUBLE = {
    "repetition_time": 5.5,
    "inversion_times": (0.8, 2.4),
    "flip_angles": (5.0, 7.0),
    "inversion_efficiency": 0.95,
    "excitation_spacing": 0.007,
    "n_excitations": 130,
    "echo_time": 0.003,
}


def inv1(**arguments: Any) -> Tensor:
    return mp2rage(**arguments)[0]


def inv2(**arguments: Any) -> Tensor:
    return mp2rage(**arguments)[1]


CASES: dict[str, Case] = {
    "spin_echo": (spin_echo, SPIN, {"repetition_time": 0.6, "echo_time": 0.012}),
    "turbo_spin_echo": (turbo_spin_echo, SPIN, {"repetition_time": 4.0, **TRAIN}),
    "even_turbo_spin_echo": (
        turbo_spin_echo,
        SPIN,
        {"repetition_time": 4.0, **TRAIN, "echo_train_length": 16},
    ),
    "flair": (
        flair,
        SPIN,
        {"repetition_time": 9.0, "inversion_time": 2.5, "inversion_efficiency": 0.95, **TRAIN},
    ),
    "perfect_flair": (flair, SPIN, {"repetition_time": 9.0, "inversion_time": 2.5, **TRAIN}),
    "spoiled_gradient_echo": (
        spoiled_gradient_echo,
        GRADIENT,
        {"repetition_time": 0.025, "echo_time": 0.005, "flip_angle": 20.0},
    ),
    "mt_spoiled_gradient_echo": (
        spoiled_gradient_echo,
        (*GRADIENT, "mt_saturation"),
        {"repetition_time": 0.025, "echo_time": 0.005, "flip_angle": 6.0},
    ),
    "mprage": (mprage, GRADIENT, {**INVERSION, **SHOTS}),
    "odd_mprage": (mprage, GRADIENT, {**INVERSION, **SHOTS, "n_excitations": 151}),
    "inversion_recovery_spin_echo": (
        inversion_recovery_spin_echo,
        SPIN,
        {"repetition_time": 3.0, "inversion_time": 0.6, "echo_time": 0.015, "inversion_efficiency": 0.95},
    ),
    "perfect_inversion_recovery_spin_echo": (
        inversion_recovery_spin_echo,
        SPIN,
        {"repetition_time": 3.0, "inversion_time": 0.6, "echo_time": 0.015},
    ),
    "double_inversion_recovery": (
        double_inversion_recovery,
        SPIN,
        {"repetition_time": 9.0, "inversion_times": (2.6, 0.42), "inversion_efficiency": 0.95, **TRAIN},
    ),
    "mp2rage_inv1": (inv1, GRADIENT, DOUBLE),
    "mp2rage_inv2": (inv2, GRADIENT, {**DOUBLE, "n_excitations": 131}),
    "balanced_ssfp": (balanced_ssfp, SPIN, {"repetition_time": 0.005, "flip_angle": 40.0}),
    "banded_ssfp": (
        balanced_ssfp,
        (*SPIN, "off_resonance"),
        {"repetition_time": 0.005, "flip_angle": 40.0},
    ),
    "diffusion_weighted": (
        diffusion_weighted,
        (*SPIN, "adc"),
        {"repetition_time": 4.0, "echo_time": 0.08, "b_value": 1000.0},
    ),
}
HIGHEST = {
    "proton_density": 100.0,
    "r1": 4.0,
    "r2": 50.0,
    "r2star": 90.0,
    "mt_saturation": 2.0,
    "adc": 3e-3,
    "off_resonance": 60.0,
    "b1_plus": 1.4,
}
EXTREMES = {
    "proton_density": [0.0, 100.0],
    "r1": [0.0, 1e-6, 0.24, 20.0],
    "r2": [0.0, 10.0, 3000.0],
    "r2star": [0.0, 10.0, 3000.0],
    "mt_saturation": [0.0, 2.0, 100.0],
    "adc": [0.0, 3e-3],
    "off_resonance": [0.0, 100.0, -33.0],
    "b1_plus": [0.0, 1e-4, 1.0, 2.0],
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def random_maps(
    names: tuple[str, ...], *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        name: (HIGHEST[name] * (0.1 + 0.9 * torch.rand(*shape, generator=rng, dtype=torch.float64))).to(dtype)
        for name in names
    }


def extreme_maps(names: tuple[str, ...]) -> dict[str, Tensor]:
    """Every combination of the extremes, flattened."""
    grids = torch.meshgrid(*(torch.tensor(EXTREMES[name]) for name in names), indexing="ij")
    return {name: grid.flatten() for name, grid in zip(names, grids, strict=True)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_b1", [False, True])
def test_keeps_shape_and_dtype_and_is_finite(case: Case, dtype: torch.dtype, with_b1: bool) -> None:
    signal, names, parameters = case
    maps = random_maps((*names, "b1_plus") if with_b1 else names, 2, 1, 3, 4, 5, dtype=dtype)
    image = signal(**maps, **parameters)
    assert image.shape == (2, 1, 3, 4, 5)
    assert image.dtype == dtype
    assert bool(image.isfinite().all())
    assert bool((image >= 0).all())
    assert float(image.max()) > 0


def test_batch_equals_element(case: Case) -> None:
    signal, names, parameters = case
    maps = random_maps((*names, "b1_plus"), 4, 3)
    image = signal(**maps, **parameters)
    for index in range(4):
        alone = signal(**{name: one[index] for name, one in maps.items()}, **parameters)
        assert torch.allclose(image[index], alone, rtol=1e-6, atol=1e-9)


def test_broadcasts(case: Case) -> None:
    signal, names, parameters = case
    maps = random_maps(names, 3, 4)
    maps["r1"] = maps["r1"][:, :1]
    maps["proton_density"] = maps["proton_density"][:1]
    whole = {name: one.expand(3, 4) for name, one in maps.items()}
    assert torch.allclose(signal(**maps, **parameters), signal(**whole, **parameters), rtol=1e-6)


def test_is_linear_in_proton_density(case: Case) -> None:
    signal, names, parameters = case
    maps = random_maps((*names, "b1_plus"), 20)
    image = signal(**maps, **parameters)
    scaled = signal(**{**maps, "proton_density": maps["proton_density"] / 100.0}, **parameters)
    assert torch.allclose(scaled * 100.0, image, rtol=1e-6)


def test_magnitude_is_that_of_the_signed_signal(case: Case) -> None:
    signal, names, parameters = case
    maps = random_maps(names, 50)
    signed = signal(**maps, **parameters, signed=True)
    assert torch.equal(signal(**maps, **parameters), signed.abs())


def test_b1_of_one_changes_nothing(case: Case) -> None:
    signal, names, parameters = case
    maps = random_maps(names, 50, dtype=torch.float64)
    ones = torch.ones(50, dtype=torch.float64)
    scale = maps["proton_density"].max() * 1e-12
    difference = signal(**maps, **parameters, b1_plus=ones) - signal(**maps, **parameters)
    assert bool((difference.abs() < scale).all())


@pytest.mark.parametrize("with_b1", [False, True])
def test_extremes_give_no_nan_and_no_infinity(case: Case, with_b1: bool) -> None:
    signal, names, parameters = case
    maps = extreme_maps((*names, "b1_plus") if with_b1 else names)
    image = signal(**maps, **parameters)
    assert bool(image.isfinite().all())
    assert bool((image[maps["proton_density"] == 0] == 0).all())
    # Beyond this bound of relaxation no signal model is bounded: bSSFP has a pole at its nulls.
    physical = maps["r2"] >= maps["r1"] / 2 if "off_resonance" in names else torch.tensor(True)
    assert bool((image <= 100.0 * (1 + 1e-6)).logical_or(~physical).all())
    if with_b1:
        assert bool((image[maps["b1_plus"] == 0] == 0).all())


@pytest.mark.parametrize("with_b1", [False, True])
def test_bfloat16_is_finite_and_roughly_right(case: Case, with_b1: bool) -> None:
    signal, names, parameters = case
    names = (*names, "b1_plus") if with_b1 else names
    extreme = signal(**{name: one.bfloat16() for name, one in extreme_maps(names).items()}, **parameters)
    assert extreme.dtype == torch.bfloat16
    assert bool(extreme.isfinite().all())
    maps = random_maps(names, 500)
    image, rough = (
        signal(**maps, **parameters),
        signal(**{name: one.bfloat16() for name, one in maps.items()}, **parameters),
    )
    assert float((rough.float() - image).abs().median()) < 0.1 * float(image.max())


@pytest.mark.parametrize("angle", [0.0, 90.0, 180.0])
@pytest.mark.parametrize(
    "name", ["spoiled_gradient_echo", "mt_spoiled_gradient_echo", "mprage", "odd_mprage"]
)
def test_any_flip_angle_gives_no_nan(name: str, angle: float) -> None:
    signal, names, parameters = CASES[name]
    for efficiency in [{}, {"inversion_efficiency": 1.0}] if "mprage" in name else [{}]:
        image = signal(**extreme_maps(names), **{**parameters, "flip_angle": angle, **efficiency})
        assert bool(image.isfinite().all())
        assert float(image.abs().max()) <= (1e-4 if angle != 90.0 else 101.0)


@pytest.mark.parametrize("with_b1", [False, True])
def test_gradients_are_finite_even_at_the_extremes(case: Case, with_b1: bool) -> None:
    signal, names, parameters = case
    maps = extreme_maps((*names, "b1_plus") if with_b1 else names)
    for one in maps.values():
        one.requires_grad_()
    signal(**maps, **parameters).sum().backward()  # type: ignore[no-untyped-call]
    for name, one in maps.items():
        assert one.grad is not None, name
        assert bool(one.grad.isfinite().all()), name


def test_gradients_are_right(case: Case) -> None:
    signal, names, parameters = case
    names = (*names, "b1_plus")
    maps = random_maps(names, 3, dtype=torch.float64)

    def play(*tensors: Tensor) -> Tensor:
        return signal(**dict(zip(names, tensors, strict=True)), **parameters, signed=True)

    inputs = tuple(one.requires_grad_() for one in maps.values())
    assert torch.autograd.gradcheck(play, inputs, eps=1e-7, atol=1e-3, rtol=1e-4)


def test_takes_keywords_only(case: Case) -> None:
    signal, names, _ = case
    with pytest.raises(TypeError):
        signal(*random_maps(names, 2).values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repetition_time": 0.0}, "must be finite and above 0 s, got 0.0"),
        ({"repetition_time": float("nan")}, "got nan"),
        ({"echo_time": -0.001}, "at least 0 s, got -0.001"),
        ({"echo_time": 80.0}, "80 s"),
    ],
)
def test_impossible_timing_is_refused_with_its_values(
    case: Case, change: dict[str, float], message: str
) -> None:
    signal, names, parameters = case
    if not set(change) <= set(parameters):
        pytest.skip("bSSFP has its echo in the middle")
    with pytest.raises(TimingError) as error:
        signal(**random_maps(names, 2), **{**parameters, **change})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("turbo_spin_echo", {"echo_time": 0.2}, r"0\.2 s lies behind the last echo at 0\.15 s"),
        ("turbo_spin_echo", {"repetition_time": 0.14}, r"0\.15 s do not fit into repetition_time 0\.14 s"),
        ("turbo_spin_echo", {"echo_train_length": 0}, "at least 1, got 0"),
        ("turbo_spin_echo", {"echo_train_length": 3.5}, r"whole number of at least 1, got 3\.5"),
        ("flair", {"inversion_time": 9.0}, r"inversion_time 9 s \+ echo train 0\.15 s do not fit"),
        ("flair", {"inversion_time": -1.0}, r"at least 0 s, got -1\.0"),
        ("flair", {"inversion_efficiency": 1.2}, r"0\.\.1 \(a fraction\), got 1\.2"),
        ("spoiled_gradient_echo", {"flip_angle": 200.0}, r"0\.\.180 degrees, got 200\.0"),
        ("spoiled_gradient_echo", {"flip_angle": float("nan")}, "got nan"),
        ("mprage", {"inversion_time": 0.5}, r"80 excitations of 0\.008 s do not fit .* 0\.5 s"),
        ("mprage", {"repetition_time": 1.4}, "ends 0.14 s after the next inversion"),
        ("mprage", {"echo_time": 0.009}, r"echo_time 0\.009 s is not below excitation_spacing 0\.008 s"),
        ("mprage", {"centre_index": 160}, r"0\.\.159, below n_excitations, got 160"),
        (
            "inversion_recovery_spin_echo",
            {"inversion_time": 2.99},
            r"2\.99 s \+ echo_time 0\.015 s do not fit",
        ),
        ("double_inversion_recovery", {"inversion_times": (0.0, 1.0)}, r"above 0 s, got \(0\.0, 1\.0\)"),
        ("double_inversion_recovery", {"inversion_times": (8.6, 0.4)}, "inversion_time 9 s"),
        ("mp2rage_inv1", {"inversion_times": (0.8, 1.6)}, "the trains overlap by 0.11 s"),
        ("mp2rage_inv1", {"repetition_time": 2.6}, "second train ends 0.255 s after the next inversion"),
        ("mp2rage_inv1", {"flip_angles": (5.0, 200.0)}, r"flip_angles must lie in .* got 200\.0"),
        ("mp2rage_inv1", {"robust_beta": -1.0}, r"robust_beta must be finite and not negative, got -1\.0"),
        ("balanced_ssfp", {"flip_angle": -1.0}, r"0\.\.180 degrees, got -1\.0"),
        ("diffusion_weighted", {"b_value": -1.0}, r"b_value must lie in 0\.\.100000 s/mm\^2, got -1\.0"),
    ],
)
def test_impossible_parameters_are_refused_with_their_values(
    name: str, change: dict[str, Any], message: str
) -> None:
    signal, names, parameters = CASES[name]
    with pytest.raises(ValueError, match=message):
        signal(**random_maps(names, 2), **{**parameters, **change})
