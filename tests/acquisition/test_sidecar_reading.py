"""Protocols read from BIDS sidecars."""

import json
from typing import Any

import pytest

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.presets.preset import load_preset
from anystroke.acquisition.sequences.diffusion import DiffusionWeighted
from anystroke.acquisition.sequences.flair import Flair
from anystroke.acquisition.sequences.gradient_echo import SpoiledGradientEcho
from anystroke.acquisition.sequences.mprage import Mprage
from anystroke.acquisition.sequences.turbo_spin_echo import TurboSpinEcho
from anystroke.acquisition.sidecars.reading import read_sidecar
from anystroke.acquisition.sidecars.sidecar import SidecarError
from anystroke.acquisition.sidecars.writing import acquisition_fields, image_suffix
from anystroke.core.rng import stream

SIEMENS: dict[str, Any] = {
    "Manufacturer": "Siemens",
    "MagneticFieldStrength": 3,
    "ScanningSequence": "GR\\IR",
    "RepetitionTime": 2.3,
    "InversionTime": 0.9,
    "EchoTime": 0.003,
    "FlipAngle": 9,
}
SPACE: dict[str, Any] = {
    "MagneticFieldStrength": 3,
    "ScanningSequence": "SE",
    "MRAcquisitionType": "3D",
    "RepetitionTime": 3.2,
    "EchoTime": 0.408,
    "EchoTrainLength": 282,
}
FLAIR: dict[str, Any] = {
    "MagneticFieldStrength": 1.5,
    "ScanningSequence": ["SE", "IR"],
    "MRAcquisitionType": "2D",
    "RepetitionTime": 9.0,
    "InversionTime": 2.5,
    "EchoTime": 0.12,
    "EchoTrainLength": 16,
}


def read(data: dict[str, Any], suffix: str = "") -> Protocol:
    return read_sidecar(json.loads(json.dumps(data)), suffix=suffix).protocol


def test_siemens_repetition_time_is_from_inversion_to_inversion() -> None:
    reading = read_sidecar(SIEMENS, suffix="T1w")
    protocol = reading.protocol
    assert isinstance(protocol, Mprage)
    assert (protocol.repetition_time, protocol.inversion_time, protocol.flip_angle) == (2.3, 0.9, 9.0)
    assert reading.used == {
        "field_strength": "MagneticFieldStrength",
        "echo_time": "EchoTime",
        "repetition_time": "RepetitionTime",
        "inversion_time": "InversionTime",
        "flip_angle": "FlipAngle",
    }
    assert set(reading.assumed) == {"excitation_spacing", "n_excitations", "inversion_efficiency"}


def test_short_repetition_time_of_an_inversion_prepared_echo_is_the_excitation_spacing() -> None:
    philips = SIEMENS | {"Manufacturer": "Philips", "RepetitionTime": 0.0081, "EchoTime": 0.0037}
    reading = read_sidecar(philips)
    assert isinstance(reading.protocol, Mprage)
    assert reading.protocol.excitation_spacing == 0.0081
    assert reading.used["excitation_spacing"] == "RepetitionTime"
    assert reading.protocol.repetition_time == 2.45
    assert "1.9 to 3.0 s" in reading.assumed["repetition_time"]
    known = read_sidecar(philips | {"RepetitionTimePreparation": 2.6})
    assert known.protocol.to_dict()["repetition_time"] == 2.6
    assert known.used["repetition_time"] == "RepetitionTimePreparation"


def test_inversion_time_of_ge_ends_at_the_start_of_the_train() -> None:
    reading = read_sidecar(
        SIEMENS | {"Manufacturer": "GE MEDICAL SYSTEMS", "RepetitionTime": 0.0084, "InversionTime": 0.45}
    )
    protocol = reading.protocol
    assert isinstance(protocol, Mprage)
    assert protocol.inversion_time == pytest.approx(0.45 + protocol.n_excitations // 2 * 0.0084)
    assert "start of the train (GE)" in reading.used["inversion_time"]


def test_long_echo_time_of_a_3d_train_is_nominal() -> None:
    reading = read_sidecar(SPACE, suffix="T2w")
    assert isinstance(reading.protocol, TurboSpinEcho)
    assert reading.protocol.echo_time == pytest.approx(0.28 * 0.408)
    assert reading.used["echo_time"] == "EchoTime 0.408 s, which is nominal, x 0.28"
    flat = read_sidecar(SPACE | {"MRAcquisitionType": "2D"}, suffix="T2w").protocol
    assert flat.to_dict()["echo_time"] == 0.408


@pytest.mark.parametrize(
    ("changes", "suffix", "sequence", "weighting"),
    [
        ({}, "FLAIR", "flair", "FLAIR"),
        ({}, "", "flair", "FLAIR"),
        ({"ScanningSequence": "IR"}, "", "flair", "FLAIR"),
        ({"ScanningSequence": None}, "FLAIR", "flair", "FLAIR"),
        ({"InversionTime": 0.17}, "", "flair", "STIR"),
        ({"InversionTime": 0.86, "EchoTime": 0.02, "RepetitionTime": 2.2}, "T1w", "flair", "T1w"),
        ({"InversionTime": 0.86, "EchoTrainLength": 1, "EchoTime": 0.02}, "", "ir_se", "T1w"),
        ({"InversionTime": [2.6, 0.42]}, "", "dir", "DIR"),
        ({"InversionTime": None, "ScanningSequence": "SE"}, "", "tse", "T2w"),
        ({"InversionTime": None, "ScanningSequence": "SE", "EchoTime": 0.01}, "", "tse", "PDw"),
        (
            {
                "InversionTime": None,
                "ScanningSequence": "SE",
                "EchoTime": 0.01,
                "EchoTrainLength": 1,
                "RepetitionTime": 0.5,
            },
            "",
            "se",
            "T1w",
        ),
        ({"InversionTime": None, "ScanningSequence": None, "EchoTrainLength": None}, "T2w", "tse", "T2w"),
        ({"InversionTime": None, "ScanningSequence": "EP\\SE", "DiffusionBValue": 0}, "", "dwi", "T2w"),
        ({"InversionTime": None, "ScanningSequence": "EP_SE"}, "dwi", "dwi", "DWI"),
        ({"InversionTime": None, "ScanningSequence": "EP"}, "ADC", "adc", "ADC"),
        (
            {"InversionTime": None, "ScanningSequence": "GR", "FlipAngle": 20, "RepetitionTime": 0.7},
            "T2starw",
            "spgr",
            "T2starw",
        ),
        (
            {
                "InversionTime": None,
                "ScanningSequence": "GR",
                "FlipAngle": 40,
                "RepetitionTime": 0.005,
                "EchoTime": 0.0025,
                "SequenceName": "*tfi3d1",
            },
            "",
            "bssfp",
            "bSSFP",
        ),
    ],
)
def test_family_and_weighting(changes: dict[str, Any], suffix: str, sequence: str, weighting: str) -> None:
    protocol = read({key: value for key, value in (FLAIR | changes).items() if value is not None}, suffix)
    assert (protocol.sequence, protocol.weighting) == (sequence, weighting)
    assert protocol.field_strength == 1.5


def test_b_value_is_given_read_or_assumed() -> None:
    data = {"ScanningSequence": "EP\\SE", "RepetitionTime": 4.0, "EchoTime": 0.08}
    given = read_sidecar(data, suffix="dwi", b_value=800.0)
    assert isinstance(given.protocol, DiffusionWeighted)
    assert given.protocol.b_value == 800.0
    assert read_sidecar(data | {"DiffusionBValue": 500}, suffix="dwi").used["b_value"] == "DiffusionBValue"
    assumed = read_sidecar(data, suffix="dwi").assumed
    assert assumed["b_value"] == "1000: DiffusionBValue is missing"
    assert assumed["field_strength"] == "3: MagneticFieldStrength is missing"


def test_mt_pulse_is_told_by_mtstate() -> None:
    data = {"ScanningSequence": "GR", "RepetitionTime": 0.025, "EchoTime": 0.003, "FlipAngle": 6}
    plain, with_mt = read(data), read(data | {"MTState": True})
    assert isinstance(plain, SpoiledGradientEcho)
    assert isinstance(with_mt, SpoiledGradientEcho)
    assert (plain.mt_scale, with_mt.mt_scale) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"EchoTime": 0.494, "RepetitionTime": 0.011},
            "EchoTime 0.494 s is not below RepetitionTime 0.011 s",
        ),
        ({"RepetitionTime": 9000}, r"RepetitionTime is 9000, too long for seconds .* BIDS times are in s"),
        ({"EchoTime": 120}, "EchoTime is 120, too long for seconds"),
        ({"InversionTime": 8.95}, "describes a flair that cannot be played: inversion_time 8.95 s"),
        ({"EchoTime": None}, "the sidecar has no EchoTime; add it"),
        ({"EchoTime": "short"}, "EchoTime must be a number, got 'short'"),
        ({"EchoTime": [0.1, 0.2]}, r"EchoTime must be one number .* got \[0\.1, 0\.2\]"),
        ({"MagneticFieldStrength": 15000}, "MagneticFieldStrength is 15000, too high for tesla"),
        (
            {"ScanningSequence": "RM", "InversionTime": None},
            "cannot tell the sequence: ScanningSequence is 'RM'",
        ),
        (
            {"InversionTime": [1.0, 2.0, 3.0]},
            r"InversionTime must be two numbers .* got \[1\.0, 2\.0, 3\.0\]",
        ),
    ],
)
def test_sidecars_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SidecarError, match=message):
        read({key: value for key, value in (FLAIR | changes).items() if value is not None})


def test_what_is_written_is_read_back() -> None:
    """All but what sidecars do not hold: inversion efficiency, MT, and the name in the preset."""
    preset = load_preset("realistic")
    seen = set()
    for seed in range(400):
        protocol = preset.sample(stream(seed, "sidecar"))
        fields = json.loads(json.dumps(acquisition_fields(protocol)))
        again = read_sidecar(fields, suffix=image_suffix(protocol)).protocol
        lost = {"name", "inversion_efficiency", "mt_scale", "incidental_mt"}
        before, after = (
            {key: value for key, value in one.to_dict().items() if key not in lost}
            for one in (protocol, again)
        )
        assert after == before
        seen.add(protocol.sequence)
    assert seen >= {"tse", "flair", "mprage", "spgr", "dwi", "se", "adc", "mp2rage"}


def test_a_drawn_flair_read_back_gives_the_same_image_but_for_its_efficiency() -> None:
    protocol = load_preset("realistic").sample(stream(3), weighting="FLAIR")
    again = read_sidecar(acquisition_fields(protocol), suffix="FLAIR").protocol
    assert isinstance(protocol, Flair)
    assert isinstance(again, Flair)
    assert again.inversion_efficiency == 0.95
