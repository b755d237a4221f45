"""Protocols: one frozen dataclass per sequence, and presets, which are distributions over protocols.

A protocol checks its own timing when it is made, knows which maps its sequence needs and calls the function
in ``anystroke.acquisition.sequences.equations``. Times are seconds, angles degrees, field strengths tesla.
"""

from anystroke.acquisition.base import WEIGHTINGS, Protocol
from anystroke.acquisition.presets.preset import Preset, PresetEntry, load_preset
from anystroke.acquisition.sequences.catalogue import SEQUENCES, from_dict
from anystroke.acquisition.sequences.gradient_echo_protocols import (
    BalancedSsfp,
    Mp2rage,
    Mprage,
    SpoiledGradientEcho,
)
from anystroke.acquisition.sequences.published_protocols import (
    PublishedFlair,
    PublishedGradientEcho,
    PublishedMp2rage,
    PublishedMprage,
    PublishedSpgr,
    PublishedTurboSpinEcho,
)
from anystroke.acquisition.sequences.spin_echo_protocols import (
    AdcMap,
    DiffusionWeighted,
    DoubleInversionRecovery,
    Flair,
    InversionRecoverySpinEcho,
    SpinEcho,
    TurboSpinEcho,
)

__all__ = [
    "SEQUENCES",
    "WEIGHTINGS",
    "AdcMap",
    "BalancedSsfp",
    "DiffusionWeighted",
    "DoubleInversionRecovery",
    "Flair",
    "InversionRecoverySpinEcho",
    "Mp2rage",
    "Mprage",
    "Preset",
    "PresetEntry",
    "Protocol",
    "PublishedFlair",
    "PublishedGradientEcho",
    "PublishedMp2rage",
    "PublishedMprage",
    "PublishedSpgr",
    "PublishedTurboSpinEcho",
    "SpinEcho",
    "SpoiledGradientEcho",
    "TurboSpinEcho",
    "from_dict",
    "load_preset",
]
