"""Does the second look at small lesions help? Simulated patients at 1 mm that training never saw.

python benchmarks/refinement.py runs/default/data --model default --output refinement.json
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from anystroke.core.memory import keep_pages
from anystroke.evaluation.metrics.measure import dice
from anystroke.simulation.cohorts import Pack, held_out_pack
from anystroke.tasks.segmentation.predict import Model, segment
from anystroke.tasks.segmentation.refinement import LARGEST_ML
from anystroke.tasks.segmentation.validate import simulated_patients

WEIGHTINGS = ("T1w", "T2w", "FLAIR", "DWI")
SEED = 61


def main() -> None:
    """Run the benchmark and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="data folder of the training run")
    parser.add_argument("--model", default="default")
    parser.add_argument("--patients", type=int, default=48)
    parser.add_argument("--healthy", type=int, default=8)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    keep_pages()
    model = Model.open(arguments.model)
    if model.refiner is None:
        parser.error(f"the model {arguments.model} has no second network")
    # Lesions change their size when they are placed, so the limits on the masks are narrower.
    pack = held_out_pack(arguments.pack)
    masks = [m for m in pack.masks if 1.5 <= m.volume_ml <= 0.8 * LARGEST_ML]
    rows: list[dict[str, Any]] = []
    for patient in simulated_patients(
        Pack(pack.anatomies, masks),
        count=arguments.patients,
        healthy=arguments.healthy,
        seed=SEED,
        weightings=WEIGHTINGS,
        spacing=1.0,
    ):
        row: dict[str, Any] = {**patient.groups, "truth_ml": float(patient.truth.sum()) / 1000}
        for name, refine in (("coarse", False), ("refined", True)):
            found = segment(patient.scan, model, refinement=refine)
            mask = found.mask.data[0] > 0
            row[name] = {
                "dice": dice(mask, patient.truth, empty="undefined") if row["truth_ml"] else None,
                "ml": found.lesion_volume,
                "seconds": sum(found.prediction.seconds.values()),
            }
        rows.append(row)
        print(row, flush=True)
    with_lesion = [row for row in rows if row["truth_ml"]]
    result: dict[str, Any] = {"patients": len(with_lesion)}
    for name in ("coarse", "refined"):
        scores = [row[name]["dice"] for row in with_lesion]
        found_scores = [row[name]["dice"] for row in with_lesion if row["coarse"]["dice"] > 0]
        result[name] = {
            "mean_dice": round(statistics.fmean(scores), 3),
            "median_dice": round(statistics.median(scores), 3),
            "mean_dice_of_the_found": round(statistics.fmean(found_scores), 3),
            "missed": sum(score == 0 for score in scores),
            "false_ml": round(
                statistics.median([row[name]["ml"] for row in rows if not row["truth_ml"]] or [0.0]), 2
            ),
            "median_seconds": round(statistics.median(row[name]["seconds"] for row in rows), 2),
        }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps({**result, "cases": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
