r"""Say what models mark in heads without a lesion that show one thing which is often taken for one.

    python benchmarks/stress.py default old=runs/old/model --data runs/data --output stress

Each group of patients has everything that simulated scans usually have, and one thing always or at its
worst: normal bright structures, small-vessel disease, moving fluid, pouches of fluid, fat that was not
suppressed, fibres of one direction, bright coils, distortion, movement, noise, thick slices. Anatomies are
those that the training held out; half of the heads have no skull. Writes ``stress.tsv`` (a row for each
patient and model; what is there is not done again), ``stress.json`` and a picture of the largest false mask
of the first model in each group.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anystroke.anatomy.lesions.bank import LesionSettings
from anystroke.core.memory import keep_pages
from anystroke.core.volume import Volume
from anystroke.corruption.diffusion_scan import DiffusionSettings
from anystroke.corruption.echo_planar_scan import EchoPlanarSettings
from anystroke.reports.mosaic import mosaic
from anystroke.simulation.cohorts import Cohort, Member, Pack, held_out_pack, no_masks
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.healthy import HealthySettings
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.predict import Model, segment

SEED = 20261201
MARKED_ML = 0.5
STRUCTURAL, SLOW, DIFFUSION = ("T1w", "T2w", "FLAIR"), ("T2w", "FLAIR"), ("DWI",)
EVERY = ("T1w", "T2w", "FLAIR", "DWI", "ADC")
COLUMNS = ("group", "patient", "weighting", "model", "marked_ml")


@dataclass(frozen=True)
class Stress:
    """What the patients of a group show.

    Attributes:
        weightings: Of their scans, in turn.
        settings: Changes of the usual ones.
    """

    weightings: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)


GROUPS = {
    "nothing in particular": Stress(EVERY),
    "bright normal structures": Stress(SLOW, {"healthy": HealthySettings(bright_structures=1.0)}),
    "small-vessel disease": Stress(SLOW, {"leukoaraiosis": 1.0, "lacunes": 1.0, "microbleeds": 1.0}),
    "moving fluid": Stress(
        SLOW, {"healthy": HealthySettings(inflow_slices=1.0, inflow_volume=1.0, flow_voids=1.0)}
    ),
    "pouches of fluid": Stress(STRUCTURAL, {"healthy": HealthySettings(fluid_pouches=1.0)}),
    "fat left bright": Stress(
        STRUCTURAL,
        {
            "healthy": HealthySettings(missed_fat=1.0),
            "fat_suppression": dict.fromkeys(EVERY, 1.0),
            "skull_strip": 0.0,
        },
    ),
    "fibres of one direction": Stress(DIFFUSION, {"diffusion": DiffusionSettings(one_direction=1.0)}),
    "bright coils": Stress((*STRUCTURAL, *DIFFUSION), {"surface_coils": 1.0, "coil_strength": 1.0}),
    "strong distortion": Stress(
        ("DWI", "ADC"),
        {"echo_planar": EchoPlanarSettings(diffusion=1.0, first_order_shim=1.0, echo_spacing=(6e-4, 7e-4))},
    ),
    "movement and ghosts": Stress(EVERY, {"motion": 1.0, "ghosts": 1.0}),
    "noise": Stress(EVERY, {"snr": (6.0, 12.0)}),
    "thick slices": Stress(EVERY, {"thick_slices": 1.0, "slice_thickness": (5.0, 7.0)}),
}


def patients(pack: Pack, group: str, count: int) -> Iterator[Sample]:
    """Simulate the heads of a group."""
    stress = GROUPS[group]
    plain = SynthesisSettings(lesions=LesionSettings(absent=1.0)).model_copy(update=dict(stress.settings))
    strips = (0.0, 0.0) if stress.settings.get("skull_strip") == 0 else (0.0, 1.0)
    generators = [Generator(plain.model_copy(update={"skull_strip": strip}), pack.masks) for strip in strips]
    members = [
        Member(
            partial(
                generators[number // len(stress.weightings) % 2].generate,
                weighting=stress.weightings[number % len(stress.weightings)],
            ),
            ("stress", group, number),
            lesions=no_masks,
            anatomy=number % len(pack.anatomies),
        )
        for number in range(count)
    ]
    yield from Cohort(pack.anatomies, members, SEED)


def summary(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Say of each group and model how much was marked [ml], and in how many heads."""
    found: dict[str, Any] = {}
    for group in GROUPS:
        for model in dict.fromkeys(row["model"] for row in rows):
            of = [float(row["marked_ml"]) for row in rows if row["group"] == group and row["model"] == model]
            if of:
                found.setdefault(group, {})[model] = {
                    "n": len(of),
                    "marked": sum(volume > MARKED_ML for volume in of),
                    "mean_ml": round(statistics.fmean(of), 2),
                    "upper_quartile_ml": round(float(np.quantile(of, 0.75)), 2),
                    "largest_ml": round(max(of), 1),
                }
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL or TITLE=MODEL")
    parser.add_argument("--data", type=Path, required=True, help="data folder of a training run")
    parser.add_argument("--patients", type=int, default=16, help="of each group")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_pages()
    named = [name.split("=", 1) if "=" in name else [name, name] for name in options.models]
    models = {title: Model.open(name) for title, name in named}
    options.output.mkdir(parents=True, exist_ok=True)
    table = options.output / "stress.tsv"
    rows = list(csv.DictReader(table.open(encoding="utf-8"), delimiter="\t")) if table.exists() else []
    known = {(row["group"], row["patient"], row["model"]) for row in rows}
    pack, drawn = held_out_pack(options.data), next(iter(models))
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        if not rows:
            writer.writeheader()
        for group in GROUPS:
            left = [
                (number, title)
                for number in range(options.patients)
                for title in models
                if (group, str(number), title) not in known
            ]
            if not left:
                continue
            most = max(
                (float(row["marked_ml"]) for row in rows if (row["group"], row["model"]) == (group, drawn)),
                default=0.0,
            )
            for number, sample in enumerate(patients(pack, group, options.patients)):
                for title in (title for which, title in left if which == number):
                    scan = Volume(sample.image[None], sample.affine)
                    weighting = sample.protocol.weighting
                    found = segment(scan, models[title], adc=weighting == "ADC")
                    if title == drawn and found.lesion_volume > max(most, MARKED_ML):
                        most = found.lesion_volume
                        picture = options.output / f"{group.replace(' ', '_')}.png"
                        mosaic(scan, found.mask, picture, title=f"{group}   {most:.1f} ml")
                    values = (group, str(number), weighting, title, f"{found.lesion_volume:.4f}")
                    rows.append(dict(zip(COLUMNS, values, strict=True)))
                    writer.writerow(rows[-1])
                    file.flush()
            print(group, json.dumps(summary(rows).get(group)), flush=True)
    (options.output / "stress.json").write_text(json.dumps(summary(rows), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
