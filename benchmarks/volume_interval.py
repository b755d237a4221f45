"""Choose the shift of the volume interval on simulated patients, and measure its coverage on others.

    python benchmarks/volume_interval.py --patients 30 --output docs/volume_interval.json

Each patient is the MNI152 head, deformed, with a made-up lesion and a random protocol. Half of them
choose the shift that covers 90 % of them; the coverage is measured on the other half, and vice versa.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from anystroke.anatomy.lesions import LesionSettings
from anystroke.anatomy.made_up_lesions import random_blob
from anystroke.anatomy.mni import mni_anatomy
from anystroke.evaluation.metrics import dice
from anystroke.inference.segmentation import Model, segment
from anystroke.inference.trust import cut_area
from anystroke.inference.volume_interval import FLOOR, RATE, SHIFT, volume_interval
from anystroke.rng import stream
from anystroke.synthesis import CLASSES, Generator, SynthesisSettings
from anystroke.volume import Volume

SEED = 20271
LESION = CLASSES.index("lesion")
SHIFTS = [round(0.25 * i, 2) for i in range(37)]


def judge(model: Model, number: int) -> dict[str, Any]:
    """Simulate and segment one patient; give the interval for every shift."""
    generator = Generator(SynthesisSettings(shapes=((96, 112, 96),), spacing=2.0))
    rng = stream(SEED, "interval", number)
    anatomy = mni_anatomy()
    while True:
        sample = generator(anatomy, random_blob(LesionSettings(), rng=rng), rng=rng)
        if float(sample.image.max()) > float(sample.image.min()):
            break
    scan = Volume(sample.image[None], sample.affine)
    truth = sample.target == LESION
    found = segment(scan, model)
    ends = [volume_interval(found.probability, found.threshold, shift=shift, floor=FLOOR) for shift in SHIFTS]
    brain = found.brain
    return {
        "patient": number,
        "weighting": sample.protocol.weighting,
        "stage": sample.record["stage"],
        "true_ml": float(truth.sum()) * scan.voxel_volume,
        "mask_ml": found.lesion_volume,
        "dice": dice(found.mask.data[0] > 0, truth),
        "low": [end.low for end in ends],
        "high": [end.high for end in ends],
        "brain_ml": None if brain is None else float(brain.data.sum()) * brain.voxel_volume,
        "cut_cm2": None if brain is None else cut_area(brain, scan),
        "reasons": list(found.reasons),
    }


def coverage(rows: list[dict[str, Any]], index: int) -> float:
    """Return the share of patients whose true volume lies in the interval of one shift."""
    return sum(row["low"][index] <= row["true_ml"] <= row["high"][index] for row in rows) / max(len(rows), 1)


def chosen(rows: list[dict[str, Any]]) -> int:
    """Return the smallest shift that covers enough patients, or the largest there is."""
    return next((i for i in range(len(SHIFTS)) if coverage(rows, i) >= RATE), len(SHIFTS) - 1)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up what was measured."""
    halves = [[row for row in rows if row["patient"] % 2 == parity] for parity in (0, 1)]
    crossed = [coverage(halves[1 - i], chosen(halves[i])) for i in (0, 1)]
    shipped = SHIFTS.index(SHIFT)
    widths = sorted(row["high"][shipped] - row["low"][shipped] for row in rows)
    trusted = [row for row in rows if not row["reasons"]]
    return {
        "patients": len(rows),
        "rate": RATE,
        "shift_chosen_on_all": SHIFTS[chosen(rows)],
        "shift_chosen_on_halves": [SHIFTS[chosen(half)] for half in halves],
        "coverage_on_the_other_half": crossed,
        "standard_error": math.sqrt(RATE * (1 - RATE) / max(len(rows), 1)),
        "shipped_shift": SHIFT,
        "floor_ml": FLOOR,
        "coverage_of_the_shipped_shift": coverage(rows, shipped),
        "median_width_ml": widths[len(widths) // 2] if widths else None,
        "trusted_patients": len(trusted),
        "coverage_among_trusted": coverage(trusted, shipped),
    }


def main() -> None:
    """Measure and write the report after each patient."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=30)
    parser.add_argument("--model", default="default")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    model = Model.open(arguments.model)
    rows: list[dict[str, Any]] = []
    for number in range(arguments.patients):
        start = time.perf_counter()
        rows.append(judge(model, number))
        row = rows[-1]
        print(
            f"{number}: {row['weighting']} true {row['true_ml']:.1f} ml, mask {row['mask_ml']:.1f} ml, "
            f"Dice {row['dice']:.2f}, {time.perf_counter() - start:.0f} s {row['reasons']}",
            flush=True,
        )
        report = {"model": model.config.name, "shifts": SHIFTS, "summary": summary(rows), "cases": rows}
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
