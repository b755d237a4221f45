r"""Say how models segment showers of small emboli on acute scans, patient by patient.

    python benchmarks/emboli.py default runs/other/model --data runs/data --output emboli

Patients have the anatomies and lesion masks that the training held out, two to fourteen emboli each, every
other one a head without its skull; what nobody could see is ignored. Real acute scans of emboli are where
models of large strokes fail, and few of the patients of ``anystroke benchmark --held-out`` have any.
"""

import argparse
import csv
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from anystroke.anatomy.lesions.bank import LesionSettings
from anystroke.core.volume import Volume
from anystroke.simulation.cohorts import Cohort, Member, drawn_masks, held_out_pack, visible_lesion
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.validate import JudgedPatient, judge

SEED = 20261129
SMALLEST_ML = 0.1
HEAD_MM = (192, 224, 192)


def patients(data: Path, count: int, weighting: str, *, spacing: float = 2.0) -> Iterator[JudgedPatient]:
    """Simulate acute scans of patients with emboli, of voxels of some mm."""
    pack = held_out_pack(data)
    lesions = LesionSettings(absent=0.0, emboli=1.0)
    x, y, z = (round(side / spacing) for side in HEAD_MM)
    plain = SynthesisSettings(spacing=spacing, shapes=((x, y, z),), lesions=lesions, cut=0.0)
    generators = [
        Generator(plain.model_copy(update={"skull_strip": strip}), pack.masks) for strip in (0.0, 1.0)
    ]
    members = [
        Member(
            partial(generators[number % 2].generate, stage="acute", weighting=weighting),
            ("emboli", weighting, number),
            lesions=drawn_masks(pack.masks, lesions, weighting=weighting),
            anatomy=number % len(pack.anatomies),
            smallest_ml=SMALLEST_ML,
            visible=True,
        )
        for number in range(count)
    ]
    for sample in Cohort(pack.anatomies, members, SEED):
        yield JudgedPatient(
            Volume(sample.image[None], sample.affine),
            visible_lesion(sample),
            {"set": "simulated", "weighting": weighting},
            sample.unseen,
        )


def gain(after: Sequence[float], before: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean difference of the same patients and its 95 % interval, by a bootstrap over them."""
    gaps = np.subtract(after, before)
    drawn = np.random.default_rng(SEED).choice(gaps, (4000, len(gaps))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(gaps.mean()), float(low), float(high)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="data folder of a training run")
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--weighting", default="DWI")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    everyone = list(patients(options.data, options.patients, options.weighting))
    options.output.mkdir(parents=True, exist_ok=True)
    found = {name: judge(Model.open(name), everyone) for name in options.models}
    with (options.output / "emboli.tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(("model", "patient", "true_ml", "marked_ml", "dice", "lesion_f1"))
        for name, scores in found.items():
            for number, one in enumerate(scores):
                values = (one.truth, one.volume, one.dice, one.f1)
                writer.writerow((name, number, *(f"{value:.4f}" for value in values)))
    print(f"{len(everyone)} patients, {options.weighting}")
    first = [one.dice for one in found[options.models[0]]]
    for name, scores in found.items():
        mean, low, high = gain([one.dice for one in scores], first)
        print(
            f"{name}: Dice {statistics.fmean(one.dice for one in scores):.3f}, "
            f"F1 {statistics.fmean(one.f1 for one in scores):.3f}, "
            f"missed {sum(one.dice == 0 for one in scores)}, "
            f"marked {sum(one.volume for one in scores):.0f} of {sum(one.truth for one in scores):.0f} ml, "
            f"Dice above {options.models[0]} {mean:+.3f} ({low:+.3f} to {high:+.3f})"
        )


if __name__ == "__main__":
    main()
