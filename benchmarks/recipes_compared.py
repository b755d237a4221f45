r"""Train the compared recipes for the same number of steps, judge each on the same patients, and tabulate.

    python benchmarks/recipes_compared.py src/anystroke/recipes/compared/*.toml \
        --runs runs/compared --output compared
    python benchmarks/recipes_compared.py src/anystroke/recipes/compared/stage/*.toml --held-out \
        --runs runs/stage --output stage

A recipe whose steps are all done is taken as it is, one that was cut short goes on; tables are written after
each. Patients are of anatomies and masks that training never saw. The first command judges on realistic
protocols, the published simulator's contrasts (its protocols and tissue priors), and random ones. The second
judges on those of ``anystroke benchmark --held-out``, by contrast, size and contrast-to-noise, each model
calibrated by the same rule, as differences to ``--reference`` with bootstrap intervals.

On a GPU, whole heads in batches of 16:

    python benchmarks/recipes_compared.py src/anystroke/recipes/compared/stage/*.toml --held-out \
        --runs runs/stage-heads --output stage-heads --cases 80 --healthy 50 \
        --override 'grid.shapes=[[96, 112, 96]]' --override optimiser.batch=16 \
        --override optimiser.learning_rate=1.2e-3 --override optimiser.warm_up=100 \
        --override optimiser.workers=15 --override buffer.reuse=5 --override buffer.cases=4000 \
        --override buffer.first=64
"""

import argparse
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from held_out_compared import Patients, compared, judged
from held_out_compared import table as held_out_table
from safetensors import safe_open

from anystroke.anatomy.lesions.bank import LesionMask, choose_mask
from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.core.files import atomic_path
from anystroke.core.memory import keep_pages
from anystroke.core.volume import Volume
from anystroke.io.labelled import find_labelled_scans
from anystroke.learning.run import train
from anystroke.learning.trainer import TrainingError, recipe_digest
from anystroke.simulation.cohorts import Cohort, Member, held_out_pack
from anystroke.simulation.generator import CLASSES, Sample
from anystroke.simulation.random_contrasts import RandomContrastGenerator, RandomContrastSettings
from anystroke.studies.held_out.judge import PatientRow
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.recipe import TrainingSettings, load_recipe
from anystroke.tasks.segmentation.validate import (
    JudgedPatient,
    PatientOptions,
    Score,
    judge,
    real_patients,
    simulated_patients,
    summarise_scores,
)

SEED = 90210
WEIGHTINGS = ("T1w", "T2w", "FLAIR", "DWI")
Run = tuple[TrainingSettings, Path, Model]


def random_patients(
    anatomies: Sequence[Anatomy], masks: Sequence[LesionMask], *, count: int, spacing: float
) -> Iterator[JudgedPatient]:
    """Make patients of random contrast with a lesion of 1 ml or more."""
    shape = tuple(16 * round(side / spacing / 16) for side in (192, 224, 192))
    settings = RandomContrastSettings(spacing=spacing, shape=(shape[0], shape[1], shape[2]), flips=0.0)
    generator = RandomContrastGenerator(settings, masks)
    members = [
        Member(
            generator.generate,
            ("random", number),
            lesions=lambda rng: [choose_mask(masks, settings.lesions, rng)],
            anatomy=number % len(anatomies),
            smallest_ml=1.0,
        )
        for number in range(count)
    ]
    for sample in Cohort(anatomies, members, SEED):
        truth = sample.target == CLASSES.index("lesion")
        yield JudgedPatient(Volume(sample.image[None], sample.affine), truth, {"set": "random contrasts"})


def test_sets(
    data: Path, scans: Path | None, *, count: int, spacing: float
) -> dict[str, list[JudgedPatient]]:
    """Return the patients that all recipes are judged on."""
    pack = held_out_pack(data)
    sets = {}
    for name, preset, weightings in (
        ("realistic", "realistic", WEIGHTINGS),
        ("published simulator", "paper_code", ("T1w", "T2w", "FLAIR")),
    ):
        drawn = simulated_patients(
            pack,
            count=count,
            healthy=count // 4,
            seed=SEED,
            weightings=weightings,
            options=PatientOptions(preset, "literature" if preset == "realistic" else "paper"),
            spacing=spacing,
        )
        sets[name] = list(drawn)
    sets["random contrasts"] = list(random_patients(pack.anatomies, pack.masks, count=count, spacing=spacing))
    if scans is not None:
        sets["real"] = list(real_patients(find_labelled_scans(scans)))
    return sets


def row(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the sums of one recipe and one set."""
    result: dict[str, Any] = {}
    for each in summarise_scores(scores):
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


def share_data(packed: Path, folder: Path) -> None:
    """Give a run what is packed elsewhere, so that unchanged inputs are not read again."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(packed.glob("*.safetensors")):
        place = folder / path.name
        if place.exists():
            continue
        try:
            # Packs are replaced, never changed in place, so no run can spoil another's.
            os.link(path, place)
        except OSError:
            with atomic_path(place) as part:
                shutil.copyfile(path, part)


def trained(settings: TrainingSettings, folder: Path) -> Model:
    """Train a recipe, go on where it was cut short, or take it as it is where all steps are done.

    Raises:
        TrainingError: The run is that of another recipe, or goes by the clock.
    """
    if settings.optimiser.minutes:
        raise TrainingError(f"{settings.name} trains by the clock; add --override optimiser.minutes=0")
    steps, state = settings.optimiser.steps, folder / "state.safetensors"
    done = 0
    if state.exists():
        with safe_open(state, framework="pt") as file:
            facts = file.metadata()
        if facts["recipe"] != recipe_digest(settings):
            raise TrainingError(
                f"{folder} was trained by another recipe than {settings.name} is now; remove it, or name "
                "another folder with --runs"
            )
        done = int(facts["step"])
    if done < steps:
        train(settings, folder, resume=True)
    model = Model.open(folder / "model")
    if model.config.training["steps"] != steps:
        raise TrainingError(f"{folder / 'model'} is of an earlier step than its checkpoint; remove {folder}")
    return model


def recipes_of(options: argparse.Namespace) -> dict[str, TrainingSettings]:
    """Return the recipes by name, with the reference first where models are compared with one."""
    changes = [*options.override, *([f"optimiser.steps={options.steps}"] if options.steps else [])]
    recipes = {each.name: each for each in (load_recipe(path, changes) for path in options.recipes)}
    if not options.held_out:
        return recipes
    if options.reference not in recipes:
        raise SystemExit(f"expected --reference to be one of {', '.join(recipes)}, got {options.reference}")
    return {options.reference: recipes.pop(options.reference), **recipes}


def write(stem: Path, results: dict[str, Any], text: str) -> None:
    """Write the results and their table."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(text, encoding="utf-8")


def compare_held_out(runs: Iterator[Run], options: argparse.Namespace) -> None:
    """Judge each run on the held-out patients, calibrated, and write how far it is from the reference."""
    patients = Patients(options.cases, options.healthy, options.calibration)
    samples: list[Sample] = []
    results: dict[str, Any] = {}
    reference: list[PatientRow] = []
    for settings, folder, model in runs:

        def simulated(pack: Path = folder / "data") -> list[Sample]:
            samples.extend([] if samples else patients.simulated(pack))
            return samples

        found = judged(folder, model, patients, simulated)
        reference = reference or found["rows"]
        results[settings.name] = {
            "steps": settings.optimiser.steps,
            "batch": settings.optimiser.batch,
            **{key: found[key] for key in ("calibration", "summary", "false_ml")},
            "measures": compared(found["rows"], reference, name=settings.name),
        }
        write(options.output, results, held_out_table(results, options.reference))


def compare_sets(runs: Iterator[Run], options: argparse.Namespace) -> None:
    """Judge each run on three kinds of simulated patients and on real scans."""
    results: dict[str, Any] = {}
    sets: dict[str, list[JudgedPatient]] = {}
    for settings, folder, model in runs:
        sets = sets or test_sets(
            folder / "data", options.scans, count=options.count, spacing=settings.grid.spacing
        )
        found = {name: row(judge(model, patients)) for name, patients in sets.items()}
        results[settings.name] = {"steps": settings.optimiser.steps, "sets": found}
        print(settings.name, json.dumps(found))
        write(options.output, results, table(results))


def all_trained(recipes: dict[str, TrainingSettings], options: argparse.Namespace) -> Iterator[Run]:
    """Train one recipe after the other."""
    packed: Path | None = options.data
    for number, (name, settings) in enumerate(recipes.items(), start=1):
        print(f"{name}: recipe {number} of {len(recipes)}", flush=True)
        folder = options.runs / name
        if packed is not None:
            share_data(packed, folder / "data")
        yield settings, folder, trained(settings, folder)
        packed = folder / "data"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="stem of a .json and a .md file")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--override", action="append", default=[], help="KEY=VALUE, in every recipe")
    parser.add_argument("--data", type=Path, help="data folder of a run, to read label maps and masks once")
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    parser.add_argument("--count", type=int, default=48, help="patients of each kind")
    parser.add_argument("--scans", type=Path, help="table of labelled real scans")
    parser.add_argument("--held-out", action="store_true", help="judge on held-out patients")
    parser.add_argument("--reference", default="everything", help="recipe to compare the others with")
    parser.add_argument("--cases", type=int, default=40, help="held-out scans per weighting")
    parser.add_argument("--healthy", type=int, default=25, help="held-out scans without lesion")
    parser.add_argument(
        "--calibration", type=int, default=60, help="patients to calibrate each model with; 0: not at all"
    )
    return parser.parse_args()


def main() -> None:
    """Run the comparison."""
    options = arguments()
    logging.basicConfig(level=logging.INFO)
    keep_pages()
    if options.threads:
        torch.set_num_threads(options.threads)
    runs = all_trained(recipes_of(options), options)
    (compare_held_out if options.held_out else compare_sets)(runs, options)


if __name__ == "__main__":
    main()
