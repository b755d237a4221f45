"""Protocols in the words of a BIDS sidecar: times in s, angles in degrees, fields in T, b in s/mm^2."""

from typing import Any

from anystroke.acquisition.protocols import Protocol

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
_SCANNING_SEQUENCE = {
    "se": ["SE"],
    "tse": ["SE"],
    "ir_se": ["SE", "IR"],
    "flair": ["SE", "IR"],
    "dir": ["SE", "IR"],
    "spgr": ["GR"],
    "mprage": ["GR", "IR"],
    "mp2rage": ["GR", "IR"],
    "bssfp": ["GR"],
    "dwi": ["EP", "SE"],
    "adc": ["EP", "SE"],
}
_PUBLISHED = {"gre": "spgr"}
_EXCITATION_ANGLE = 90.0
# Contrasts for which BIDS has no suffix of their own are acquisitions of the nearest that has.
_SUFFIXES = {
    "DWI": "dwi",
    "STIR": "acq-STIR_T2w",
    "DIR": "acq-DIR_T2w",
    "MTw": "acq-MT_PDw",
    "bSSFP": "acq-bSSFP_T2w",
}


def image_suffix(protocol: Protocol) -> str:
    """Name the BIDS suffix of the images of a protocol, with the entity ``acq`` where it needs one.

    Args:
        protocol: What was played.

    Returns:
        Such as ``"T2w"``, ``"dwi"`` or ``"acq-STIR_T2w"``.

    Example:
        >>> from anystroke.acquisition.protocols import DiffusionWeighted
        >>> image_suffix(DiffusionWeighted(repetition_time=4.0, echo_time=0.08, b_value=1000.0))
        'dwi'
    """
    return _SUFFIXES.get(protocol.weighting, protocol.weighting)


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
        >>> from anystroke.acquisition.protocols import DiffusionWeighted
        >>> protocol = DiffusionWeighted(repetition_time=4.0, echo_time=0.08, b_value=1000.0)
        >>> fields = acquisition_fields(protocol)
        >>> fields["EchoTime"], fields["FlipAngle"]
        (0.08, 90.0)
    """
    values = protocol.to_dict()
    sequence = protocol.sequence.removeprefix("published_")
    sequence = _PUBLISHED.get(sequence, sequence)
    fields = {name: values[key] for key, name in _FIELDS.items() if key in values}
    if sequence == "bssfp":
        fields["EchoTime"] = values["repetition_time"] / 2.0
        fields["PulseSequenceType"] = "Balanced SSFP"
    fields["MRAcquisitionType"] = f"{protocol.dimensions}D"
    fields["ScanningSequence"] = _SCANNING_SEQUENCE[sequence]
    fields.setdefault("FlipAngle", _EXCITATION_ANGLE)
    if sequence in ("spgr", "bssfp"):
        fields["RepetitionTimeExcitation"] = values["repetition_time"]
    if sequence == "spgr":
        fields["MTState"] = bool(values.get("mt_scale"))
    if "InversionTime" in fields:
        fields["RepetitionTimePreparation"] = values["repetition_time"]
    if "excitation_spacing" in values:
        fields["RepetitionTimeExcitation"] = values["excitation_spacing"]
    return fields
