r"""Compare ways of showing heads to a network, on the same simulated patients: test-time augmentation.

    python benchmarks/views_compared.py default --data runs/data --output views \
        --views "" --views "gamma=1.3" --views "gamma=1.3 spacing=1.7,gamma=1.5,mirrored=true"

Each ``--views`` is a list of views, and each view a list of the fields of a model's ``views``; an empty one
is the scan as it is. Patients have the anatomies and masks of the training's data, which choose, or with
``--held-out`` those that no training saw, which judge. The second look is left
out unless it is asked for; ADC maps are given as their exponential too.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from anystroke.core.files import write_json
from anystroke.core.memory import keep_pages
from anystroke.simulation.cohorts import held_out_pack, load_pack
from anystroke.tasks.segmentation.config import View
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.validate import Score, judge, score_of, simulated_patients

SEED = 20261129
WEIGHTINGS = ("T1w", "T2w", "FLAIR", "DWI", "ADC")


def read_views(text: str) -> tuple[View, ...]:
    """Read a list of views.

    Raises:
        argparse.ArgumentTypeError: A view has no such field, or not such a value.

    Example:
        >>> read_views("gamma=1.3 spacing=1.7,mirrored=true")[1].mirrored
        True
    """
    found = []
    try:
        for each in text.split():
            fields = dict(field.split("=", 1) for field in each.split(","))
            found.append(View(**{name: json.loads(value) for name, value in fields.items()}))
    except ValueError:
        known = ", ".join(View.model_fields)
        raise argparse.ArgumentTypeError(
            f"expected views such as 'gamma=1.3 spacing=1.7,mirrored=true' of {known}, got {text!r}"
        ) from None
    return tuple(found) or (View(),)


def checked(text: str) -> str:
    """Return a list of views as it was written, if it can be read."""
    read_views(text)
    return text


def line(scores: list[Score], seconds: float) -> dict[str, object]:
    """Summarise what one list of views brings, and costs."""
    ill = [score for score in scores if score.truth > 0]
    false = [score.volume for score in scores if not score.truth > 0]
    contrasts = {name: [s.dice for s in ill if s.groups["weighting"] == name] for name in WEIGHTINGS}
    overlap, match = [s.dice for s in ill], [s.f1 for s in ill]
    return {
        "patients": len(ill),
        "dice": float(np.mean(overlap)),
        "f1": float(np.mean(match)),
        "missed": sum(value == 0 for value in overlap),
        "dice_by_contrast": {name: float(np.mean(values)) for name, values in contrasts.items() if values},
        "healthy": len(false),
        "healthy_above_half_ml": sum(ml > 0.5 for ml in false),
        "healthy_mean_ml": float(np.mean(false)) if false else None,
        "score": score_of(overlap, match, false),
        "seconds": seconds,
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="packed data of a run")
    parser.add_argument("--views", action="append", required=True, type=checked, metavar='"VIEW VIEW ..."')
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--second-look", action="store_true")
    parser.add_argument("--patients", type=int, default=120)
    parser.add_argument("--healthy", type=int, default=40)
    parser.add_argument("--spacing", type=float, help="voxels of the scans [mm]; by default the model's own")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    keep_pages()
    if options.threads:
        torch.set_num_threads(options.threads)
    opened = Model.open(options.model)
    if not options.second_look:
        opened = replace(opened, second_network=None)
    models = {
        text: replace(opened, config=opened.config.model_copy(update={"views": read_views(text)}))
        for text in options.views
    }
    scores: dict[str, list[Score]] = {text: [] for text in models}
    seconds = dict.fromkeys(models, 0.0)
    pack = (held_out_pack if options.held_out else load_pack)(options.data)
    for patient in simulated_patients(
        pack,
        count=options.patients,
        healthy=options.healthy,
        seed=SEED,
        weightings=WEIGHTINGS,
        spacing=options.spacing or opened.config.spacing,
    ):
        for text, model in models.items():
            started = time.perf_counter()
            scores[text] += judge(model, [patient])
            seconds[text] += time.perf_counter() - started
    options.output.mkdir(parents=True, exist_ok=True)
    first = np.array([score.dice for score in scores[options.views[0]] if score.truth > 0])
    table = []
    for text in models:
        found = line(scores[text], seconds[text] / len(scores[text]))
        gain = np.array([score.dice for score in scores[text] if score.truth > 0]) - first
        found["dice_gain"] = float(gain.mean())
        found["dice_gain_sem"] = float(gain.std(ddof=1) / len(gain) ** 0.5)
        table.append({"views": text} | found)
        print(
            f"{text or 'as it is'}: Dice {found['dice']:.3f} ({gain.mean():+.3f}, SEM "
            f"{found['dice_gain_sem']:.3f}), F1 {found['f1']:.3f}, missed {found['missed']}, healthy above "
            f"0.5 ml {found['healthy_above_half_ml']} of {found['healthy']}, {found['seconds']:.1f} s"
        )
    write_json(options.output / "views.json", table)


if __name__ == "__main__":
    main()
