"""Find the stroke lesion in a brain MR image, whatever the sequence. Research use only.

Where to start:

* `segment` finds the lesion in one scan, `segment_together` in several contrasts of one patient.
* `simulate` makes one scan with its truth, `Generator` many; `estimate_qmri` makes maps of a T1w scan.
* `evaluate` measures a mask against the truth.
* `train` follows a recipe (`load_recipe`); `SimulatedCases` feeds a training loop of one's own.
* `fit_priors` learns tissue properties from quantitative maps.
* `Volume` is an image with its geometry: `Volume.load`, `Volume.from_array`, `to_array`, `save`.

Images are paths, nibabel images, `Volume`, or arrays with their affine. Names are loaded when they are first
used, so that ``import anystroke`` is quick.

Example:
    >>> import anystroke
    >>> anystroke.Volume.__name__
    'Volume'
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anystroke.acquisition.presets.preset import load_preset as load_preset
    from anystroke.anatomy.lesions.bank import LesionMask as LesionMask
    from anystroke.anatomy.lesions.bank import load_masks as load_masks
    from anystroke.anatomy.tissues.anatomies import Anatomy as Anatomy
    from anystroke.anatomy.tissues.anatomies import build_anatomy as build_anatomy
    from anystroke.anatomy.tissues.mni import mni_anatomy as mni_anatomy
    from anystroke.core.rng import stream as stream
    from anystroke.core.volume import Volume as Volume
    from anystroke.evaluation.evaluate import evaluate as evaluate
    from anystroke.learning.run import train as train
    from anystroke.learning.sources.simulated import SimulatedCases as SimulatedCases
    from anystroke.qmri.fit_files import find_subjects as find_subjects
    from anystroke.qmri.fit_files import fit_priors as fit_priors
    from anystroke.qmri.tissue_priors import load_table as load_table
    from anystroke.simulation.adapters import SimulateScand as SimulateScand
    from anystroke.simulation.adapters import to_subject as to_subject
    from anystroke.simulation.generator import Generator as Generator
    from anystroke.simulation.generator import Sample as Sample
    from anystroke.simulation.settings import SynthesisSettings as SynthesisSettings
    from anystroke.simulation.simulate import simulate as simulate
    from anystroke.tasks.qmri.predict import QmriEstimate as QmriEstimate
    from anystroke.tasks.qmri.predict import estimate_qmri as estimate_qmri
    from anystroke.tasks.segmentation.options import SegmentOptions as SegmentOptions
    from anystroke.tasks.segmentation.predict import Model as Model
    from anystroke.tasks.segmentation.predict import Segmentation as Segmentation
    from anystroke.tasks.segmentation.predict import segment as segment
    from anystroke.tasks.segmentation.recipe import load_recipe as load_recipe
    from anystroke.tasks.segmentation.together import Together as Together
    from anystroke.tasks.segmentation.together import segment_together as segment_together

_HOMES = {
    "Anatomy": "anatomy.tissues.anatomies",
    "Generator": "simulation.generator",
    "LesionMask": "anatomy.lesions.bank",
    "Model": "tasks.segmentation.predict",
    "QmriEstimate": "tasks.qmri.predict",
    "Sample": "simulation.generator",
    "SimulateScand": "simulation.adapters",
    "SimulatedCases": "learning.sources.simulated",
    "Segmentation": "tasks.segmentation.predict",
    "SynthesisSettings": "simulation.settings",
    "Volume": "core.volume",
    "build_anatomy": "anatomy.tissues.anatomies",
    "estimate_qmri": "tasks.qmri.predict",
    "evaluate": "evaluation.evaluate",
    "find_subjects": "qmri.fit_files",
    "fit_priors": "qmri.fit_files",
    "load_masks": "anatomy.lesions.bank",
    "load_preset": "acquisition.presets.preset",
    "load_recipe": "tasks.segmentation.recipe",
    "load_table": "qmri.tissue_priors",
    "mni_anatomy": "anatomy.tissues.mni",
    "Together": "tasks.segmentation.together",
    "SegmentOptions": "tasks.segmentation.options",
    "segment": "tasks.segmentation.predict",
    "segment_together": "tasks.segmentation.together",
    "simulate": "simulation.simulate",
    "stream": "core.rng",
    "to_subject": "simulation.adapters",
    "train": "learning.run",
}

__version__ = version("anystroke")
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anystroke' has no attribute {name!r}")
    return getattr(import_module(f"anystroke.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
