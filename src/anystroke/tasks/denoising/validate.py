"""What denoising is judged on: the PSNR of simulated patients that training has not seen."""

from collections.abc import Sequence

from torch import Tensor

from anystroke.core.fields import GridShape
from anystroke.core.rng import stream
from anystroke.evaluation.representations import peak_signal_to_noise
from anystroke.learning.sources.simulated import SimulatedSource
from anystroke.learning.task import Verdict
from anystroke.simulation.cohorts import Pack
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.denoising.predict import NoiseModel
from anystroke.tasks.denoising.sources import NoisySource

CRITERION = "psnr"
"""What the best model has most of, in dB."""


def noisy_scans(
    pack: Pack,
    looks: SynthesisSettings,
    *,
    count: int,
    shape: GridShape,
    spacing: float,
    noise_sd: float,
    seed: int,
) -> list[tuple[Tensor, Tensor, str]]:
    """Simulate a fixed set of noisy scans.

    Args:
        pack: Anatomies and masks.
        looks: Of the scans.
        count: How many.
        shape: Voxels.
        spacing: Voxel size in mm.
        noise_sd: Of the noise.
        seed: Decides all that is random.

    Returns:
        Noisy scan and its noise, both (X, Y, Z), and its weighting.
    """
    source = NoisySource(SimulatedSource(pack, looks.model_copy(update={"spacing": spacing})), noise_sd)
    made = []
    for number in range(count):
        case = source.case(shape, rng=stream(seed, "noisy", number))
        made.append((case.image, case.target[0], str(case.record["protocol"]["weighting"])))
    return made


def judge_denoising(model: NoiseModel, scans: Sequence[tuple[Tensor, Tensor, str]]) -> Verdict:
    """Return a row of mean PSNR before and after for all scans, and one for each weighting.

    Args:
        model: Finds noise.
        scans: Noisy scan, noise and weighting of each.
    """
    found = []
    for image, noise, weighting in scans:
        rest = model.without_noise(image) - (image - noise)
        before, after = (peak_signal_to_noise(float(each.square().mean())) for each in (noise, rest))
        found.append((weighting, before, after))
    rows: Verdict = []
    for group in ["all", *dict.fromkeys(weighting for *_, weighting in scans)]:
        chosen = [(b, a) for weighting, b, a in found if group in ("all", weighting)]
        rows.append(
            {
                "set": "simulated",
                "group": group,
                "scans": len(chosen),
                "noisy_psnr": sum(b for b, _ in chosen) / len(chosen),
                CRITERION: sum(a for _, a in chosen) / len(chosen),
            }
        )
    return rows
