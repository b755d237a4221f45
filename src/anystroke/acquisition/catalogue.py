"""All sequences by name, and the contrasts that they give."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from anystroke.acquisition.base import Protocol, bids_names
from anystroke.acquisition.sequences import SEQUENCES as SEQUENCES

BIDS_NAMES: Mapping[str, str] = bids_names()
"""What BIDS calls the images of each contrast: ``T2w``, ``dwi``, ``acq-STIR_T2w``."""

WEIGHTINGS: tuple[str, ...] = tuple(BIDS_NAMES)
"""The contrasts that protocols are meant to give, the common ones first."""


def sequence_class(name: Any, *, where: str) -> type[Protocol]:
    """Find the protocol class of a sequence.

    Args:
        name: Key of ``SEQUENCES``.
        where: What the error message calls the place.

    Raises:
        ValueError: If there is no such sequence.

    Example:
        >>> sequence_class("dwi", where="here").__name__
        'DiffusionWeighted'
    """
    if name not in SEQUENCES:
        raise ValueError(f"{where}: sequence must be one of {', '.join(SEQUENCES)}, got {name!r}")
    return SEQUENCES[name]


def from_dict(data: Mapping[str, Any]) -> Protocol:
    """Make a protocol from the data that ``Protocol.to_dict`` wrote.

    Args:
        data: ``sequence`` and the protocol's fields.

    Returns:
        The protocol.

    Raises:
        ValueError: If the sequence or a field is unknown, a field is missing, or the timing is impossible.

    Example:
        >>> data = {"sequence": "dwi", "repetition_time": 4.0, "echo_time": 0.08, "b_value": 1000.0}
        >>> from_dict(data).weighting
        'DWI'
    """
    fields = dict(data)
    cls = sequence_class(fields.pop("sequence", None), where="protocol")
    check_keys(cls, set(fields), where=f"{cls.__name__} protocol")
    return cls(**fields)


def check_keys(cls: type[Protocol], keys: set[str], *, where: str) -> None:
    """Refuse keys that the class does not have, and the lack of those that it cannot do without.

    Args:
        cls: The protocol class.
        keys: Names of fields.
        where: What the error message calls the place.

    Raises:
        ValueError: With the key and those that are known, or with all that are missing.

    Example:
        >>> from anystroke.acquisition.sequences.diffusion import DiffusionWeighted
        >>> check_keys(DiffusionWeighted, {"repetition_time", "echo_time", "b_value"}, where="here")
    """
    known = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(cls)}
    if unknown := sorted(keys - set(known)):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    if missing := sorted(name for name, required in known.items() if required and name not in keys):
        raise ValueError(f"{where}: missing {', '.join(missing)}")
