"""Judge models on the held-out patients, one patient after the other, each kept as soon as it is judged."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import reduce
from multiprocessing import get_context
from operator import add
from pathlib import Path
from typing import Any

import torch

from anystroke.core.files import write_json, write_text
from anystroke.core.memory import keep_pages
from anystroke.core.packs import content_sha256
from anystroke.core.tables import Cell, write_table
from anystroke.evaluation.metrics.calibration import Reliability
from anystroke.io.results import ResultFolder
from anystroke.reports.plots import reliability_plot
from anystroke.simulation.cohorts import held_out_pack
from anystroke.studies.held_out.judge import (
    SEED,
    HeldOutDesign,
    HeldOutError,
    PatientRow,
    held_out_cohort,
    judge_sample,
    plain_reliability,
    read_reliability,
)
from anystroke.studies.held_out.summary import calibration, coverage, false_volumes, lesion_coverage, markdown
from anystroke.studies.held_out.summary import summary as summarise
from anystroke.tasks.segmentation.predict import Model

RESULT, CARD, PATIENTS, RELIABILITY_PICTURE = (
    "held_out.json",
    "held_out.md",
    "held_out.tsv",
    "reliability.png",
)
_PACKS = ("held_out_anatomies.safetensors", "held_out_lesions.safetensors")
_COLUMNS = (
    "model", "id", "weighting", "stage", "anatomy", "truth_ml", "contrast_to_noise", "predicted_ml", "low_ml",
    "high_ml", "dice", "lesion_f1",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What was found out.

    Attributes:
        table: One row a patient and model.
        picture: Reliability of all models.
        results: What ``held_out.json`` says, by the model's title.
    """

    table: Path
    picture: Path
    results: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Judged:
    """A patient as one model saw it."""

    row: PatientRow
    trust: Reliability
    seconds: float


class _Judging:
    """Judges one patient after the other, or finds what was judged before."""

    def __init__(
        self, models: Mapping[str, Model], data: Path, folder: Path, design: HeldOutDesign, overwrite: bool
    ) -> None:
        self._models, self._overwrite = models, overwrite
        self.cohort = held_out_cohort(held_out_pack(data), design)
        packs = {name: content_sha256(data / name) for name in _PACKS}
        self._folders = {
            title: ResultFolder(folder / title, {"Model": model.identity, "Data": packs, "Seed": SEED})
            for title, model in models.items()
        }

    def patient(self, number: int) -> Iterator[tuple[str, str, _Judged]]:
        """Yield title, name and what was judged of a patient, model by model."""
        name = "-".join(map(str, self.cohort.members[number].names))
        sample = None
        for title, model in self._models.items():
            sidecar = f"patients/{name}.json"
            facts = self._folders[title].kept(sidecar, replace=self._overwrite)
            if facts is None:
                sample = sample or self.cohort.patient(number)
                started = time.perf_counter()
                row, trust = judge_sample(model, sample)
                seconds = time.perf_counter() - started
                facts = {"Row": row, "Reliability": plain_reliability(trust), "Seconds": round(seconds, 2)}
                (self._folders[title].folder / "patients").mkdir(exist_ok=True)
                with self._folders[title].staging(sidecar, facts):
                    pass
            reliability = read_reliability(facts["Reliability"])
            yield title, name, _Judged(facts["Row"], reliability, facts["Seconds"])


_begun: list[_Judging] = []


def _begin(threads: int, *arguments: Any) -> None:
    """Make a process of its own ready."""
    keep_pages()
    torch.set_num_threads(threads)
    _begun[:] = [_Judging(*arguments)]


def _judge(number: int) -> list[tuple[str, str, _Judged]]:
    return list(_begun[0].patient(number))


def _judged_in_order(
    judging: _Judging, jobs: int, *arguments: Any
) -> Iterator[Iterable[tuple[str, str, _Judged]]]:
    """Yield what was judged of each patient."""
    numbers = range(len(judging.cohort.members))
    if jobs == 1:
        yield from map(judging.patient, numbers)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin, initargs=(threads, *arguments))
    try:
        yield from pool.map(_judge, numbers)
    finally:
        pool.shutdown(cancel_futures=True)


def run_held_out(
    models: Mapping[str, Model],
    data: Path,
    folder: Path,
    design: HeldOutDesign,
    *,
    overwrite: bool = False,
    jobs: int = 1,
    on_step: Callable[[str], None] = lambda text: None,
) -> HeldOut:
    """Simulate the held-out patients, segment them with each model, and write what came of it.

    A patient is simulated once for all models, and not at all if all have judged it before.

    Args:
        models: By title.
        data: Data folder of a training run.
        folder: Gets a table, a picture and for each model a folder of its title with ``held_out.json``,
            ``held_out.md`` and ``patients``, a file each.
        design: How many patients.
        overwrite: Replace what was judged of other models or data.
        jobs: Processes that judge, among which the threads are shared. With other numbers of threads networks
            round otherwise.
        on_step: Called with a word for each patient and model that is done.

    Raises:
        HeldOutError: The data folder has nothing held out.
        ResultError: The folder holds what other models or data gave.
        OSError: The folder cannot be written.
    """
    if missing := [name for name in _PACKS if not (data / name).is_file()]:
        raise HeldOutError(
            f"expected the data folder of a training run, but {data} lacks {missing[0]}; name the folder "
            "data of a run that held something out"
        )
    judging = _Judging(models, data, folder, design, overwrite)
    judged: dict[str, dict[str, _Judged]] = {title: {} for title in models}
    for found in _judged_in_order(judging, jobs, models, data, folder, design, overwrite):
        for title, name, one in found:
            judged[title][name] = one
            on_step(f"{title}: {name}")
    return _write(folder, models, judged)


def _write(folder: Path, models: Mapping[str, Model], judged: Mapping[str, Mapping[str, _Judged]]) -> HeldOut:
    results = {title: _result(model, list(judged[title].values())) for title, model in models.items()}
    for title, result in results.items():
        write_json(folder / title / RESULT, result, indent=1)
        write_text(folder / title / CARD, markdown(result["dice"]))
    rows: list[dict[str, Cell]] = []
    for title, patients in judged.items():
        for name, one in patients.items():
            low, high = one.row["interval_ml"] or (None, None)
            rows.append({**one.row, "model": title, "id": name, "low_ml": low, "high_ml": high})
    write_table(folder / PATIENTS, _COLUMNS, rows)
    reliability_plot(
        {title: _sum(list(each.values())) for title, each in judged.items()}, folder / RELIABILITY_PICTURE
    )
    return HeldOut(folder / PATIENTS, folder / RELIABILITY_PICTURE, results)


def _result(model: Model, judged: Sequence[_Judged]) -> dict[str, Any]:
    """Return what is known of one model, and the row of each patient."""
    everyone = [one.row for one in judged]
    ill = [row for row in everyone if row["dice"] is not None]
    healthy = [row for row in everyone if row["dice"] is None]
    return {
        "model": model.config.name,
        "steps": model.config.training.get("steps"),
        "dice": summarise(ill),
        "false_positive_ml_without_lesion": false_volumes(healthy),
        "interval": coverage(everyone),
        "lesion_interval": lesion_coverage(everyone),
        "calibration": calibration(_sum(judged)),
        "seconds": round(sum(one.seconds for one in judged)),
        "cases": ill,
        "without_lesion": healthy,
    }


def _sum(judged: Sequence[_Judged]) -> Reliability:
    return reduce(add, (one.trust for one in judged))
