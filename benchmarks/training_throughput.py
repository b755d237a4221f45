"""How fast cases are made, how fast the network eats them, and how long it waits: tables of one run.

    python benchmarks/training_throughput.py                                  # 64^3, 3 minutes on two cores
    python benchmarks/training_throughput.py --data runs/default/data --full  # 96 x 112 x 96
    python benchmarks/training_throughput.py --device cuda --full --output throughput.json

Without a data folder it trains on the package's own anatomy and made-up lesions. Rates are those of the
median round. They are of one machine, so each table gives ratios as well: making to what the network eats,
steps to those of nnU-Net's plain U-Net, training to the network without a wait. TorchIO and MONAI make one
Gaussian per label of the same grid. Memory is what a row takes besides what its process has, or with worker
processes the most that one of them has for itself.

    pip install torchio
"""

import argparse
import dataclasses
import itertools
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from operations import operations_per_case
from other_generators import label_map, monai_pipeline, torchio_pipeline
from peak_memory import give_back, own, rise
from throughput_table import Row, shown

from anystroke.core.compiled import as_on_a_card
from anystroke.core.fields import GridShape
from anystroke.core.memory import keep_pages
from anystroke.core.rng import integer, stream
from anystroke.learning.recipe import DataSettings, Precision
from anystroke.learning.sources.packing import pack, sources_of
from anystroke.learning.stream import Batch, CaseStream
from anystroke.learning.supply import RANGE_CASES, Supply, stream_settings
from anystroke.learning.trainer import Trainer, make_fabric
from anystroke.models.model_space import normalise_intensity
from anystroke.models.passes import fast_bfloat16
from anystroke.simulation.cohorts import load_pack
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.recipe import TrainingSettings

SPACING = 2.0
CONTRASTS = 4
REUSE = 5
AT_ONCE = 16
_AS_CARD = " card, "
_ROUNDS = 3
_FIRST = 8
# Two patients with four scans each are made in one go.
_ROUND = 2 * CONTRASTS
_MADE_UP_LESIONS = 24

Work = Callable[[int], int]
"""Makes what has a number, and returns how many cases that were."""


@dataclass(frozen=True)
class Setup:
    """What is measured.

    Attributes:
        device: Where the network is.
        shape: Voxels of a case.
        data: Packed data.
        workers: Processes that make cases while the network learns.
        makers: Processes where they do nothing else than make cases.
        batch: Cases of a step.
        steps: Of a round of training.
        as_card: Whether to make cases on the CPU as on a card, too.
    """

    device: torch.device
    shape: GridShape
    data: Path
    workers: int
    makers: int
    batch: int
    steps: int
    as_card: bool = False

    def recipe(
        self,
        *,
        shape: GridShape | None = None,
        architecture: str = "compact_unet",
        precision: Precision = "auto",
        batch: int = 1,
        workers: int = 0,
        contrasts: int = 1,
        reuse: int = 1,
        made_on: str = "cpu",
    ) -> TrainingSettings:
        """Return a recipe, with a buffer if cases are seen more than once."""
        options: dict[str, Any] = {
            "batch": batch,
            "precision": precision,
            "workers": workers,
            "made_on": made_on,
        }
        if made_on == "device" and self.device.type == "cuda":
            options["made_at_once"] = AT_ONCE
        return TrainingSettings.model_validate(
            {
                "name": "throughput",
                "architecture": architecture,
                "contrasts": contrasts,
                "grid": {"spacing": SPACING, "shapes": [shape or self.shape]},
                "sources": [{"kind": "simulated"}],
                "optimiser": options,
                "buffer": {"reuse": reuse, "first": _FIRST, "cases": 500} if reuse > 1 else None,
            }
        )

    def fabric(self, recipe: TrainingSettings) -> Fabric:
        """Return what runs a recipe's training on the device."""
        return make_fabric(recipe.optimiser.precision, accelerator=self.device.type)

    def wait(self) -> None:
        """Let the device finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def stream_of_cases(setup: Setup, contrasts: int) -> Work:
    """Return what makes cases in this process, as a training without worker processes does."""
    recipe = setup.recipe(contrasts=contrasts)
    cases = CaseStream(sources_of(recipe, setup.data), stream_settings(recipe))
    return lambda number: sum(len(batch.image) for batch in cases.group(number))


def cases_at_once(setup: Setup, at_once: int) -> Work:
    """Return what makes several patients at once on the device, on the CPU with a card's operations."""
    recipe = setup.recipe()
    settings = dataclasses.replace(stream_settings(recipe), at_once=at_once)
    cases = CaseStream(sources_of(recipe, setup.data), settings, device=setup.device)

    def work(number: int) -> int:
        with as_on_a_card():
            made = sum(len(batch.image) for batch in cases.group(number))
        setup.wait()
        return made

    return work


def cases_on_device(setup: Setup, contrasts: int) -> Work:
    """Return what makes the scans of one patient after the other on the device."""
    patients = load_pack(setup.data)
    generator = Generator(SynthesisSettings(shapes=(setup.shape,), spacing=SPACING), patients.masks)

    def work(number: int) -> int:
        anatomy = patients.anatomies[number % len(patients.anatomies)]
        key = integer(stream(1, "case", number), 0, 2**62)
        shown_on = generator.weighting_of(key)
        patient = generator.patient(anatomy, key=key, shown_on=shown_on, device=setup.device)
        for scan in range(contrasts):
            weighting = generator.further_weighting(patient, scan) if scan else None
            normalise_intensity(generator.scan(patient, scan=scan, weighting=weighting).image)
        setup.wait()
        return contrasts

    return work


def ways_of_making(setup: Setup) -> dict[str, Work]:
    """Return all that makes cases in this process; print why a package is left out."""
    ways = {described(0, contrasts, 1): stream_of_cases(setup, contrasts) for contrasts in (1, CONTRASTS)}
    if setup.device.type == "cuda":
        ways[f"on the card, {CONTRASTS} contrasts"] = cases_on_device(setup, CONTRASTS)
    where = "on the card" if setup.device.type == "cuda" else "the CPU as a card"
    for at_once in (1, AT_ONCE) if setup.device.type == "cuda" or setup.as_card else ():
        ways[f"{where}, {at_once} at once"] = cases_at_once(setup, at_once)
    for name, pipeline in (("TorchIO", torchio_pipeline), ("MONAI", monai_pipeline)):
        try:
            other = pipeline(label_map(setup.data, SPACING), setup.shape)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        ways[f"{name}, this process"] = lambda number, other=other: other(number) or 1
    return ways


def made_here(ways: Mapping[str, Work]) -> list[Row]:
    """Measure ways of making cases in turns, so that whatever else the machine does meets all of them."""
    numbers = dict.fromkeys(ways, 0)
    rates: dict[str, list[float]] = {name: [] for name in ways}

    def a_round(name: str) -> int:
        made = 0
        while made < _ROUND:
            made += ways[name](numbers[name])
            numbers[name] += 1
        return made

    rises = {name: rise(lambda name=name: a_round(name)) for name in ways}
    for _ in range(_ROUNDS):
        for name in ways:
            started = time.perf_counter()
            made = a_round(name)
            rates[name].append(made / (time.perf_counter() - started))
    counts = {name: operations_per_case(lambda name=name: a_round(name)) for name in ways if _AS_CARD in name}
    return [
        Row(name, cases=statistics.median(rates[name]), memory=rises[name], operations=counts.get(name))
        for name in ways
    ]


def open_supply(setup: Setup, recipe: TrainingSettings) -> Supply:
    """Return the batches of a training; the range of its images is not measured on the way."""
    give_back()
    supply = Supply(recipe, setup.data, setup.fabric(recipe), step=0, made=0, clock=None)
    supply.features = [{}] * RANGE_CASES
    return supply


def taken(supply: Supply, step: int) -> list[Batch]:
    """Return the batches of a step."""
    batches = supply.take(step, lambda: False)
    assert batches is not None
    return batches


def largest_worker() -> float | None:
    """Return the most memory that a worker process has for itself [GiB]."""
    found = [own(child.pid) for child in multiprocessing.active_children() if child.pid]
    return max((value for value in found if value is not None), default=None)


def described(workers: int, contrasts: int, reuse: int, made_on: str = "cpu") -> str:
    """Name a way of making cases."""
    where = f"{workers} worker{'s' * (workers > 1)}" if workers else "this process"
    where += " on the device, several at once" * (made_on == "device")
    buffer = f", buffer with reuse = {reuse}" if reuse > 1 else ""
    return f"{where}, {contrasts} contrast{'s' * (contrasts > 1)}{buffer}"


def made_by_workers(setup: Setup, contrasts: int, reuse: int, made_on: str) -> Row:
    """Measure what worker processes make, with nothing else to do than to take it."""
    recipe = setup.recipe(
        batch=setup.batch if reuse > 1 else 1,
        workers=setup.makers,
        contrasts=contrasts,
        reuse=reuse,
        made_on=made_on,
    )
    supply = open_supply(setup, recipe)
    wanted = _ROUND * setup.makers if reuse == 1 else reuse * max(_ROUND, setup.makers)
    rates, step = [], 0
    for _ in range(1 + _ROUNDS):
        count, started = 0, time.perf_counter()
        while count < wanted:
            count += sum(len(batch.image) for batch in taken(supply, step))
            step += 1
        setup.wait()
        rates.append(count / (time.perf_counter() - started))
    return Row(
        described(setup.makers, contrasts, reuse, made_on),
        cases=statistics.median(rates[1:]),
        memory=largest_worker(),
    )


def some_cases(setup: Setup, shape: GridShape) -> list[Batch]:
    """Return a few cases, each a batch."""
    recipe = setup.recipe(shape=shape)
    cases = CaseStream(sources_of(recipe, setup.data), stream_settings(recipe))
    return [batch for number in range(4) for batch in cases.group(number)]


def joined(cases: Sequence[Batch], count: int) -> Batch:
    """Return a batch of so many cases."""
    chosen = [cases[number % len(cases)] for number in range(count)]
    return Batch(torch.cat([case.image for case in chosen]), torch.cat([case.target for case in chosen]))


def eaten(setup: Setup, recipe: TrainingSettings, cases: Sequence[Batch], name: str) -> Row:
    """Measure the steps of a network on a batch that is there already."""
    count, cuda = recipe.optimiser.batch, setup.device.type == "cuda"
    batch = joined(cases, count)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(recipe, Path(folder), setup.fabric(recipe))
            for number in range(2 + max(setup.steps // count, 3)):
                times.append(seconds_of(lambda: (trainer.train_step(batch), setup.wait())))
                # The first steps choose algorithms.
                if number < 2:
                    times.clear()

    try:
        memory = rise(train)
    except torch.OutOfMemoryError:
        return Row(f"{name}: the memory of the card is full")
    steps = 1 / statistics.median(times)
    on_card = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return Row(name, cases=count * steps, steps=steps, memory=memory, cuda=on_card)


def appetite(setup: Setup) -> Iterator[Row]:
    """Measure the default network alone, in batches and with either precision."""
    cases = some_cases(setup, setup.shape)
    # What is loaded once would count as the memory of the first.
    eaten(setup, setup.recipe(architecture="tiny_unet"), cases, "")
    usual = {1, 2, 4, 8, 16} if setup.device.type == "cuda" else {1, 2, 4}
    batches = sorted(usual | {setup.batch})
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        for batch in batches:
            recipe = setup.recipe(precision=precision, batch=batch)
            yield eaten(setup, recipe, cases, f"{precision}, batch {batch}")


def networks(setup: Setup, side: int) -> Iterator[Row]:
    """Measure networks on a cube whose side nnU-Net's can halve five times."""
    shape = (side, side, side)
    cases = some_cases(setup, shape)
    few = dataclasses.replace(setup, steps=max(setup.steps // 4, 3))
    batch = 2 if setup.device.type == "cuda" else 1
    for name in ("plain_unet", "residual_unet", "compact_unet", "small_unet"):
        yield eaten(few, setup.recipe(shape=shape, architecture=name, batch=batch), cases, name)


def fed(setup: Setup, *, workers: int, contrasts: int, reuse: int, made_on: str) -> Row:
    """Train with cases made in one of the ways; the first batch and the start of processes do not count."""
    recipe = setup.recipe(
        batch=setup.batch, workers=workers, contrasts=contrasts, reuse=reuse, made_on=made_on
    )
    shares, rates = [], []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, Path(folder), setup.fabric(recipe))
        supply = open_supply(setup, recipe)
        for _ in range(2):
            trainer.train_step(*taken(supply, 0))
        for number in range(_ROUNDS):
            waited, started = 0.0, time.perf_counter()
            for step in range(1 + number * setup.steps, 1 + (number + 1) * setup.steps):
                before = time.perf_counter()
                batches = taken(supply, step)
                setup.wait()
                waited += time.perf_counter() - before
                trainer.train_step(*batches)
            setup.wait()
            total = time.perf_counter() - started
            shares.append(100 * waited / total)
            rates.append(setup.steps / total)
        steps_per_second = statistics.median(rates)
        return Row(
            described(workers, contrasts, reuse, made_on),
            cases=setup.batch * steps_per_second,
            steps=steps_per_second,
            waiting=statistics.median(shares),
            memory=largest_worker(),
        )


_FEEDS = (
    (0, 1, 1, "cpu"),
    (1, 1, 1, "cpu"),
    (1, CONTRASTS, 1, "cpu"),
    (1, 1, REUSE, "cpu"),
    (1, CONTRASTS, REUSE, "cpu"),
    (1, CONTRASTS, REUSE, "device"),
)
"""Whether there are worker processes, contrasts of a patient, how often a case is seen, where it is made."""
_PARTS = ("appetite", "making", "training", "networks")


def all_tables(setup: Setup, side: int, parts: Sequence[str]) -> dict[str, list[Row]]:
    """Measure the parts that are asked for; rows are printed when they are there."""
    tables: dict[str, list[Row]] = {}
    eats = None
    beside = "the first"
    usual = f"{'bfloat16' if fast_bfloat16(setup.device) else 'float32'}, batch {setup.batch}"
    if "appetite" in parts:
        tables["appetite"] = shown("The default network alone; ratio to the first", appetite(setup))
        eats = next(row.cases for row in tables["appetite"] if row.name == usual)
        beside = f"the network alone, {usual}"
    if "making" in parts:
        made = itertools.chain(
            made_here(ways_of_making(setup)),
            (made_by_workers(setup, *feed[1:]) for feed in _FEEDS if feed[0]),
        )
        tables["making"] = shown(f"Making cases; ratio to {beside}", made, eats)
    if "training" in parts:
        trained = (
            fed(setup, workers=workers * setup.workers, contrasts=contrasts, reuse=reuse, made_on=made_on)
            for workers, contrasts, reuse, made_on in _FEEDS
        )
        tables["training"] = shown(f"Training in batches of {setup.batch}; ratio to {beside}", trained, eats)
    if "networks" in parts:
        tables["networks"] = shown(f"Networks at {side}^3; ratio to the first", networks(setup, side))
    return tables


def arguments() -> argparse.Namespace:
    """Read the command line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="data folder of a run; the package's own patients without")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--full", action="store_true", help="96 x 112 x 96 instead of 64^3; networks at 128^3"
    )
    parser.add_argument("--workers", type=int, default=max(cores - 1, 1), help="processes beside training")
    parser.add_argument("--makers", type=int, default=cores, help="processes where cases are made alone")
    parser.add_argument("--batch", type=int, help="of training; 1 on a CPU, 16 on a card")
    parser.add_argument("--steps", type=int, help="of a round of training; 8 on a CPU, 40 on a card")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure")
    parser.add_argument("--as-a-card", action="store_true", help="make cases on the CPU as on a GPU, too")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    keep_pages()
    started, cuda = time.perf_counter(), options.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            device=torch.device(options.device),
            shape=(96, 112, 96) if options.full else (64, 64, 64),
            data=options.data or Path(folder),
            workers=options.workers,
            makers=options.makers,
            batch=options.batch or (16 if cuda else 1),
            steps=options.steps or (40 if cuda else 8),
            as_card=options.as_a_card,
        )
        if options.data is None:
            recipe = setup.recipe()
            pack(recipe.model_copy(update={"data": DataSettings(package=_MADE_UP_LESIONS)}), setup.data)
        facts: dict[str, Any] = {
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "threads": torch.get_num_threads(),
            "shape": setup.shape,
            "spacing": SPACING,
            "data": "a run" if options.data else "the package's own",
        }
        print(", ".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
        tables = all_tables(setup, 128 if options.full else 96, options.parts)
    facts["seconds"] = round(time.perf_counter() - started)
    print(f"\n{facts['seconds']} s")
    if options.output:
        rows = {title: [dataclasses.asdict(row) for row in table] for title, table in tables.items()}
        options.output.write_text(json.dumps(facts | {"tables": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
