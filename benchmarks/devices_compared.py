"""Whether cases made on two devices are of one distribution: moments by class, contrast and lesion's age.

    python benchmarks/devices_compared.py --data runs/default/data                # CPU, two streams of cases
    python benchmarks/devices_compared.py --data runs/default/data --device cuda  # CPU and card
    python benchmarks/devices_compared.py --data runs/default/data --at-once 8    # singly and in batches

Each kind of device has its own random numbers, so cases cannot be compared one by one. For each class of the
target within each contrast, and each age within the lesions, three quantities of a case are compared: mean
and SD of the standardised image in the class, and the class's share of the grid. z is the difference of their
means over cases, over its standard error. If the distributions are one, z has an SD of 1, and 0.3 % of its
values are beyond 3. Without a card the script compares two streams of the CPU, which shows what the test
gives where nothing differs. With ``--at-once`` the second kind is made in batches by torch operations alone,
as on a GPU, whichever the device.
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from anystroke.commands.common import progress_bar
from anystroke.core.compiled import as_on_a_card
from anystroke.core.memory import keep_pages
from anystroke.core.rng import integer, stream
from anystroke.models.model_space import normalise_intensity
from anystroke.simulation.batches import Order, generate_batch
from anystroke.simulation.cohorts import Pack, load_pack
from anystroke.simulation.generator import CLASSES, Generator, Sample
from anystroke.simulation.settings import SynthesisSettings

WEIGHTINGS = ("T1w", "T2w", "FLAIR", "DWI", "ADC", "T2starw")
_FEWEST = 20
Group = tuple[str, str, str, str]
Moments = dict[Group, list[float]]


def moments(sample: Sample) -> Iterator[tuple[Group, float]]:
    """Yield what of a case is compared, with its contrast, class, age and name."""
    image = normalise_intensity(sample.image, "log_tail")
    for number, name in enumerate(CLASSES):
        inside = sample.target == number
        share = float(inside.float().mean())
        age = sample.record["stage"] if name == "lesion" else "any"
        group = (sample.protocol.weighting, name, age)
        yield (*group, "share"), share
        if inside.sum() >= _FEWEST:
            values = image[inside]
            yield (*group, "mean"), float(values.mean())
            yield (*group, "SD"), float(values.std())


def orders(patients: Pack, name: str, count: int) -> list[Order]:
    """Return the cases of a stream, contrasts in turn."""
    rngs = [stream(1, name, number) for number in range(count)]
    return [
        Order(
            patients.anatomies[integer(rng, 0, len(patients.anatomies) - 1)],
            integer(rng, 0, 2**62),
            weighting=WEIGHTINGS[number % len(WEIGHTINGS)],
        )
        for number, rng in enumerate(rngs)
    ]


def collect(wanted: Sequence[Order], generator: Generator, device: str, at_once: int) -> Moments:
    """Make cases on a device; return the moments of all of them by group."""
    found: Moments = defaultdict(list)
    with progress_bar() as bar, as_on_a_card() if at_once > 1 else nullcontext():
        for first in bar.track(range(0, len(wanted), at_once), description=f"making cases on {device}"):
            for sample in generate_batch(generator, wanted[first : first + at_once], device=device):
                for group, value in moments(sample):
                    found[group].append(value)
    return found


def compared(one: Moments, other: Moments) -> dict[Group, float]:
    """Return z of each group that has enough cases on both sides."""
    result = {}
    for group in sorted(one.keys() & other.keys()):
        sides = (one[group], other[group])
        if min(map(len, sides)) < _FEWEST:
            continue
        error = math.sqrt(sum(statistics.variance(values) / len(values) for values in sides))
        difference = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
        result[group] = (
            difference / error if error else math.copysign(math.inf, difference) * bool(difference)
        )
    return result


def main() -> None:
    """Make both kinds of cases, and print how far apart they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder of a run")
    parser.add_argument("--device", default="cpu", help="of the second kind of cases")
    parser.add_argument("--cases", type=int, default=2000, help="of each kind")
    parser.add_argument("--side", type=int, default=48, help="voxels along each axis")
    parser.add_argument("--spacing", type=float, default=2.0, help="their size in mm")
    parser.add_argument("--at-once", type=int, default=1, help="cases of a batch of the second kind")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    keep_pages()
    torch.set_num_threads(1)
    patients = load_pack(options.data)
    shape = (options.side,) * 3
    generator = Generator(SynthesisSettings(shapes=(shape,), spacing=options.spacing), patients.masks)
    first = collect(orders(patients, "first", options.cases), generator, "cpu", 1)
    second = collect(orders(patients, "second", options.cases), generator, options.device, options.at_once)
    scores = compared(first, second)
    values = list(scores.values())
    if not values:
        raise SystemExit(f"expected {_FEWEST} cases of a contrast with a class, got fewer; raise --cases")
    far = {group: z for group, z in scores.items() if abs(z) > 3}
    print(
        f"{options.cases} cases on the CPU, {options.cases} on {options.device} "
        f"({options.at_once} at once): {len(values)} moments, "
        f"SD of z {statistics.pstdev(values):.2f}, largest {max(map(abs, values)):.1f}, beyond 3: {len(far)}"
    )
    for (weighting, name, age, what), z in far.items():
        print(f"  {weighting}, {name}, {age}, {what}: {z:+.1f}")
    if options.output:
        rows = [{"group": list(group), "z": z} for group, z in scores.items()]
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
