"""Find the stroke lesion in a brain MR image, whatever the sequence.

Names are loaded when they are first used, so that ``import anystroke`` and the command's help are quick.

Example:
    >>> import anystroke
    >>> anystroke.Volume.__name__
    'Volume'
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anystroke.acquisition.protocols import load_preset as load_preset
    from anystroke.adapters import SimulateScand as SimulateScand
    from anystroke.adapters import to_subject as to_subject
    from anystroke.anatomy.anatomies import Anatomy as Anatomy
    from anystroke.anatomy.anatomies import build_anatomy as build_anatomy
    from anystroke.anatomy.lesions import LesionMask as LesionMask
    from anystroke.anatomy.lesions import load_masks as load_masks
    from anystroke.anatomy.mni import mni_anatomy as mni_anatomy
    from anystroke.inference.estimation import QmriEstimate as QmriEstimate
    from anystroke.inference.estimation import estimate_qmri as estimate_qmri
    from anystroke.inference.segmentation import Model as Model
    from anystroke.inference.segmentation import Segmentation as Segmentation
    from anystroke.inference.segmentation import segment as segment
    from anystroke.inference.together import Together as Together
    from anystroke.inference.together import segment_together as segment_together
    from anystroke.learning.recipes import load_recipe as load_recipe
    from anystroke.learning.sampling import SimulatedCases as SimulatedCases
    from anystroke.learning.training import train as train
    from anystroke.qmri.tissue_priors import load_table as load_table
    from anystroke.rng import stream as stream
    from anystroke.synthesis import Generator as Generator
    from anystroke.synthesis import Sample as Sample
    from anystroke.synthesis_settings import SynthesisSettings as SynthesisSettings
    from anystroke.volume import Volume as Volume

_HOMES = {
    "Anatomy": "anatomy.anatomies",
    "Generator": "synthesis",
    "LesionMask": "anatomy.lesions",
    "Model": "inference.segmentation",
    "QmriEstimate": "inference.estimation",
    "Sample": "synthesis",
    "SimulateScand": "adapters",
    "SimulatedCases": "learning.sampling",
    "Segmentation": "inference.segmentation",
    "SynthesisSettings": "synthesis_settings",
    "Volume": "volume",
    "build_anatomy": "anatomy.anatomies",
    "estimate_qmri": "inference.estimation",
    "load_masks": "anatomy.lesions",
    "load_preset": "acquisition.protocols",
    "load_recipe": "learning.recipes",
    "load_table": "qmri.tissue_priors",
    "mni_anatomy": "anatomy.mni",
    "Together": "inference.together",
    "segment": "inference.segmentation",
    "segment_together": "inference.together",
    "stream": "rng",
    "to_subject": "adapters",
    "train": "learning.training",
}

__version__ = version("anystroke")
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anystroke' has no attribute {name!r}")
    return getattr(import_module(f"anystroke.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
