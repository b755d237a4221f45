"""Protocols read from BIDS sidecars, with a note of which field gave what and what had to be assumed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.catalogue import BIDS_NAMES, SEQUENCES
from anystroke.acquisition.sidecars.sidecar import Sidecar, SidecarError
from anystroke.acquisition.timing import TimingError

_FIELD_STRENGTH = 3.0


@dataclass
class SidecarReading:
    """A protocol and where its numbers come from.

    Attributes:
        protocol: The protocol.
        used: For each field that was read, the sidecar's field, with the rule that changed it if one did.
        assumed: For each field that the sidecar does not tell, what was assumed and why.
    """

    protocol: Protocol
    used: dict[str, str]
    assumed: dict[str, str]


def read_sidecar(
    data: Mapping[str, Any], *, suffix: str = "", b_value: float | None = None
) -> SidecarReading:
    """Make the protocol that a BIDS sidecar describes.

    Rules beyond the fields' own meaning: in an inversion-prepared gradient echo, a ``RepetitionTime`` below
    50 ms (Philips, GE) is the time between excitations, and the time between inversions comes from
    ``RepetitionTimePreparation`` or is assumed; GE's inversion time ends at the start of the train and not at
    its centre; an ``EchoTime`` above 0.2 s of a 3-D spin echo is nominal, and the equivalent one is 0.28 of
    it. ``ScanningSequence`` decides the family (GR IR: MPRAGE, SE IR or IR: FLAIR, STIR, T1-FLAIR; SE: by
    ``EchoTrainLength``; EP: diffusion), and the suffix where it is missing. Each sequence recognises its own
    (``Protocol.claims``) and reads its own fields (``Protocol.read``).

    Args:
        data: The sidecar.
        suffix: BIDS suffix of the image, such as ``"T1w"``; decides the weighting if known.
        b_value: b-value of a diffusion-weighted image, s/mm^2; ``DiffusionBValue`` of the sidecar if None.

    Returns:
        The protocol, the fields used and what was assumed.

    Raises:
        SidecarError: If a field is missing or not a number, the sequence cannot be told, or no scanner could
            play the timing (such as an echo after the next excitation).

    Source:
        Brain Imaging Data Structure 1.11; rules from the sidecars of OpenNeuro ds004889 and ds004884.

    Example:
        >>> data = {"MagneticFieldStrength": 3, "ScanningSequence": "SE", "RepetitionTime": 4.0,
        ...         "EchoTime": 0.1, "EchoTrainLength": 16, "MRAcquisitionType": "2D"}
        >>> reading = read_sidecar(data, suffix="T2w")
        >>> reading.protocol.sequence, reading.used["echo_time"], reading.assumed
        ('tse', 'EchoTime', {'echo_spacing': '0.01: usual in 2D'})
    """
    sidecar = Sidecar(data, suffix, b_value)
    cls = _recognised(sidecar)
    strength = sidecar.take("field_strength", "MagneticFieldStrength")
    if strength is None:
        strength = sidecar.assume("field_strength", _FIELD_STRENGTH, "MagneticFieldStrength is missing")
    elif strength > 20.0:
        raise SidecarError(f"MagneticFieldStrength is {strength:g}, too high for tesla; BIDS fields are in T")
    fields = {"dimensions": sidecar.dimensions, "field_strength": strength, **cls.read(sidecar)}
    weighting = _named(suffix) or cls.usual_weighting(fields)
    try:
        protocol = cls(weighting=weighting, **fields)
    except TimingError as error:
        raise SidecarError(
            f"the sidecar describes a {cls.sequence} that cannot be played: {error}"
        ) from error
    return SidecarReading(protocol, sidecar.used, sidecar.assumed)


def _recognised(sidecar: Sidecar) -> type[Protocol]:
    """Find the sequence with the strongest evidence that the sidecar is its own."""
    claims = {cls: claim for cls in SEQUENCES.values() if (claim := cls.claims(sidecar)) is not None}
    best = [cls for cls, claim in claims.items() if claim == max(claims.values())]
    if len(best) == 1:
        return best[0]
    what = f"ScanningSequence is {sidecar.data.get('ScanningSequence')!r} and the suffix {sidecar.suffix!r}"
    if best:
        names = " or ".join(cls.sequence for cls in best)
        raise SidecarError(f"cannot tell whether the sequence is {names}: {what}; add PulseSequenceType")
    raise SidecarError(f"cannot tell the sequence: {what}; add ScanningSequence (GR, SE, IR, EP)")


def _named(suffix: str) -> str | None:
    """Find the contrast of a suffix that BIDS has, or that is the contrast's own name."""
    plain = {weighting if "_" in name else name: weighting for weighting, name in BIDS_NAMES.items()}
    return plain.get(suffix)
