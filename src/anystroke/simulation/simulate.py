"""Simulate one scan: the function behind ``anystroke.simulate``."""

from collections.abc import Sequence

from anystroke.anatomy.lesions.bank import LesionMask
from anystroke.anatomy.lesions.made_up import random_blob
from anystroke.anatomy.lesions.stages import Stage
from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.rng import integer, stream
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.settings import SynthesisSettings


def simulate(
    weighting: str | None = None,
    *,
    seed: int = 1,
    stage: Stage | None = None,
    anatomy: Anatomy | None = None,
    lesions: Sequence[LesionMask] | None = None,
    settings: SynthesisSettings | None = None,
) -> Sample:
    """Simulate one scan of a patient with a stroke; `Generator` makes many.

    Args:
        weighting: Such as ``"FLAIR"``; any that the preset has if None.
        seed: Decides all that is random.
        stage: Age of the lesion; None draws it.
        anatomy: The patient; the MNI152 brain if None.
        lesions: Masks in MNI space to put in; none for an empty sequence, made-up ones if None.
        settings: What scans look like.

    Returns:
        The image with its truth, maps, protocol and record.

    Raises:
        ValueError: The preset has no such weighting.

    Example:
        >>> small = SynthesisSettings(spacing=6.0, shapes=((32, 36, 32),))
        >>> simulate("FLAIR", settings=small)  # doctest: +ELLIPSIS
        Sample(32 x 36 x 32 voxels of 6 mm, FLAIR...
    """
    generator = Generator(settings or SynthesisSettings())
    rng = stream(seed, "simulate")
    if lesions is None:
        certain = generator.settings.lesions.model_copy(update={"absent": 0.0})
        lesions = random_blob(certain, rng=rng)
    key = integer(rng, 0, 2**62)
    return generator.generate(anatomy or mni_anatomy(), lesions, key=key, stage=stage, weighting=weighting)
