import json

import pytest

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.presets.preset import load_preset
from anystroke.acquisition.sequences.mprage import Mprage
from anystroke.acquisition.sidecars.writing import acquisition_fields, image_suffix
from anystroke.core.rng import stream


def _protocols() -> list[Protocol]:
    preset = load_preset("realistic")
    return [preset.sample(stream(k, name), weighting=name) for name in preset.weightings for k in range(4)]


def test_every_protocol_has_the_fields_of_bids_in_seconds_and_degrees() -> None:
    for protocol in _protocols():
        fields = acquisition_fields(protocol)
        assert json.loads(json.dumps(fields)) == fields
        assert 0 < fields["EchoTime"] < 0.3
        assert fields["EchoTime"] < fields["RepetitionTime"] < 30
        angles = fields["FlipAngle"]
        assert all(0 < angle <= 180 for angle in (angles if isinstance(angles, list) else [angles]))
        assert fields["MagneticFieldStrength"] in (1.5, 3.0, 7.0)
        assert fields["MRAcquisitionType"] in ("2D", "3D")
        assert ("InversionTime" in fields) == (protocol.sequence in ("flair", "mprage", "mp2rage", "dir"))


def test_mprage_tells_its_two_repetition_times_apart() -> None:
    protocol = Mprage(
        repetition_time=2.3,
        inversion_time=0.9,
        excitation_spacing=0.007,
        n_excitations=160,
        flip_angle=9.0,
        echo_time=0.003,
    )
    fields = acquisition_fields(protocol)
    assert fields["RepetitionTime"] == fields["RepetitionTimePreparation"] == 2.3
    assert fields["RepetitionTimeExcitation"] == 0.007
    assert (fields["FlipAngle"], fields["NumberShots"], fields["InversionTime"]) == (9.0, 160, 0.9)


@pytest.mark.parametrize(("weighting", "suffix"), [("DWI", "dwi"), ("FLAIR", "FLAIR"), ("T2w", "T2w")])
def test_suffixes_are_those_of_bids(weighting: str, suffix: str) -> None:
    protocol = load_preset("realistic").sample(stream(1, "suffix"), weighting=weighting)
    assert image_suffix(protocol) == suffix
