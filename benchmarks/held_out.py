"""Judge a model on simulated patients whose anatomy and lesion training never saw.

Run after a training, with the run's data folder:

    python benchmarks/held_out.py runs/default/data --model default --output docs/held_out.json
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from anystroke.anatomy.lesions.bank import LesionMask, LesionSettings, draw_masks, load_bank
from anystroke.anatomy.tissues.anatomies import Anatomy, load_anatomies
from anystroke.core.memory import keep_pages
from anystroke.core.rng import integer, stream
from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.calibration import Reliability, reliability
from anystroke.evaluation.metrics.lesion_wise import match_lesions
from anystroke.evaluation.metrics.measure import dice
from anystroke.models.volume_interval import volume_interval
from anystroke.simulation.generator import CLASSES, Generator, Sample
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.lesions_found import volumes_of_parts
from anystroke.tasks.segmentation.predict import Model, segment

WEIGHTINGS = ("T1w", "T2w", "FLAIR", "DWI", "ADC")
SIZES_ML = ((1.0, 5.0), (5.0, 20.0), (20.0, 50.0), (50.0, 1e9))
CONTRASTS_TO_NOISE = ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 1e9))
LESION = CLASSES.index("lesion")
VISIBLE_FROM = SynthesisSettings().visible_from
SEED = 4711


def simulate(
    generator: Generator, anatomies: list[Anatomy], masks: list[LesionMask], case: str, *, smallest_ml: float
) -> Sample:
    """Simulate one numbered patient; redraw until the lesion inside the field of view is large enough."""
    for attempt in range(100):
        rng = stream(SEED, case, attempt)
        anatomy = anatomies[integer(rng, 0, len(anatomies) - 1)]
        weighting = generator.settings.weighting
        lesions = draw_masks(masks, generator.settings.lesions, rng, weighting=weighting)
        sample = generator(anatomy, lesions, rng=rng)
        if lesion_ml(sample) >= smallest_ml:
            return sample
    raise RuntimeError(f"no lesion of {smallest_ml} ml in 100 tries for {case}")


def with_lesion(
    anatomies: list[Anatomy], masks: list[LesionMask], weighting: str, *, count: int
) -> Iterator[Sample]:
    """Simulate scans of a weighting with a lesion of 1 ml or more."""
    generator = Generator(SynthesisSettings(weighting=weighting, lesions=LesionSettings(absent=0.0)), masks)
    for number in range(count):
        yield simulate(generator, anatomies, masks, f"{weighting}-{number}", smallest_ml=1.0)


def without_lesion(anatomies: list[Anatomy], *, count: int) -> Iterator[Sample]:
    """Simulate scans without a lesion, of one weighting after the other."""
    for number in range(count):
        generator = Generator(SynthesisSettings(weighting=WEIGHTINGS[number % len(WEIGHTINGS)]))
        yield simulate(generator, anatomies, [], f"healthy-{number}", smallest_ml=0.0)


def load_held_out(pack: Path) -> tuple[list[Anatomy], list[LesionMask]]:
    """Load the anatomies and the masks of 1 ml or more that a training with this data folder never saw."""
    masks = [m for m in load_bank(pack / "held_out_lesions.safetensors") if m.volume_ml >= 1]
    return load_anatomies(pack / "held_out_anatomies.safetensors"), masks


def lesion_ml(sample: Sample) -> float:
    """Return the volume of the sample's lesion in ml."""
    voxel = float(torch.linalg.det(sample.affine[:3, :3]).abs())
    return float((sample.target == LESION).sum()) * voxel / 1000


def contrast_to_noise(sample: Sample) -> float | None:
    """Return that of the sample's largest connected lesion; None without one."""
    found = sample.record["visibility"]
    return found[0]["contrast_to_noise"] if found else None


def judge(model: Model, sample: Sample) -> tuple[dict[str, Any], Reliability]:
    """Segment one simulated scan; return the comparison and how far probabilities hold."""
    found = segment(Volume(sample.image[None], sample.affine), model)
    truth = sample.target == LESION
    mask = found.mask.data[0] > 0
    errors = model.config.lesion_errors
    parts = volumes_of_parts(found.mask, found.probability, truth)
    match = match_lesions(mask, truth, voxel_ml=float(torch.linalg.det(sample.affine[:3, :3]).abs()) / 1000)
    return {
        "weighting": sample.protocol.weighting,
        "stage": sample.record["stage"],
        "anatomy": sample.record["anatomy"],
        "lesions": sample.record["lesions"],
        "truth_ml": lesion_ml(sample),
        "contrast_to_noise": contrast_to_noise(sample),
        "predicted_ml": found.lesion_volume,
        "interval_ml": [found.interval.low, found.interval.high] if found.interval else None,
        "lesion_intervals_ml": [
            [round(value, 2) for value in (interval.low, interval.high, true)]
            for _, volume, true in parts
            if errors and (interval := volume_interval(volume, volume, errors))
        ],
        "dice": dice(mask, truth, empty="undefined") if truth.any() else None,
        "lesion_f1": match.f1() if truth.any() else None,
    }, reliability(found.probability.data[0], truth)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians and quartiles of Dice over groups of rows, and how many lesions nobody could see."""

    def of(keep: Callable[[dict[str, Any]], bool]) -> dict[str, float | int]:
        scores = [row["dice"] for row in rows if keep(row)]
        unseen = sum(keep(row) and row["contrast_to_noise"] < VISIBLE_FROM for row in rows)
        if len(scores) < 2:
            return {"n": len(scores), "unseen": unseen}
        low, middle, high = statistics.quantiles(scores, n=4)
        return {
            "n": len(scores),
            "unseen": unseen,
            "median": round(middle, 3),
            "q1": round(low, 3),
            "q3": round(high, 3),
            "mean": round(statistics.fmean(scores), 3),
            "missed": sum(score == 0 for score in scores),
            "mean_f1": round(statistics.fmean(row["lesion_f1"] for row in rows if keep(row)), 3),
        }

    return {
        "all": of(lambda _: True),
        "by_weighting": {w: of(lambda row, w=w: row["weighting"] == w) for w in WEIGHTINGS},
        "by_stage": {s: of(lambda row, s=s: row["stage"] == s) for s in ("chronic", "acute", "subacute")},
        "by_size_ml": {
            f"{low:g}-{high:g}" if high < 1e9 else f">{low:g}": of(
                lambda row, low=low, high=high: low <= row["truth_ml"] < high
            )
            for low, high in SIZES_ML
        },
        "by_contrast_to_noise": {
            f"{low:g}-{high:g}" if high < 1e9 else f">{low:g}": of(
                lambda row, low=low, high=high: low <= row["contrast_to_noise"] < high
            )
            for low, high in CONTRASTS_TO_NOISE
        },
        "visible": of(lambda row: row["contrast_to_noise"] >= VISIBLE_FROM),
        "visible_by_size_ml": {
            f"{low:g}-{high:g}" if high < 1e9 else f">{low:g}": of(
                lambda row, low=low, high=high: (
                    low <= row["truth_ml"] < high and row["contrast_to_noise"] >= VISIBLE_FROM
                )
            )
            for low, high in SIZES_ML
        },
        "by_weighting_and_stage": {
            f"{w} {s}": of(lambda row, w=w, s=s: (row["weighting"], row["stage"]) == (w, s))
            for w in WEIGHTINGS
            for s in ("chronic", "acute", "subacute")
        },
        "by_weighting_and_size_ml": {
            f"{w} {low:g}-{high:g}" if high < 1e9 else f"{w} >{low:g}": of(
                lambda row, w=w, low=low, high=high: row["weighting"] == w and low <= row["truth_ml"] < high
            )
            for w in WEIGHTINGS
            for low, high in SIZES_ML
        },
    }


def coverage(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return how often the volume's interval holds the truth, and how wide it is."""
    known = [row for row in rows if row["interval_ml"]]
    if not known:
        return None
    held = [row["interval_ml"][0] <= row["truth_ml"] <= row["interval_ml"][1] for row in known]
    widths = [row["interval_ml"][1] - row["interval_ml"][0] for row in known]
    return {
        "n": len(known),
        "coverage": round(statistics.fmean(held), 3),
        "without_lesion": round(
            statistics.fmean(h for h, row in zip(held, known, strict=True) if row["truth_ml"] == 0), 3
        ),
        "median_width_ml": round(statistics.median(widths), 2),
    }


def lesion_coverage(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return how often the interval of a single lesion holds the true volume of what it belongs to."""
    known = [interval for row in rows for interval in row["lesion_intervals_ml"]]
    if not known:
        return None
    return {
        "n": len(known),
        "coverage": round(statistics.fmean(low <= true <= high for low, high, true in known), 3),
        "of_no_lesion": round(statistics.fmean(true == 0 for *_, true in known), 3),
        "median_width_ml": round(statistics.median(high - low for low, high, _ in known), 2),
    }


def calibration(sums: Reliability) -> dict[str, Any]:
    """Return the expected calibration error and what the reliability plot shows."""
    return {
        "expected_calibration_error": round(sums.expected_calibration_error(), 4),
        "brier": round(sums.brier(), 4),
        "voxels": sums.count.tolist(),
        "predicted": [
            round(p / n, 4) if n else None for p, n in zip(sums.predicted, sums.count, strict=True)
        ],
        "true": [round(t / n, 4) if n else None for t, n in zip(sums.true, sums.count, strict=True)],
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the tables of the model card."""
    lines = [
        "| simulated scans | n | median Dice | quartiles | mean lesion-wise F1 | missed |",
        "|---|---|---|---|---|---|",
    ]
    groups = {"all": found["all"], **found["by_weighting"], **found["by_stage"]}
    groups |= {f"{k} ml": v for k, v in found["by_size_ml"].items()}
    groups |= {f"contrast to noise {k}": v for k, v in found["by_contrast_to_noise"].items()}
    groups["visible"] = found["visible"]
    groups |= {f"visible, {k} ml": v for k, v in found["visible_by_size_ml"].items()}
    for name, row in groups.items():
        if row["n"] < 2:
            continue
        lines.append(
            f"| {name} | {row['n']} | {row['median']:.2f} | {row['q1']:.2f}-{row['q3']:.2f} | "
            f"{row['mean_f1']:.2f} | {row['missed']} |"
        )
    lines += [
        "",
        "| scan, stage | n | not visible | median Dice | | scan, size | n | median Dice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    stages = [
        f"{k} | {v['n']} | {v['unseen']} | {v.get('median', float('nan')):.2f}"
        for k, v in found["by_weighting_and_stage"].items()
    ]
    sizes = [
        f"{k} ml | {v['n']} | {v.get('median', float('nan')):.2f}"
        for k, v in found["by_weighting_and_size_ml"].items()
    ]
    for left, right in zip_longest(stages, sizes):
        lines.append(f"| {left or ' | | | '} | | {right or ' | | '} |")
    return "\n".join(lines)


def draw_reliability(found: dict[str, Any], path: Path) -> None:
    """Draw the share of lesion voxels against what the model predicted."""
    figure = Figure(figsize=(4, 3.6), layout="constrained")
    axes = figure.subplots()
    pairs = [(p, t) for p, t in zip(found["predicted"], found["true"], strict=True) if p is not None]
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    axes.plot(*zip(*pairs, strict=True), marker="o")
    axes.set(xlabel="predicted probability", ylabel="share of lesion", xlim=(0, 1), ylim=(0, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="data folder of the training run")
    parser.add_argument("--model", default="default")
    parser.add_argument("--cases", type=int, default=80, help="scans per weighting")
    parser.add_argument("--healthy", type=int, default=50, help="scans without lesion")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--picture", type=Path, help="PNG of the reliability")
    arguments = parser.parse_args()
    keep_pages()
    anatomies, masks = load_held_out(arguments.pack)
    model = Model.open(arguments.model)
    rows: list[dict[str, Any]] = []
    empty: list[dict[str, Any]] = []
    trust: Reliability | None = None
    started = time.perf_counter()
    for weighting in WEIGHTINGS:
        for sample in with_lesion(anatomies, masks, weighting, count=arguments.cases):
            row, each = judge(model, sample)
            rows.append(row)
            trust = each if trust is None else trust + each
        print(weighting, summary(rows)["by_weighting"][weighting], flush=True)
    for sample in without_lesion(anatomies, count=arguments.healthy):
        row, each = judge(model, sample)
        empty.append(row)
        trust = each if trust is None else trust + each
    volumes = sorted(row["predicted_ml"] for row in empty)
    result = {
        "model": model.config.name,
        "steps": model.config.training.get("steps"),
        "dice": summary(rows),
        "false_positive_ml_without_lesion": {
            "n": len(volumes),
            "median": round(statistics.median(volumes), 3),
            "q3": round(volumes[3 * len(volumes) // 4], 3),
            "max": round(volumes[-1], 3),
            "by_weighting": {
                w: round(statistics.median(r["predicted_ml"] for r in empty if r["weighting"] == w), 3)
                for w in WEIGHTINGS
            },
        },
        "interval": coverage(rows + empty),
        "lesion_interval": lesion_coverage(rows + empty),
        "calibration": calibration(trust) if trust is not None else None,
        "seconds": round(time.perf_counter() - started),
    }
    print(json.dumps(result, indent=1))
    print(markdown(result["dice"]))
    if arguments.picture:
        draw_reliability(result["calibration"], arguments.picture)
    if arguments.output:
        arguments.output.write_text(
            json.dumps({**result, "cases": rows, "without_lesion": empty}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
