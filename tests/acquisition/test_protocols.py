"""Protocols: validation, the signal they give, JSON, and the presets they are drawn from."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.catalogue import from_dict
from anystroke.acquisition.presets.distributions import Distribution, PresetError
from anystroke.acquisition.presets.preset import Preset, load_preset
from anystroke.acquisition.sequences.balanced_ssfp import BalancedSsfp
from anystroke.acquisition.sequences.diffusion import AdcMap, DiffusionWeighted
from anystroke.acquisition.sequences.double_inversion import DoubleInversionRecovery
from anystroke.acquisition.sequences.flair import Flair, null_inversion_time
from anystroke.acquisition.sequences.gradient_echo import SpoiledGradientEcho
from anystroke.acquisition.sequences.inversion_recovery import InversionRecoverySpinEcho
from anystroke.acquisition.sequences.mp2rage import Mp2rage
from anystroke.acquisition.sequences.mprage import Mprage, mprage
from anystroke.acquisition.sequences.spin_echo import SpinEcho
from anystroke.acquisition.sequences.turbo_spin_echo import TurboSpinEcho
from anystroke.acquisition.timing import TimingError
from anystroke.core.rng import stream
from anystroke.qmri.tissue_priors import MAPS, load_table

TISSUES = ("white_matter", "cortical_grey_matter", "ventricular_csf", "acute_infarct", "chronic_core")
WM, GM, CSF, ACUTE, CORE = range(5)

MP2RAGE = Mp2rage(
    repetition_time=5.0,
    inversion_times=(0.8, 2.4),
    flip_angles=(4.0, 5.0),
    excitation_spacing=0.0065,
    n_excitations=150,
    echo_time=0.003,
)
EXAMPLES: list[Protocol] = [
    TurboSpinEcho(repetition_time=4.0, echo_time=0.1, echo_spacing=0.01, echo_train_length=16),
    TurboSpinEcho(
        repetition_time=4.0, echo_time=0.1, echo_spacing=0.01, echo_train_length=16, incidental_mt=0.1
    ),
    Flair(repetition_time=9.0, inversion_time=2.5, echo_time=0.1, echo_spacing=0.01, echo_train_length=16),
    SpoiledGradientEcho(repetition_time=0.02, echo_time=0.004, flip_angle=25.0, mt_scale=0.7),
    Mprage(
        repetition_time=2.3,
        inversion_time=0.9,
        excitation_spacing=0.008,
        n_excitations=160,
        flip_angle=9.0,
        echo_time=0.003,
    ),
    DiffusionWeighted(repetition_time=4.0, echo_time=0.08, b_value=1000.0),
    SpinEcho(repetition_time=0.5, echo_time=0.012),
    InversionRecoverySpinEcho(repetition_time=3.0, inversion_time=0.6, echo_time=0.015),
    DoubleInversionRecovery(
        repetition_time=9.0,
        inversion_times=(2.6, 0.42),
        echo_time=0.03,
        echo_spacing=0.01,
        echo_train_length=16,
        incidental_mt=0.05,
    ),
    MP2RAGE,
    dataclasses.replace(MP2RAGE, image="inv2", robust_beta=0.0),
    BalancedSsfp(repetition_time=0.005, flip_angle=40.0),
]


@cache
def tissue_maps(field_strength: float) -> dict[str, Tensor]:
    """Population means of ``TISSUES``, one voxel each."""
    draw = load_table().sample(stream(0), TISSUES, field_strength, spread=0.0)
    return dict(zip(MAPS, draw.mean.unbind(1), strict=True))


@pytest.fixture(scope="module")
def preset() -> Preset:
    return load_preset("realistic")


class CountingMaps(Mapping[str, Tensor]):
    """Maps that are made when asked for, and note how often."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()

    def __getitem__(self, name: str) -> Tensor:
        self.made[name] += 1
        return torch.ones(3)

    def __iter__(self) -> Iterator[str]:
        return iter(MAPS)

    def __len__(self) -> int:
        return len(MAPS)


@pytest.mark.parametrize("protocol", EXAMPLES)
def test_json_round_trip(protocol: Protocol) -> None:
    assert from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


@pytest.mark.parametrize("protocol", EXAMPLES)
def test_signal_makes_only_the_maps_it_needs_and_once(protocol: Protocol) -> None:
    maps = CountingMaps()
    protocol.signal(maps)
    assert dict(maps.made) == dict.fromkeys(protocol.needs, 1)


@pytest.mark.parametrize("protocol", EXAMPLES)
def test_missing_map_is_named(protocol: Protocol) -> None:
    with pytest.raises(ValueError, match=r"missing: r1 \(got adc, .*, r2, r2star\)"):
        protocol.signal({name: torch.ones(2) for name in MAPS if name != "r1"})


@pytest.mark.parametrize("protocol", EXAMPLES)
def test_large_maps_give_the_same_as_small_ones(protocol: Protocol) -> None:
    rng = torch.Generator().manual_seed(0)
    maps = {name: torch.rand(2, 50, 400, generator=rng) + 0.5 for name in MAPS}
    b1 = torch.rand(2, 50, 400, generator=rng) + 0.5
    for given in (None, b1):
        large = protocol.signal(maps, b1_plus=given)
        assert large.shape == (2, 50, 400)
        for half in range(2):
            small = protocol.signal(
                {name: one[half, :40] for name, one in maps.items()},
                b1_plus=None if given is None else given[half, :40],
            )
            assert torch.allclose(large[half, :40], small, rtol=1e-6, atol=1e-9)


def test_large_maps_keep_their_gradient() -> None:
    r1 = torch.full((40000,), 1.0, requires_grad=True)
    one = torch.ones(40000)
    EXAMPLES[4].signal({"proton_density": one, "r1": r1, "r2star": one}).sum().backward()  # type: ignore[no-untyped-call]
    assert r1.grad is not None
    assert float(r1.grad.abs().min()) > 0


def test_signal_is_the_function_with_the_protocol_s_parameters() -> None:
    maps = tissue_maps(3.0)
    expected = mprage(
        proton_density=maps["proton_density"],
        r1=maps["r1"],
        r2star=maps["r2star"],
        repetition_time=2.3,
        inversion_time=0.9,
        excitation_spacing=0.008,
        n_excitations=160,
        flip_angle=9.0,
        echo_time=0.003,
        inversion_efficiency=0.95,
        signed=True,
    )
    assert torch.equal(EXAMPLES[4].signal(maps, signed=True), expected)


def test_signed_signal_is_negative_before_the_null() -> None:
    early = Flair(
        repetition_time=9.0, inversion_time=1.0, echo_time=0.1, echo_spacing=0.01, echo_train_length=16
    )
    maps = tissue_maps(3.0)
    signed = early.signal(maps, signed=True)
    assert float(signed[CSF]) < 0 < float(signed[WM])
    assert torch.equal(early.signal(maps), signed.abs())


def test_mt_acts_as_stated() -> None:
    maps = tissue_maps(3.0)
    plain, incidental = (protocol.signal(maps) for protocol in EXAMPLES[:2])
    assert torch.allclose(incidental / plain, 1 - 0.1 * maps["mt_saturation"])
    pulse = SpoiledGradientEcho(repetition_time=0.025, echo_time=0.004, flip_angle=6.0, mt_scale=1.0)
    none = SpoiledGradientEcho(repetition_time=0.025, echo_time=0.004, flip_angle=6.0)
    ratio = pulse.signal(maps) / none.signal(maps)
    assert float(ratio[WM]) < float(ratio[GM]) < float(ratio[CSF]) < 1


def test_mp2rage_gives_the_image_that_is_asked_for() -> None:
    maps = tissue_maps(3.0)
    uni = MP2RAGE.signal(maps)
    assert 0.0 <= float(uni.min()) < float(uni.max()) <= 1.0
    assert torch.allclose(MP2RAGE.signal(maps, signed=True), uni - 0.5, atol=1e-7)
    assert float(uni[WM]) > float(uni[GM]) > float(uni[CSF])
    background = MP2RAGE.signal({name: torch.zeros(3) for name in MAPS})
    assert background.tolist() == [0.0] * 3
    inv2 = dataclasses.replace(MP2RAGE, image="inv2").signal(maps)
    assert float(inv2.max()) > 1.0
    with pytest.raises(ValueError, match="image must be one of uni, inv1, inv2, got 'phase'"):
        dataclasses.replace(MP2RAGE, image="phase")
    with pytest.raises(ValueError, match="flip_angles must be two numbers, got 5"):
        from_dict(MP2RAGE.to_dict() | {"flip_angles": 5})


def test_adc_map_is_in_the_units_of_scanners() -> None:
    maps = tissue_maps(3.0)
    protocol = AdcMap(repetition_time=4.0, echo_time=0.08, b_value=1000.0)
    assert protocol.needs == ("adc",)
    assert torch.allclose(protocol.signal(maps), maps["adc"] * 1e6)
    assert float(protocol.signal(maps).argmin()) == ACUTE
    assert from_dict(protocol.to_dict()) == protocol


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repetition_time": "4"}, "repetition_time must be a number, got '4'"),
        ({"field_strength": 0.0}, r"above 0 T, got 0\.0"),
        ({"field_strength": float("inf")}, "got inf"),
        ({"incidental_mt": -0.1}, r"incidental_mt must be finite and not negative.* got -0\.1"),
        ({"dimensions": 4}, "dimensions must be 2 or 3, got 4"),
        ({"weighting": "T3w"}, "weighting must be one of T1w, .* got 'T3w'"),
        ({"echo_time": 5.0}, "echo_time 5 s lies behind the last echo"),
        ({"spin": 1}, "unknown key 'spin'; known: weighting"),
        ({"sequence": "epi"}, "sequence must be one of .*se, .*tse.* got 'epi'"),
    ],
)
def test_wrong_fields_are_refused_with_their_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(EXAMPLES[0].to_dict() | change)


def test_missing_field_is_named() -> None:
    data = EXAMPLES[0].to_dict()
    del data["echo_spacing"]
    with pytest.raises(ValueError, match="missing echo_spacing"):
        from_dict(data)


def test_description_is_one_line_with_the_values() -> None:
    assert EXAMPLES[3].describe() == "T1w spgr 3D at 3 T: TR 20 ms, TE 4 ms, FA 25 deg, MT x 0.7"
    assert "TI 900 ms" in EXAMPLES[4].describe()
    assert all("\n" not in protocol.describe() for protocol in EXAMPLES)


def test_500_draws_are_playable_finite_and_informative(preset: Preset) -> None:
    seen: Counter[str] = Counter()
    for seed in range(500):
        protocol = preset.sample(stream(seed, "draw"))
        image = protocol.signal(tissue_maps(protocol.field_strength))
        brain = image[:3]
        assert bool(image.isfinite().all()), protocol.describe()
        assert float(brain.max()) > 0.5, protocol.describe()
        assert float(brain.max() - brain.min()) > 0.02 * float(brain.max()), protocol.describe()
        assert from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol
        if protocol.field_strength == 7.0:
            assert protocol.sequence in ("mprage", "mp2rage", "spgr")
        seen[protocol.weighting] += 1
    wanted = {"T1w": 0.33, "T2w": 0.20, "FLAIR": 0.25, "DWI": 0.12, "T2starw": 0.06, "PDw": 0.04}
    for weighting, share in wanted.items():
        assert seen[weighting] / 500 == pytest.approx(share, abs=0.07)


def images(preset: Preset, weighting: str, count: int, name: str | None = None) -> list[Tensor]:
    drawn = (preset.sample(stream(seed, weighting), weighting=weighting) for seed in range(count))
    kept = [protocol for protocol in drawn if name is None or protocol.name == name]
    assert len(kept) > 20
    return [protocol.signal(tissue_maps(protocol.field_strength)) for protocol in kept]


def test_mprage_orders_white_grey_csf(preset: Preset) -> None:
    for image in images(preset, "T1w", 150, "MPRAGE"):
        assert float(image[WM]) > float(image[GM]) > float(image[CSF])
        assert float(image[CORE]) < float(image[GM])


def test_every_t1w_draw_has_white_above_grey_above_csf(preset: Preset) -> None:
    good = [image[WM] > image[GM] > image[CSF] for image in images(preset, "T1w", 200)]
    assert sum(map(bool, good)) >= 0.9 * len(good)


def test_t2w_orders_csf_grey_white(preset: Preset) -> None:
    good = [image[CSF] > image[GM] > image[WM] for image in images(preset, "T2w", 200, "T2w TSE 2D")]
    assert sum(map(bool, good)) >= 0.97 * len(good)
    for image in images(preset, "T2w", 100):
        assert float(image[CSF]) == float(image[:4].max())


def test_flair_makes_csf_darkest(preset: Preset) -> None:
    good = [image.argmin() == CSF for image in images(preset, "FLAIR", 200)]
    assert sum(map(bool, good)) >= 0.95 * len(good)


def test_acute_infarct_is_the_brightest_on_dwi(preset: Preset) -> None:
    for image in images(preset, "DWI", 100):
        assert image.argmax() == ACUTE


def test_flair_inversion_time_follows_the_null_of_csf(preset: Preset) -> None:
    factors = []
    for seed in range(200):
        protocol = preset.sample(stream(seed, "null"), weighting="FLAIR")
        assert isinstance(protocol, Flair)
        null = null_inversion_time(
            t1=4.2,
            repetition_time=protocol.repetition_time,
            echo_spacing=protocol.echo_spacing,
            echo_train_length=protocol.echo_train_length,
            inversion_efficiency=protocol.inversion_efficiency,
        )
        factors.append(protocol.inversion_time / null)
    spread = torch.tensor(factors)
    assert spread.mean().item() == pytest.approx(1.035, abs=0.01)
    assert spread.std().item() == pytest.approx(0.03, abs=0.01)


def test_draws_follow_from_the_stream_alone(preset: Preset) -> None:
    first = [preset.sample(stream(3, index)) for index in range(20)]
    again = [preset.sample(stream(3, index)) for index in range(20)]
    assert first == again
    assert len({protocol.describe() for protocol in first}) == 20


def test_unknown_weighting_is_named(preset: Preset) -> None:
    with pytest.raises(
        ValueError, match="has no weighting 'SWI'; it has T1w, T2w, PDw, FLAIR, DWI, T2starw, "
    ):
        preset.sample(stream(0), weighting="SWI")


ENTRY = """
infeasible = "{policy}"
[[protocol]]
name = "one"
sequence = "dwi"
weighting = "DWI"
weight = 1.0
{entry}
[protocol.parameters]
repetition_time = {tr}
echo_time = {te}
b_value = 1000.0
{parameters}
"""


def write(folder: Path, **changes: str) -> Path:
    values = {
        "policy": "redraw",
        "entry": "",
        "tr": "4.0",
        "te": "{ uniform = [0.06, 0.08] }",
        "parameters": "",
    } | changes
    path = folder / "mine.toml"
    path.write_text(ENTRY.format(**values), encoding="utf-8")
    return path


def test_own_preset_file(tmp_path: Path) -> None:
    protocol = load_preset(write(tmp_path, entry="field_strength = 1.5")).sample(stream(0))
    assert isinstance(protocol, DiffusionWeighted)
    assert protocol.field_strength == 1.5
    assert 0.06 <= protocol.echo_time <= 0.08


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entry": "colour = 3"}, "preset entry 'one': unknown key 'colour'"),
        ({"parameters": "flip_angle = 3"}, "preset entry 'one': unknown key 'flip_angle'"),
        ({"te": "{ uniform = [0.06] }"}, r"echo_time: uniform needs 2 numbers, got \[0.06\]"),
        ({"te": "{ uniform = [0.09, 0.06] }"}, "uniform needs low <= high"),
        ({"te": "{ gaussian = [0.09, 0.06] }"}, "unknown key 'gaussian'; known: constant"),
        ({"te": "{ clip = [0.09, 0.1] }"}, "expected exactly one of constant, .* got none"),
        ({"te": "'short'"}, "expected a number or a table with a distribution, got 'short'"),
        ({"te": "{ uniform = ['a', 'b'] }"}, r"expected numbers, got \['a', 'b'\]"),
        ({"te": "{ log_uniform = [0.0, 0.1] }"}, "log_uniform needs numbers above 0"),
        ({"te": "{ normal = [0.08, -0.1] }"}, "SD of at least 0, got -0.1"),
        ({"te": "{ choice = [0.08, 0.1], weights = [1.0] }"}, "one number >= 0 per choice"),
        ({"te": "{ normal = [0.08, 0.1], clip = [0.1, 0.05] }"}, r"clip must be \[low, high\]"),
        ({"te": "{ even_integer = [1, 4] }"}, "even_integer needs even numbers"),
        (
            {"te": "{ uniform = [0.1, 0.2], times = 'b_value' }"},
            "refers to 'b_value', which must",
        ),
        ({"te": "{ log10_normal = [-0.1, 0.1] }"}, "log10_normal needs numbers above 0"),
        (
            {"te": "{ uniform = [0.1, 0.2], plus = 'flip_angle' }"},
            "refers to 'flip_angle', which must",
        ),
        ({"policy": "ignore"}, "infeasible must be one of redraw, refuse, keep, got 'ignore'"),
        ({"entry": "[x"}, "is not valid TOML"),
    ],
)
def test_wrong_presets_are_refused(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(PresetError, match=message):
        load_preset(write(tmp_path, **changes))


def test_preset_that_does_not_exist() -> None:
    known = "estimator, paper, paper_code, qatlas, realistic, six_sequences, typical"
    with pytest.raises(PresetError, match=f"no preset 'surreal'; known: {known}"):
        load_preset("surreal")


def test_impossible_draws_are_redrawn_and_given_up_in_the_end(tmp_path: Path) -> None:
    half = load_preset(write(tmp_path, tr="0.07", te="{ uniform = [0.06, 0.08] }"))
    assert all(half.sample(stream(seed)).to_dict()["echo_time"] < 0.07 for seed in range(20))
    tight = load_preset(write(tmp_path, tr="0.1", entry="max_echo_fraction = 0.65"))
    assert all(tight.sample(stream(seed)).to_dict()["echo_time"] <= 0.065 for seed in range(20))
    never = load_preset(write(tmp_path, tr="0.05"))
    with pytest.raises(RuntimeError, match="'one': 100 draws in a row were impossible; last: the echo"):
        never.sample(stream(0))


def test_preset_may_refuse_what_is_impossible_and_tells_how_often_it_is(tmp_path: Path) -> None:
    strict = load_preset(write(tmp_path, policy="refuse", tr="0.07"))
    with pytest.raises(TimingError, match="preset entry 'one': the echo must come before"):
        list(map(strict.sample, map(stream, range(20))))
    assert strict.infeasible_share(stream(1), draws=400) == pytest.approx(0.5, abs=0.1)
    assert strict.infeasible_share(stream(1), draws=50) == strict.infeasible_share(stream(1), draws=50)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        strict.infeasible_share(stream(1), draws=0)


def test_realistic_preset_throws_little_away(preset: Preset) -> None:
    assert preset.infeasible_share(stream(1), draws=500) < 0.1


def test_distributions_draw_what_they_say() -> None:
    rng = stream(1)

    def draws(data: Any, count: int = 2000) -> Tensor:
        distribution = Distribution.parse(data, where="test")
        drawn = [distribution.finish(distribution.draw(rng), {"other": 2.0}) for _ in range(count)]
        return torch.tensor(drawn, dtype=torch.float64)

    logs = draws({"log_uniform": [0.01, 1.0]}).log10()
    assert logs.mean().item() == pytest.approx(-1.0, abs=0.05)
    assert -2 <= logs.min() < logs.max() <= 0
    clipped = draws({"normal": [0.95, 0.03], "clip": [0.85, 1.0]})
    assert clipped.max() == 1.0
    assert clipped.median().item() == pytest.approx(0.95, abs=0.005)
    mirrored = draws({"normal": [0.96, 0.1], "reflect_above": 1.0})
    assert mirrored.max() <= 1.0
    assert (mirrored == 1.0).sum() == 0
    assert draws({"normal": [0.1, 1.0], "absolute": True}).min() >= 0.0
    decades = draws({"log10_normal": [0.02, 0.1]}).log10()
    assert decades.mean().item() == pytest.approx(math.log10(0.02), abs=0.01)
    assert decades.std().item() == pytest.approx(0.1, abs=0.01)
    assert set(draws({"constant": 3.0, "plus": "other"}, 2).tolist()) == {5.0}
    even = draws({"even_integer": [4, 8]})
    assert set(even.tolist()) == {4.0, 6.0, 8.0}
    chosen = draws({"choice": [1, 2], "weights": [0.9, 0.1]})
    assert (chosen == 1).double().mean().item() == pytest.approx(0.9, abs=0.03)
    assert set(draws({"constant": 3.0, "times": "other"}, 2).tolist()) == {6.0}
    assert set(draws({"constant": 3.2, "divided_by": "other", "integer": True}, 2).tolist()) == {2.0}


def test_timing_errors_are_value_errors() -> None:
    assert issubclass(TimingError, ValueError)
