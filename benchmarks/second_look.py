r"""Does the second look help? Simulated patients that training never saw.

    python benchmarks/second_look.py runs/default/data --model default --output second_look

Showers of emboli on acute DWI and FLAIR, small lesions and lesions of any size on all contrasts, and heads
without one; each is segmented with and without the second network.
"""

import argparse
import csv
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import emboli

from anystroke.core.files import write_json
from anystroke.core.memory import keep_pages
from anystroke.simulation.cohorts import Pack, held_out_pack
from anystroke.tasks.segmentation.predict import Model, segment
from anystroke.tasks.segmentation.validate import JudgedPatient, score_mask, simulated_patients

WEIGHTINGS = ("T1w", "T2w", "FLAIR", "DWI", "ADC")
SEED = 61
LARGEST_ML = 20.0
"""Of the group of small lesions."""


@dataclass(frozen=True)
class Row:
    """One patient: Dice, lesion-wise F1, marked volume and seconds, without and with the second look."""

    group: str
    weighting: str
    true_ml: float
    dice: float
    dice_again: float
    f1: float
    f1_again: float
    ml: float
    ml_again: float
    seconds: float
    seconds_again: float
    interval_holds: bool


def patients(data: Path, options: argparse.Namespace) -> Iterator[tuple[str, JudgedPatient]]:
    """Simulate everyone, group by group."""
    for weighting, count in (("DWI", options.emboli), ("FLAIR", options.emboli // 2)):
        for patient in emboli.patients(data, count, weighting, spacing=options.spacing):
            yield f"emboli, {weighting}", patient
    pack = held_out_pack(data)
    # Lesions change their size when they are placed, so the limits on the masks are narrower.
    small = Pack(pack.anatomies, [m for m in pack.masks if 0.5 <= m.volume_ml <= 0.8 * LARGEST_ML])
    for group, chosen, count, healthy in (
        ("small", small, options.small, 0),
        ("any size", pack, options.any_size, options.healthy),
    ):
        for patient in simulated_patients(
            chosen,
            count=count,
            healthy=healthy,
            seed=SEED,
            weightings=WEIGHTINGS,
            spacing=options.spacing,
        ):
            yield group if bool(patient.truth.any()) else "no lesion", patient


def measure(group: str, patient: JudgedPatient, model: Model) -> Row:
    """Segment one patient twice."""
    scores, seconds, holds = [], [], False
    for looks in (False, True):
        found = segment(patient.scan, model, second_look=looks, adc=patient.adc)
        scores.append(score_mask(found.mask.data[0] > 0, patient))
        seconds.append(sum(found.prediction.seconds.values()))
        interval = found.interval
        holds = interval is not None and interval.low <= scores[-1].truth <= interval.high
    plain, again = scores
    return Row(
        group,
        patient.groups["weighting"],
        plain.truth,
        plain.dice,
        again.dice,
        plain.f1,
        again.f1,
        plain.volume,
        again.volume,
        seconds[0],
        seconds[1],
        holds,
    )


def summary(rows: Sequence[Row]) -> dict[str, object]:
    """Say what one group has without and with the second look; gains as mean and 95 % interval."""
    ill = [row for row in rows if row.true_ml > 0]
    facts: dict[str, object] = {
        "patients": len(rows),
        "true_ml": math.fsum(row.true_ml for row in rows),
        "marked_ml": [math.fsum(row.ml for row in rows), math.fsum(row.ml_again for row in rows)],
        "median_seconds": [
            statistics.median(row.seconds for row in rows),
            statistics.median(row.seconds_again for row in rows),
        ],
        "more_than_half_a_ml": [sum(row.ml > 0.5 for row in rows), sum(row.ml_again > 0.5 for row in rows)],
        "interval_holds": statistics.fmean(row.interval_holds for row in rows),
    }
    if ill:
        facts |= {
            "missed": [sum(row.dice == 0 for row in ill), sum(row.dice_again == 0 for row in ill)],
            "dice": [
                statistics.fmean(row.dice for row in ill),
                statistics.fmean(row.dice_again for row in ill),
            ],
            "f1": [statistics.fmean(row.f1 for row in ill), statistics.fmean(row.f1_again for row in ill)],
            "dice_gain": emboli.gain([row.dice_again for row in ill], [row.dice for row in ill]),
            "f1_gain": emboli.gain([row.f1_again for row in ill], [row.f1 for row in ill]),
        }
    return facts


def main() -> None:
    """Run the benchmark and print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="data folder of the training run")
    parser.add_argument("--model", default="default")
    parser.add_argument("--emboli", type=int, default=30, help="on DWI; half as many on FLAIR")
    parser.add_argument("--small", type=int, default=40)
    parser.add_argument("--any-size", type=int, default=30)
    parser.add_argument("--healthy", type=int, default=40)
    parser.add_argument("--spacing", type=float, default=1.0, help="voxel size of the scans [mm]")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    keep_pages()
    model = Model.open(options.model)
    if model.second_network is None:
        parser.error(f"the model {options.model} has no second network")
    rows: list[Row] = []
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "second_look.tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Row.__dataclass_fields__), delimiter="\t")
        writer.writeheader()
        for group, patient in patients(options.data, options):
            rows.append(measure(group, patient, model))
            writer.writerow(asdict(rows[-1]))
            file.flush()
    result = {
        group: summary([row for row in rows if row.group == group])
        for group in dict.fromkeys(row.group for row in rows)
    }
    write_json(options.output / "second_look.json", result)
    for group, facts in result.items():
        print(group, facts)


if __name__ == "__main__":
    main()
