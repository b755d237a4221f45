"""Train the compared recipes for the same number of steps, judge each on the same patients, and tabulate.

    python benchmarks/recipes_compared.py recipes/compared/*.toml --runs runs/compared --output docs/compared

Every part is resumed where it broke off. Patients are of anatomies and masks that training never saw:
realistic protocols, the published simulator's contrasts (its protocols and tissue priors), and random ones.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from anystroke.anatomy.anatomies import Anatomy, load_anatomies
from anystroke.anatomy.lesions import LesionMask, choose_mask, load_bank
from anystroke.inference.segmentation import Model
from anystroke.labelled_scans import find_labelled_scans
from anystroke.learning.recipes import load_recipe
from anystroke.learning.training import train
from anystroke.learning.validation import (
    Patient,
    Score,
    judge,
    lesion_ml,
    real_patients,
    simulated_patients,
    summarise,
)
from anystroke.memory import keep_pages
from anystroke.random_contrasts import RandomContrastGenerator, RandomContrastSettings
from anystroke.rng import stream
from anystroke.synthesis import CLASSES
from anystroke.volume import Volume

SEED = 90210
WEIGHTINGS = ("T1w", "T2w", "FLAIR", "DWI")


def random_patients(
    anatomies: Sequence[Anatomy], masks: Sequence[LesionMask], *, count: int, spacing: float
) -> Iterator[Patient]:
    """Make patients of random contrast with a lesion of 1 ml or more."""
    shape = tuple(16 * round(side / spacing / 16) for side in (192, 224, 192))
    settings = RandomContrastSettings(spacing=spacing, shape=(shape[0], shape[1], shape[2]), flips=0.0)
    generator = RandomContrastGenerator(settings, masks)
    for number in range(count):
        for attempt in range(100):
            rng = stream(SEED, "random", number, attempt)
            lesions = [choose_mask(masks, settings.lesions, rng)]
            sample = generator(anatomies[number % len(anatomies)], lesions, rng=rng)
            if lesion_ml(sample) >= 1 and float(sample.image.std()) > 0:
                break
        truth = sample.target == CLASSES.index("lesion")
        yield Patient(Volume(sample.image[None], sample.affine), truth, {"set": "random contrasts"})


def test_sets(data: Path, scans: Path | None, *, count: int, spacing: float) -> dict[str, list[Patient]]:
    """Return the patients that all recipes are judged on."""
    anatomies = load_anatomies(data / "held_out_anatomies.safetensors")
    masks = load_bank(data / "held_out_lesions.safetensors")
    sets = {}
    for name, preset, weightings in (
        ("realistic", "realistic", WEIGHTINGS),
        ("published simulator", "paper_code", ("T1w", "T2w", "FLAIR")),
    ):
        drawn = simulated_patients(
            anatomies,
            masks,
            count=count,
            healthy=count // 4,
            seed=SEED,
            weightings=weightings,
            preset=preset,
            priors="literature" if preset == "realistic" else "paper",
            spacing=spacing,
        )
        sets[name] = list(drawn)
    sets["random contrasts"] = list(random_patients(anatomies, masks, count=count, spacing=spacing))
    if scans is not None:
        sets["real"] = list(real_patients(find_labelled_scans(scans)))
    return sets


def row(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the sums of one recipe and one set."""
    result: dict[str, Any] = {}
    for each in summarise(scores):
        if each["group"] == "all":
            prefix = "healthy " if each["set"] == "healthy" else ""
            result |= {f"{prefix}{key}": value for key, value in each.items() if key not in ("set", "group")}
        elif str(each["group"]).startswith("weighting") and each["set"] == "simulated":
            result[str(each["group"])] = each["mean_dice"]
    return result


def table(results: dict[str, Any]) -> str:
    """Return the table of all recipes as Markdown."""
    sets = list(next(iter(results.values()))["sets"])
    lines = [
        "| recipe | " + " | ".join(f"{name}: mean (median) Dice, missed" for name in sets) + " | false ml |",
        "|---" * (len(sets) + 2) + "|",
    ]
    for name, result in results.items():
        cells = []
        for each in sets:
            found = result["sets"][each]
            cells.append(
                f"{found['mean_dice']:.2f} ({found['median_dice']:.2f}), {found['missed']}/{found['scans']}"
            )
        false = result["sets"]["realistic"]["healthy median_volume_error_ml"]
        lines.append(f"| {name} | {' | '.join(cells)} | {false:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="stem of a .json and a .md file")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--scans", type=Path, help="table of labelled real scans")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    keep_pages()
    torch.set_num_threads(2)
    changes = [f"optimiser.steps={options.steps}"] if options.steps else []
    results: dict[str, Any] = {}
    sets: dict[str, list[Patient]] = {}
    for path in options.recipes:
        settings = load_recipe(path, changes)
        folder = options.runs / settings.name
        train(settings, folder, resume=True)
        sets = sets or test_sets(
            folder / "data", options.scans, count=options.count, spacing=settings.grid.spacing
        )
        model = Model.open(folder / "model")
        found = {name: row(judge(model, patients)) for name, patients in sets.items()}
        results[settings.name] = {"steps": settings.optimiser.steps, "sets": found}
        print(settings.name, json.dumps(found))
        options.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(table(results))


if __name__ == "__main__":
    main()
