"""T2-prepared SPGR: limits, a second simulator, and what it shows."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anystroke.acquisition.presets.preset import load_preset
from anystroke.acquisition.sequences.gradient_echo import spoiled_gradient_echo
from anystroke.acquisition.sequences.t2_prepared_spgr import T2PreparedSpgr, t2_prepared_spgr
from anystroke.acquisition.sidecars.reading import read_sidecar
from anystroke.acquisition.timing import TimingError
from anystroke.core.rng import stream
from anystroke.qmri.tissue_priors import MAPS, load_table

R1 = torch.tensor([0.25, 0.8, 1.2, 4.0], dtype=torch.float64)
R2 = torch.tensor([0.6, 10.0, 14.0, 40.0], dtype=torch.float64)
R2STAR = torch.tensor([1.0, 18.0, 22.0, 60.0], dtype=torch.float64)
ONE = torch.ones(4, dtype=torch.float64)
TIMING: dict[str, Any] = {
    "repetition_time": 1.5,
    "preparation_time": 0.05,
    "excitation_spacing": 0.006,
    "n_excitations": 60,
    "flip_angle": 12.0,
    "echo_time": 0.003,
}


def played(**changes: Any) -> Tensor:
    return t2_prepared_spgr(proton_density=ONE, r1=R1, r2=R2, r2star=R2STAR, **{**TIMING, **changes})


def followed(centre: int, b1: float = 1.0) -> Tensor:
    """Follow magnetisation vectors pulse by pulse until nothing changes."""
    angle = math.radians(TIMING["flip_angle"] * b1)
    spacing, half = TIMING["excitation_spacing"], TIMING["preparation_time"] / 2
    delay = TIMING["repetition_time"] - 2 * half - 60 * spacing
    upright, seen = ONE.clone(), ONE.clone()
    for _ in range(200):
        across, along = upright.clone(), torch.zeros(4, dtype=torch.float64)
        for flip in (True, False):
            across, along = across * torch.exp(-half * R2), 1 - (1 - along) * torch.exp(-half * R1)
            if flip:
                along = -along
        upright = across
        for pulse in range(60):
            if pulse == centre:
                seen = upright * math.sin(angle) * torch.exp(-TIMING["echo_time"] * R2STAR)
            upright = 1 - (1 - upright * math.cos(angle)) * torch.exp(-spacing * R1)
        upright = 1 - (1 - upright) * torch.exp(-delay * R1)
    return seen


@pytest.mark.parametrize("centre", [0, 7, 59])
def test_it_is_what_vectors_do_pulse_by_pulse(centre: int) -> None:
    torch.testing.assert_close(played(centre_index=centre), followed(centre), rtol=1e-9, atol=1e-12)
    weaker = played(centre_index=centre, b1_plus=0.8 * ONE)
    torch.testing.assert_close(weaker, followed(centre, 0.8), rtol=1e-9, atol=1e-12)


def test_without_preparation_and_pause_it_is_a_spoiled_gradient_echo() -> None:
    short = 1e-9
    image = played(preparation_time=short, repetition_time=60 * 0.006 + short, centre_index=30)
    steady = spoiled_gradient_echo(
        proton_density=ONE, r1=R1, r2star=R2STAR, repetition_time=0.006, echo_time=0.003, flip_angle=12.0
    )
    torch.testing.assert_close(image, steady, rtol=1e-5, atol=1e-9)


def test_after_full_recovery_the_first_echo_decays_with_t2_alone() -> None:
    times = (0.02, 0.05, 0.1)
    first, *others = (played(repetition_time=300.0, preparation_time=time) for time in times)
    for time, image in zip(times[1:], others, strict=True):
        torch.testing.assert_close(image / first, torch.exp(-(time - times[0]) * R2), rtol=1e-9, atol=1e-12)


def test_fluid_is_brightest_and_acute_infarcts_are_brighter_than_white_matter() -> None:
    tissues = ("white_matter", "ventricular_csf", "acute_infarct")
    draw = load_table().sample(stream(0), tissues, 3.0, spread=0.0)
    maps = dict(zip(MAPS, draw.mean.unbind(1), strict=True))
    white, fluid, infarct = load_preset("typical").sample(stream(1), weighting="T2prep").signal(maps)
    assert float(fluid) > float(infarct) > float(white)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repetition_time": 0.4}, "ends 0.01 s after the next preparation: repetition_time 0.4 s"),
        ({"echo_time": 0.007}, r"echo_time 0\.007 s is not below excitation_spacing 0\.006 s"),
        ({"centre_index": 60}, r"0\.\.59, below n_excitations, got 60"),
        ({"preparation_time": 0.0}, r"preparation_time must be finite and above 0 s, got 0\.0"),
        ({"flip_angle": 200.0}, r"0\.\.180 degrees, got 200\.0"),
    ],
)
def test_impossible_timing_is_refused_with_its_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TimingError, match=message):
        played(**change)
    with pytest.raises(TimingError, match=message):
        T2PreparedSpgr(**{**TIMING, **change})


def test_a_sidecar_that_says_little_is_completed_by_what_is_usual() -> None:
    data = {
        "PulseSequenceType": "3D T2prep SPGR",
        "MagneticFieldStrength": 3,
        "RepetitionTime": 0.4,
        "EchoTime": 0.002,
        "FlipAngle": 12,
    }
    reading = read_sidecar(data, suffix="T2w")
    assert reading.protocol == T2PreparedSpgr(
        weighting="T2w",
        repetition_time=0.4,
        preparation_time=0.05,
        excitation_spacing=0.006,
        n_excitations=58,
        flip_angle=12.0,
        echo_time=0.002,
    )
    assert set(reading.assumed) == {"preparation_time", "excitation_spacing", "n_excitations"}
