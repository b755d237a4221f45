"""Protocols in the words of a BIDS sidecar: times in s, angles in degrees, fields in T, b in s/mm^2."""

from typing import Any

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.catalogue import BIDS_NAMES

_FIELDS = {
    "field_strength": "MagneticFieldStrength",
    "repetition_time": "RepetitionTime",
    "echo_time": "EchoTime",
    "inversion_time": "InversionTime",
    "inversion_times": "InversionTime",
    "flip_angle": "FlipAngle",
    "flip_angles": "FlipAngle",
    "echo_spacing": "EchoSpacing",
    "echo_train_length": "EchoTrainLength",
    "n_excitations": "NumberShots",
    "b_value": "DiffusionBValue",
}
_EXCITATION_ANGLE = 90.0


def image_suffix(protocol: Protocol) -> str:
    """Name the BIDS suffix of the images of a protocol, with the entity ``acq`` where it needs one.

    Args:
        protocol: What was played.

    Returns:
        Such as ``"T2w"``, ``"dwi"`` or ``"acq-STIR_T2w"``.

    Example:
        >>> from anystroke.acquisition.sequences.diffusion import DiffusionWeighted
        >>> image_suffix(DiffusionWeighted(repetition_time=4.0, echo_time=0.08, b_value=1000.0))
        'dwi'
    """
    return BIDS_NAMES[protocol.weighting]


def acquisition_fields(protocol: Protocol) -> dict[str, Any]:
    """Describe a protocol in the fields of a BIDS sidecar.

    ``RepetitionTime`` is the time after which the sequence repeats, as converters from DICOM write it: from
    inversion to inversion where there is one. Inversion-prepared sequences say it as
    ``RepetitionTimePreparation`` too, and the gradient echoes within as ``RepetitionTimeExcitation``. Two
    inversion times or flip angles are a list. ``EchoSpacing`` is not a BIDS field.

    Args:
        protocol: What was played.

    Returns:
        Plain values that JSON can hold.

    Example:
        >>> from anystroke.acquisition.sequences.diffusion import DiffusionWeighted
        >>> protocol = DiffusionWeighted(repetition_time=4.0, echo_time=0.08, b_value=1000.0)
        >>> fields = acquisition_fields(protocol)
        >>> fields["EchoTime"], fields["FlipAngle"]
        (0.08, 90.0)
    """
    values = protocol.to_dict()
    fields: dict[str, Any] = {name: values[key] for key, name in _FIELDS.items() if key in values}
    fields["MRAcquisitionType"] = f"{protocol.dimensions}D"
    fields["ScanningSequence"] = list(protocol.scanning_sequence)
    fields.setdefault("FlipAngle", _EXCITATION_ANGLE)
    fields |= protocol.sidecar_fields()
    if "InversionTime" in fields:
        fields["RepetitionTimePreparation"] = values["repetition_time"]
    if "excitation_spacing" in values:
        fields["RepetitionTimeExcitation"] = values["excitation_spacing"]
    return fields
