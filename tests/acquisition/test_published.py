"""Published equations and presets: reference values, quirks, and how often they are impossible."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from anystroke.acquisition.catalogue import from_dict
from anystroke.acquisition.presets.preset import load_preset
from anystroke.acquisition.sequences.mprage import mprage
from anystroke.acquisition.sequences.published.flair import PublishedFlair, published_flair
from anystroke.acquisition.sequences.published.gradient_echo import PublishedSpgr, published_gradient_echo
from anystroke.acquisition.sequences.published.mp2rage import PublishedMp2rage, published_mp2rage
from anystroke.acquisition.sequences.published.mprage import PublishedMprage, printed_mprage, published_mprage
from anystroke.acquisition.sequences.published.turbo_spin_echo import published_turbo_spin_echo
from anystroke.acquisition.timing import TimingError
from anystroke.core.rng import stream

ONE = torch.ones(1, dtype=torch.float64)
ECHO: dict[str, Any] = {"proton_density": 100 * ONE, "r1": ONE, "r2star": 20 * ONE}
MPRAGE: dict[str, Any] = {
    "repetition_time": 2.3,
    "inversion_time": 0.9,
    "excitation_spacing": 0.006,
    "n_excitations": 160.0,
    "flip_angle": 9.0,
    "echo_time": 0.003,
    "inversion_efficiency": 0.96,
}
MP2RAGE: dict[str, Any] = {
    "repetition_time": 6.25,
    "inversion_times": (0.8, 2.2),
    "excitation_spacing": 0.0058,
    "n_excitations": 160.0,
    "flip_angles": (4.0, 5.0),
    "echo_time": 0.0029,
    "inversion_efficiency": 0.96,
}
GRE: dict[str, Any] = {"repetition_time": 0.025, "echo_time": 0.005, "flip_angle": 20.0}


def test_reference_values_of_nitorch() -> None:
    """PD 100, R1 1, R2* 20, computed with nitorch itself; its MP2RAGE images have no R2* decay."""
    tse = published_turbo_spin_echo(**ECHO, repetition_time=3.0, echo_time=0.08)
    assert tse.item() == pytest.approx(19.184468, rel=1e-6)
    flair = published_flair(**ECHO, repetition_time=5.0, echo_time=0.02, inversion_time=1.0)
    assert flair.item() == pytest.approx(18.164270, rel=1e-6)
    assert published_mprage(**ECHO, **MPRAGE).item() == pytest.approx(3.315510, rel=1e-6)
    assert published_gradient_echo(**ECHO, **GRE).item() == pytest.approx(9.149858, rel=1e-6)
    right = published_gradient_echo(**ECHO, **GRE, mt_saturation=ONE, mt_unit_bug=False)
    assert right.item() == pytest.approx(8.162534, rel=1e-6)
    bug = published_gradient_echo(**ECHO, **GRE, mt_saturation=1.5 * ONE)
    assert bug.item() == pytest.approx(-0.262, abs=5e-4)
    inv1, inv2, uni = published_mp2rage(**{**ECHO, "r2star": 0 * ONE}, **MP2RAGE)
    assert [inv1.item(), inv2.item(), uni.item()] == pytest.approx([0.921348, 5.382171, 0.166312], rel=3e-6)


def test_gain_scales_and_nothing_else() -> None:
    plain = published_mprage(**ECHO, **MPRAGE)
    assert torch.allclose(published_mprage(**ECHO, **MPRAGE, gain=3.0), 3.0 * plain)
    _, _, uni = published_mp2rage(**ECHO, **MP2RAGE)
    assert torch.equal(published_mp2rage(**ECHO, **MP2RAGE, gain=3.0)[2], uni)


def test_flair_keeps_its_sign_and_exceeds_proton_density_after_the_next_inversion() -> None:
    early = published_flair(**ECHO, repetition_time=5.0, echo_time=0.02, inversion_time=0.3)
    assert early.item() < 0
    late = published_flair(
        **{**ECHO, "r2star": 0 * ONE}, repetition_time=0.5, echo_time=0.02, inversion_time=2.0
    )
    assert late.item() == pytest.approx(134.0, abs=0.5)


def test_published_mprage_is_the_right_one_read_an_excitation_early() -> None:
    right = mprage(**ECHO, **{**MPRAGE, "n_excitations": 160})
    wrong = published_mprage(**ECHO, **MPRAGE)
    assert 0.001 < abs(wrong.item() / right.item() - 1.0) < 0.06


def test_printed_equation_6_is_not_an_mprage() -> None:
    """Grey over white matter is 0.9 where an MPRAGE gives 0.7, and the signal 20 times too large."""
    tissue = torch.tensor([0.968, 0.652], dtype=torch.float64)
    density = torch.tensor([69.79, 76.84], dtype=torch.float64)
    printed = printed_mprage(
        proton_density=density,
        r1=tissue,
        repetition_time=2.3,
        excitation_spacing=0.006,
        delay_time=0.92,
        n_excitations=160,
        flip_angle=9.0,
    )
    right = mprage(proton_density=density, r1=tissue, r2star=0 * tissue, **{**MPRAGE, "n_excitations": 160})
    assert bool((printed > 10 * right).all())
    assert (printed[1] / printed[0]).item() > 1.2 * (right[1] / right[0]).item()


def test_uniform_image_of_magnitudes_is_ambiguous() -> None:
    r1 = 1.0 / torch.linspace(0.5, 4.5, 80, dtype=torch.float64)
    one = torch.ones_like(r1)
    maps: dict[str, Any] = {"proton_density": one, "r1": r1, "r2star": one}
    _, _, uni = published_mp2rage(**maps, **MP2RAGE)
    steps = set(uni.diff().sign().tolist())
    assert 0.0 <= float(uni.min()) < float(uni.max()) <= 0.5
    assert steps == {-1.0, 1.0}


@pytest.mark.parametrize(
    ("function", "extra"),
    [(published_turbo_spin_echo, {}), (published_flair, {"inversion_time": 1.0})],
)
def test_times_that_not_even_an_equation_takes_are_refused(
    function: Callable[..., Tensor], extra: dict[str, float]
) -> None:
    with pytest.raises(TimingError, match=r"repetition_time must be finite and above 0, got -1\.0"):
        function(**ECHO, **extra, repetition_time=-1.0, echo_time=0.1)


def test_protocols_say_why_they_are_impossible_and_still_play() -> None:
    maps = {**ECHO, "mt_saturation": 1.5 * ONE}
    late = PublishedFlair(repetition_time=0.5, inversion_time=2.0, echo_time=0.02)
    assert "do not fit into repetition_time 0.5 s" in late.impossible
    assert late.signal(maps).item() > 80
    assert PublishedSpgr(**GRE).impossible == ""
    assert PublishedSpgr(**GRE).signal(maps).item() < 0
    overlapping = PublishedMp2rage(**{**MP2RAGE, "excitation_spacing": 0.02})
    assert overlapping.impossible == "the time between the inversion and the first train would be -0.8 s"
    assert bool(overlapping.signal(maps).isfinite().all())
    assert PublishedMprage(**MPRAGE).impossible == ""
    assert (
        PublishedFlair(repetition_time=5.0, inversion_time=0.3, echo_time=0.02, magnitude=True)
        .signal(maps)
        .item()
        > 0
    )
    with pytest.raises(ValueError, match=r"n_excitations must be finite and above 0, got 0\.0"):
        PublishedMprage(**{**MPRAGE, "n_excitations": 0.0})


@pytest.mark.parametrize(
    ("preset", "weighting", "share"),
    [
        ("paper", "FLAIR", 0.565),
        ("paper", "T2w", 0.506),
        ("paper", "T1w", 0.025),
        ("paper", "T2starw", 0.154),
        ("paper_code", "UNIT1", 0.927),
        ("qatlas", "T1w", 0.011),
    ],
)
def test_published_presets_are_impossible_as_often_as_counted(
    preset: str, weighting: str, share: float
) -> None:
    """Shares of 3000 draws with the published program, whose rules on MPRAGE's echo are a little milder."""
    drawn = load_preset(preset).infeasible_share(stream(1, preset, weighting), weighting=weighting, draws=800)
    assert drawn == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("preset", ["paper", "paper_code", "qatlas"])
def test_published_presets_keep_what_is_impossible(preset: str) -> None:
    maps = {**{name: one.float() for name, one in ECHO.items()}, "mt_saturation": torch.ones(1)}
    loaded = load_preset(preset)
    drawn = [loaded.sample(stream(seed, preset)) for seed in range(150)]
    assert any(protocol.impossible for protocol in drawn)
    assert all(bool(protocol.signal(maps).isfinite().all()) for protocol in drawn)
    assert all(from_dict(protocol.to_dict()) == protocol for protocol in drawn)
    assert (
        len({protocol.sequence for protocol in drawn}) == {"paper": 4, "paper_code": 6, "qatlas": 1}[preset]
    )
