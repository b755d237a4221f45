r"""Train one recipe in several variants and with several seeds for equal steps, and compare what comes of it.

    python benchmarks/starts_compared.py src/anystroke/recipes/downstream/lesions.toml --seeds 1 2 3 \
        --variant "random" --variant "encoder start_from=runs/encoder/model" \
        --packed runs/encoder/data --runs runs/starts --output starts

    python benchmarks/starts_compared.py src/anystroke/recipes/downstream/lesions.toml --seeds 1 \
        --variant "compact_unet" --variant "residual_unet architecture=residual_unet" \
        --variant "plain_unet architecture=plain_unet" --variant "mde architecture=mde" \
        --variant "mded architecture=mded" --packed runs/encoder/data --runs runs/networks --output networks

A variant is a name and changes of the recipe. Variants of one seed see the same cases. Each run is a process
of its own, and one that is done is not done again. Its last validation, seconds a step, peak memory and
parameters are tabulated, means with the standard error over seeds. Lesion segmentations are also measured on
simulated patients of anatomies and masks that no training saw, case by case as ``anystroke evaluate`` does,
and compared by the tables and paired tests of ``anystroke compare``; what each variant's Dice is above that
of the first gets an interval by a bootstrap over patients and seeds.
"""

import argparse
import csv
import json
import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes_compared import share_data

from anystroke.core.files import write_json
from anystroke.core.memory import keep_pages
from anystroke.core.volume import Volume
from anystroke.evaluation.cases import Pair, PairsFound
from anystroke.evaluation.evaluate import evaluate_pairs, write_measurements
from anystroke.evaluation.metrics.measure import load_settings
from anystroke.evaluation.results import load_results
from anystroke.learning.run import train
from anystroke.learning.run_log import read_log, read_validation
from anystroke.models.checkpoints import model_facts
from anystroke.reports.comparison import CompareSettings, compare_results
from anystroke.simulation.cohorts import held_out_pack
from anystroke.tasks.registry import AnyRecipe, load_any_recipe
from anystroke.tasks.segmentation.predict import Model, segment
from anystroke.tasks.segmentation.recipe import TrainingSettings
from anystroke.tasks.segmentation.validate import (
    JUDGED_STAGES,
    JudgedPatient,
    PatientOptions,
    simulated_patients,
)

SEED = 20251127
# What patients can be, beside their contrasts.
CONDITIONS = {"skull": ("yes", "no"), "stage": JUDGED_STAGES}
# Of so many times the patients that are wanted those are taken that are such as is wanted.
LOOKED_THROUGH = 12
_FACTS = ("weighting", "stage", "skull")


def runs(options: argparse.Namespace) -> Iterator[tuple[str, int, AnyRecipe, Path]]:
    """Name the runs: variant, seed, recipe and folder."""
    for variant in options.variant:
        name, *changes = variant.split()
        for seed in options.seeds:
            settings = load_any_recipe(options.recipe, [*options.override, *changes, f"seed={seed}"])
            yield name, seed, settings, options.runs / f"{name}-{seed}"


def finish(settings: AnyRecipe, folder: Path, packed: Path | None) -> None:
    """Train to the last step; a run that was cut short goes on, and one that is done stays."""
    if packed is not None:
        share_data(packed, folder / "data")
    done = (folder / "state.safetensors").exists()
    steps = model_facts(folder / "model")["training"]["steps"] if done else 0
    if steps < settings.optimiser.steps:
        started = time.perf_counter()
        train(settings, folder, resume=done)
        write_json(
            folder / "cost.json",
            {
                "minutes": round((time.perf_counter() - started) / 60, 1),
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            },
        )


def finish_and_measure(
    settings: AnyRecipe,
    folder: Path,
    packed: Path | None,
    scores: Path,
    name: str,
    patients: Sequence[JudgedPatient],
) -> None:
    """Train, and measure what finds lesions; in a process of its own, whose memory is that of this run."""
    keep_pages()
    finish(settings, folder, packed)
    if patients and isinstance(settings, TrainingSettings) and not (scores / "metrics.tsv").exists():
        measure_lesions(scores, folder / "model", name, patients)


def row(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Say what a run cost, and how its last validation was."""
    log = read_log(folder)
    seconds = sorted(float(one["seconds"]) - float(one["seconds_waiting"]) for one in log)
    facts = model_facts(folder / "model")["training"]
    found = [each for each in read_validation(folder) if each["group"] == "all"]
    last = {key: float(value) for key, value in found[-1].items() if _is_number(value)} if found else {}
    cost = folder / "cost.json"
    return {
        "variant": name,
        "seed": seed,
        "steps": facts["steps"],
        "parameters": facts["parameters"],
        "seconds_a_step": round(statistics.median(seconds), 3),
        # A run that was killed after its last step has none.
        **(json.loads(cost.read_text(encoding="utf-8")) if cost.exists() else {}),
        **last,
    }


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Return a row for each variant: mean and standard error of the mean over seeds."""
    table = []
    for name in dict.fromkeys(each["variant"] for each in rows):
        chosen = [each for each in rows if each["variant"] == name]
        line = {"variant": name, "seeds": str(len(chosen))}
        for key in chosen[0]:
            if key in ("variant", "seed", "step"):
                continue
            values = [float(each[key]) for each in chosen if key in each]
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            line[key] = f"{statistics.fmean(values):.4g}" + ("" if math.isnan(error) else f" ({error:.2g})")
        table.append(line)
    return table


def measure_lesions(folder: Path, model: Path, name: str, patients: Sequence[JudgedPatient]) -> None:
    """Segment patients, and write masks and metrics as ``anystroke evaluate`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = Model.open(model)
    cases = []
    for number, patient in enumerate(patients):
        stem = folder / f"patient{number:03d}"
        scan, truth, mask = (Path(f"{stem}_{what}.nii.gz") for what in ("scan", "truth", "mask"))
        patient.scan.save(scan, overwrite=True)
        Volume(patient.truth[None].to(torch.uint8), patient.scan.affine).save(truth, overwrite=True)
        segment(patient.scan, opened, adc=patient.adc).mask.save(mask, overwrite=True)
        facts = {"patient": stem.name, **{key: patient.groups[key] for key in _FACTS}}
        cases.append(Pair(stem.name, mask, truth, None, scan, facts))
    settings = load_settings()
    write_measurements(
        folder,
        list(evaluate_pairs(cases, settings=settings)),
        PairsFound(tuple(cases)),
        settings=settings,
        name=name,
    )


def gains(scores: Path, variants: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Say by how much the mean Dice of each variant is above that of the first, on the same patients."""
    dice = {name: np.stack([_dice(scores / f"{name}-{seed}") for seed in seeds]) for name in variants}
    first = variants[0]
    table = []
    for name in variants[1:]:
        gap = dice[name] - dice[first]
        rng = np.random.default_rng(SEED)
        drawn = [
            gap[np.ix_(rng.integers(len(gap), size=len(gap)), rng.integers(gap.shape[1], size=gap.shape[1]))]
            for _ in range(4000)
        ]
        low, high = np.quantile([each.mean() for each in drawn], [0.025, 0.975])
        table.append(
            {
                "variant": name,
                "above": first,
                "dice": float(dice[name].mean()),
                "gain": float(gap.mean()),
                "low": float(low),
                "high": float(high),
                "by_seed": [round(float(value), 4) for value in gap.mean(axis=1)],
            }
        )
    return table


def _dice(folder: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Read the Dice of all patients, in the order of their names."""
    cases = load_results(folder).cases
    return np.array([cases[name].values["dice"] for name in sorted(cases)], dtype=np.float64)


def write_tables(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Write all runs, and the means over seeds."""
    output.mkdir(parents=True, exist_ok=True)
    table = means(rows)
    write_json(output / "runs.json", list(rows))
    with (output / "means.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in table for key in line)))
        writer.writeheader()
        writer.writerows(table)
    for line in table:
        print("  ".join(f"{key} {value}" for key, value in line.items()))


def judged_patients(
    settings: TrainingSettings,
    data: Path,
    count: int,
    *,
    preset: str,
    weightings: Sequence[str],
    only: Sequence[tuple[str, str]] = (),
) -> list[JudgedPatient]:
    """Simulate the patients that lesions are measured on, with the protocols of a preset.

    Args:
        settings: Whose voxel size they have.
        data: Packed data.
        count: How many.
        preset: Protocols.
        weightings: Contrasts.
        only: Which patients, such as ``("skull", "no")``; all of these must hold.

    Raises:
        ValueError: Too few of the patients are such.
    """
    wanted = dict(only)
    patients = simulated_patients(
        held_out_pack(data),
        count=count * (LOOKED_THROUGH if wanted else 1),
        healthy=0,
        seed=SEED,
        weightings=weightings,
        options=PatientOptions(preset=preset),
        spacing=settings.grid.spacing,
    )
    chosen = (each for each in patients if wanted.items() <= each.groups.items())
    found = list(islice(chosen, count))
    if len(found) < count:
        raise ValueError(
            f"expected {count} patients with {wanted}, got {len(found)} of {count * LOOKED_THROUGH}; ask for "
            "what patients can be"
        )
    return found


def condition(text: str) -> tuple[str, str]:
    """Read what patients must be.

    Raises:
        argparse.ArgumentTypeError: No patient can be that.
    """
    key, _, value = text.partition("=")
    if value not in CONDITIONS.get(key, ()):
        known = ", ".join(f"{name}={each}" for name, values in CONDITIONS.items() for each in values)
        raise argparse.ArgumentTypeError(f"expected one of {known}, got {text!r}")
    return key, value


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--variant", action="append", required=True, metavar='"NAME KEY=VALUE ..."')
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--packed", type=Path, help="folder of packed data to share; needed for lesions")
    parser.add_argument("--patients", type=int, default=24, help="on which lesions are measured")
    parser.add_argument("--preset", default="realistic", help="protocols of these patients")
    parser.add_argument("--weightings", default="T1w,T2w,FLAIR,DWI", help="contrasts of these patients")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        type=condition,
        metavar="KEY=VALUE",
        help="on which patients, such as skull=no or stage=acute",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    wanted = list(runs(options))
    _, _, settings, _ = wanted[0]
    measured = isinstance(settings, TrainingSettings) and options.patients > 0
    if options.only and not measured:
        parser.error("--only says on which patients lesions are measured; leave it out")
    if measured and options.packed is None:
        parser.error("lesions are measured on held-out patients of packed data; name them with --packed")
    patients = (
        judged_patients(
            settings,
            options.packed,
            options.patients,
            preset=options.preset,
            weightings=options.weightings.split(","),
            only=options.only,
        )
        if isinstance(settings, TrainingSettings) and measured
        else []
    )
    scores = options.output / "scores"
    with ProcessPoolExecutor(
        options.jobs, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        started = [
            pool.submit(
                finish_and_measure, each, folder, options.packed, scores / f"{name}-{seed}", name, patients
            )
            for name, seed, each, folder in wanted
        ]
        rows = []
        try:
            for (name, seed, _, folder), run in zip(wanted, started, strict=True):
                run.result()
                rows.append(row(name, seed, folder))
                write_tables(rows, options.output)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if measured and len(wanted) > 1:
        names = list(dict.fromkeys(name for name, *_ in wanted))
        found = gains(scores, names, options.seeds)
        write_json(options.output / "gains.json", found)
        for line in found:
            print(
                f"{line['variant']}: Dice {line['dice']:.3f}, {line['gain']:+.3f} "
                f"({line['low']:.3f} to {line['high']:.3f}) above {line['above']}"
            )
        compare_results(
            [load_results(scores / f"{name}-{seed}") for name, seed, *_ in wanted],
            options.output / "comparison",
            CompareSettings(by=_FACTS, centre="mean"),
        )


if __name__ == "__main__":
    main()
