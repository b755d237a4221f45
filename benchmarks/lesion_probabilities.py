"""Judge how likely a model says the lesions of its masks are, on patients that no training saw.

    python benchmarks/lesion_probabilities.py default --data runs/data --output probabilities

Of five simulated patients three have any lesion, one has none and one has a shower of emboli. A lesion of the
mask is right if it touches a true one; parts that are mostly of what nobody could see do not count.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from anystroke.core.files import write_json
from anystroke.core.memory import keep_pages
from anystroke.simulation.cohorts import held_out_pack
from anystroke.tasks.segmentation.part_fit import fitting_patients, observe_parts
from anystroke.tasks.segmentation.predict import Model

SEED = 20261129
EDGES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="data folder of a training run")
    parser.add_argument("--patients", type=int, default=150)
    parser.add_argument("--spacing", type=float, help="voxels of the scans [mm]; by default the model's own")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    keep_pages()
    model = Model.open(options.model)
    if model.config.part_model is None:
        parser.error(
            f"the model {options.model} does not say how likely lesions are; calibrate --only-parts learns it"
        )
    spacing = options.spacing or model.config.spacing
    everyone = fitting_patients(held_out_pack(options.data), options.patients, seed=SEED, spacing=spacing)
    found = [observe_parts(model, patient) for patient in everyone]
    counted = np.concatenate([one.counted for one in found])
    right = np.concatenate([one.right for one in found])[counted]
    said = np.concatenate([model.config.part_model.probabilities(one.signs) for one in found])[counted]
    area = float(roc_auc_score(right, said))
    table = []
    for low, high in pairwise(EDGES):
        some = (said >= low) & (said < high)
        if some.any():
            row = {"n": int(some.sum()), "said": float(said[some].mean()), "right": float(right[some].mean())}
            table.append({"from": low, "to": high, **row})
    result = {"patients": len(found), "lesions": len(right), "right": int(right.sum()), "auc": area}
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "lesion_probabilities.json", {**result, "by_probability": table}, indent=1)
    print(f"{len(right)} lesions of {len(found)} patients, {right.mean():.2f} right, AUC {area:.3f}")
    for row in table:
        print(
            f"said {row['from']:.2f} to {row['to']:.2f}: {row['n']}, said {row['said']:.2f}, "
            f"right {row['right']:.2f}"
        )


if __name__ == "__main__":
    main()
