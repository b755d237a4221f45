"""Judge as a diagnostic test what a model says of its own masks, on patients from easy to hopeless.

Anatomies and lesions are those that neither the network nor its risks saw:

    python benchmarks/risk.py runs/default/data --model default --output docs/risk.json
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anystroke.core.arrays import Array
from anystroke.core.memory import keep_pages
from anystroke.tasks.segmentation.observations import Observation, PatientSet, observe_all
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.risk import RiskModel, risk_of
from anystroke.tasks.segmentation.risk_fit import judge_risks, risks

SEED = 4711
GROUPS = ("difficulty", "weighting", "set")
TABLES = ("mask", *GROUPS)
TENTHS = 5


def summary(observations: Sequence[Observation], model: RiskModel) -> dict[str, Any]:
    """Judge the risks and the flags of masks whose truth is known.

    Args:
        observations: The masks.
        model: What gives risks.

    Returns:
        Area under the curve with its interval, sensitivity and specificity of the threshold, which is for
        masks that mark something, and of the whole flag, whose reasons are more than the risk; the same by
        group; and how often masks of a risk failed.
    """
    failed = np.array([each.failed for each in observations])
    risk = risks(model, observations)
    known = np.isfinite(risk)
    found = [risk_of(each.signs, model) for each in observations]
    high = np.array([risk is not None and risk.high for risk in found])
    marked = np.array([risk is not None and risk.threshold is not None for risk in found])
    flagged = np.array([bool(each.reasons) for each in observations]) | high

    def of(keep: Callable[[Observation], bool], among: Array = known) -> dict[str, Any]:
        chosen = among & np.array([keep(each) for each in observations])
        score = judge_risks(risk[chosen], failed[chosen], model.threshold)
        flags = judge_risks(high[chosen].astype(float), failed[chosen], 0.5)
        whole = judge_risks(flagged[chosen].astype(float), failed[chosen], 0.5)
        rules = np.array([float(bool(each.reasons)) for each in observations])[chosen]
        alone = judge_risks(rules, failed[chosen], 0.5)
        return {
            "n": score.patients,
            "failed": score.failed,
            "auc": _rounded(score.auc),
            "auc_interval": [_rounded(end) for end in score.interval],
            "sensitivity": _rounded(flags.sensitivity),
            "specificity": _rounded(flags.specificity),
            "flag": {"sensitivity": _rounded(whole.sensitivity), "specificity": _rounded(whole.specificity)},
            "other_reasons": {
                "sensitivity": _rounded(alone.sensitivity),
                "specificity": _rounded(alone.specificity),
            },
        }

    steps = np.clip((risk[known] * TENTHS).astype(int), 0, TENTHS - 1)
    return {
        "all": of(lambda _: True),
        "by_mask": {
            "marks something": of(lambda _: True, known & marked),
            "empty": of(lambda _: True, known & ~marked),
        },
        "threshold": model.threshold,
        "unknown": int((~known).sum()),
        **{
            f"by_{name}": {
                value: of(partial(_belongs, name, value))
                for value in dict.fromkeys(each.groups[name] for each in observations)
            }
            for name in GROUPS
        },
        "reliability": [
            {
                "risk": _rounded(float(risk[known][steps == step].mean())),
                "failed": _rounded(float(failed[known][steps == step].mean())),
                "n": int((steps == step).sum()),
            }
            for step in range(TENTHS)
            if (steps == step).any()
        ],
    }


def _belongs(name: str, value: str, each: Observation) -> bool:
    return each.groups[name] == value


def _rounded(value: float) -> float | None:
    return round(value, 3) if np.isfinite(value) else None


def markdown(found: dict[str, Any]) -> str:
    """Return the table of the documentation."""
    lines = [
        "| simulated scans | n | failed | AUC | sensitivity | specificity |",
        "|---|---|---|---|---|---|",
    ]
    rows = {"all": found["all"]} | {k: v for name in TABLES for k, v in found[f"by_{name}"].items()}
    for name, row in rows.items():
        auc = (
            "" if row["auc"] is None else "{:.2f} ({:.2f} to {:.2f})".format(row["auc"], *row["auc_interval"])
        )
        rates = ("" if row[key] is None else f"{row[key]:.2f}" for key in ("sensitivity", "specificity"))
        lines.append(f"| {name} | {row['n']} | {row['failed']} | {auc} | {' | '.join(rates)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="data folder of the training run")
    parser.add_argument("--model", default="default")
    parser.add_argument("--patients", type=int, default=450)
    parser.add_argument("--observations", type=Path, help="JSON lines to keep and to go on from")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    keep_pages()
    model = Model.open(arguments.model)
    if model.config.risk is None:
        parser.error(f"the model {model.config.name} has no risks; run anystroke calibrate on it")
    started = time.perf_counter()
    patients = PatientSet(arguments.pack, arguments.patients, SEED, held_out=True)
    found = summary(observe_all(model, patients, kept=arguments.observations), model.config.risk)
    found = {"model": model.config.name, "version": model.config.version, "seed": SEED, **found}
    found["seconds"] = round(time.perf_counter() - started)
    print(json.dumps(found, indent=1))
    print(markdown(found))
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
