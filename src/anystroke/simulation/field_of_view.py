"""What of a simulated scan is taken away: skull, face, noise in air, the ends of the head."""

import torch
from torch import Tensor

from anystroke.anatomy.tissues.classes import CLASSES
from anystroke.anatomy.tissues.labels import TISSUES, tissue_groups
from anystroke.anatomy.tissues.mixing import mix
from anystroke.core.fields import refine
from anystroke.core.rng import chance, integer, uniform
from anystroke.corruption.echo_planar_scan import EchoPlanarScan
from anystroke.corruption.head import blur_face, brain_of_fractions, deface, face_region
from anystroke.simulation.patient import Patient
from anystroke.simulation.settings import SynthesisSettings


def strip_head(
    image: Tensor,
    patient: Patient,
    *,
    settings: SynthesisSettings,
    echo_planar: EchoPlanarScan,
    rng: torch.Generator,
) -> Tensor:
    """Take away the skull at times; or the face, or the noise in air.

    Args:
        image: (X, Y, Z); may be changed.
        patient: Who was scanned.
        settings: How often.
        echo_planar: Distortion of the scan, which masks follow.
        rng: Random stream.
    """
    strip = chance(rng, settings.skull_strip) or not patient.anatomy.has_head
    clear, defaced = chance(rng, settings.clear_air), chance(rng, settings.defaced)
    factor, grid = settings.coarse_factor, patient.grid
    spacing = settings.spacing * factor
    if strip or defaced:
        brain = echo_planar.moved(patient.brain(factor, spacing), factor)
    if strip:
        smoothing = uniform(rng, 1.6, 4.0)
        keep = brain_of_fractions(
            brain,
            spacing=spacing,
            smoothing=smoothing,
            margin=smoothing * uniform(rng, 0.0, 1.0),
            unevenness=smoothing * uniform(rng, 0.0, 0.6),
            rng=rng,
        )
        image *= refine(keep.float(), grid.shape, factor) > 0.5
        return image
    if defaced and bool((brain > 0.5).any()):
        angle, margin = uniform(rng, 25.0, 60.0), uniform(rng, 2.0, 10.0)
        face = face_region(brain, spacing=spacing, angle=angle, margin=margin)
        face = refine(face.float(), grid.shape, factor) > 0.5
        if chance(rng, 0.75):
            image = deface(image, face)
        else:
            image = blur_face(image, face, spacing=settings.spacing, smoothing=uniform(rng, 4.0, 10.0))
    if clear:
        shares, _ = mix(patient.tissues, grid.coarse(factor), tissue_groups(TISSUES[1:]))
        head = echo_planar.moved(shares[0], factor)
        image *= refine(head, grid.shape, factor) > uniform(rng, 0.2, 0.8)
    return image


def cut_ends(
    image: Tensor,
    target: Tensor,
    unseen: Tensor,
    shares: Tensor | None,
    *,
    probability: float,
    rng: torch.Generator,
) -> None:
    """Let the field of view end within the head at times, in place.

    Args:
        image: (X, Y, Z).
        target: (X, Y, Z) numbers of ``CLASSES``.
        unseen: (X, Y, Z) bool.
        shares: (5, X, Y, Z), if there are any.
        probability: Of an end within the head.
        rng: Random stream.
    """
    if not chance(rng, probability):
        return
    top, bottom = integer(rng, 0, image.shape[2] // 4), integer(rng, 0, image.shape[2] // 4)
    for array in (image, target, unseen):
        array[:, :, :bottom] = 0
        array[:, :, array.shape[2] - top :] = 0
    if shares is not None:
        for end in (shares[..., :bottom], shares[..., shares.shape[3] - top :]):
            end.zero_()
            end[CLASSES.index("background")] = 1
