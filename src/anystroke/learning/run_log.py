"""What a training run leaves behind: one row per step, curves, and a page to look at when it is done."""

import csv
import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anystroke.core.files import atomic_path
from anystroke.learning.task import Recipe
from anystroke.reports.theme import write_page
from anystroke.reports.training import VALIDATION_HEADINGS, draw_curves

log = logging.getLogger(__name__)

_COLUMNS = ("step", "loss", "learning_rate", "seconds_waiting", "seconds")
LogRow = Mapping[str, str | int | float]


class RunLog:
    """Log of a run: ``log.csv``, flushed at once, and the same for TensorBoard where that is installed.

    Rows after the step that a run resumes from are dropped.

    Args:
        folder: Run folder.
        done: Steps that were done before.
        active: False in all processes of a run but one; those write nothing.
        criterion: Column of validations that the best model has most of; of a run that was begun without it,
            the validations so far do not count.
    """

    def __init__(self, folder: Path, done: int, *, active: bool = True, criterion: str = "score") -> None:
        self.folder = folder
        self.done = done
        self.active = active
        self.criterion = criterion
        self.recent = math.nan
        self.best = -math.inf
        self._seconds: tuple[float, ...] = ()
        self._board: Any = None

    @property
    def rate(self) -> float:
        """Steps per second of the last 20 steps; 0 before the first."""
        return len(self._seconds) / sum(self._seconds) if self._seconds else 0.0

    def __enter__(self) -> "RunLog":
        """Open the files."""
        if not self.active:
            return self
        rows = [row for row in read_log(self.folder) if int(row["step"]) <= self.done]
        self._file = (self.folder / "log.csv").open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, _COLUMNS)
        self._writer.writeheader()
        self._writer.writerows(rows)
        self._file.flush()
        for row in rows:
            self._follow(float(row["loss"]))
        for row in read_validation(self.folder):
            whole = (row["set"], row["group"]) == ("simulated", "all")
            if int(row["step"]) <= self.done and whole and row.get(self.criterion):
                self.best = max(self.best, float(row[self.criterion]))
        if importlib.util.find_spec("tensorboard") is None:
            log.warning("tensorboard is not installed: the run is logged to log.csv alone")
        else:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.done + 1)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        if self.active:
            self._file.close()
            if self._board is not None:
                self._board.close()

    def step(self, step: int, loss: float, rate: float, waited: float, seconds: float) -> None:
        """Add one step.

        Args:
            step: Its number, from 1.
            loss: Of the step.
            rate: Learning rate.
            waited: Seconds spent waiting for cases.
            seconds: Seconds of the whole step.
        """
        self._follow(loss)
        self._seconds = (*self._seconds[-19:], seconds)
        if not self.active:
            return
        values = (step, f"{loss:.9g}", f"{rate:.6g}", f"{waited:.4f}", f"{seconds:.4f}")
        self._writer.writerow(dict(zip(_COLUMNS, values, strict=True)))
        self._file.flush()
        if self._board is not None:
            self._board.add_scalar("loss", loss, step)
            self._board.add_scalar("learning rate", rate, step)
            self._board.add_scalar("seconds per step", seconds, step)

    def _follow(self, loss: float) -> None:
        self.recent = loss if math.isnan(self.recent) else 0.98 * self.recent + 0.02 * loss

    def sheet(self, step: int, picture: Path) -> None:
        """Show a sheet of samples."""
        if self._board is not None:
            import numpy as np
            from matplotlib.image import imread

            pixels = np.asarray(imread(picture))
            self._board.add_image("samples", pixels[..., :3], step, dataformats="HWC")

    def validated(self, step: int, rows: Sequence[LogRow]) -> bool:
        """Add a validation.

        Returns:
            Whether the criterion of the simulated patients with lesions is the best so far.
        """
        for row in rows:
            for name, value in row.items():
                if self._board is not None and isinstance(value, float):
                    self._board.add_scalar(f"{row['set']} {row['group']}/{name}", value, step)
        scores = [float(r[self.criterion]) for r in rows if (r["set"], r["group"]) == ("simulated", "all")]
        if not scores or not scores[0] > self.best:
            return False
        self.best = scores[0]
        return True


def read_log(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's log, without a last one that was cut off; none if there is no log."""
    rows = _read(folder / "log.csv")
    return [row for row in rows if row["step"].isdigit() and all(row.get(key) for key in _COLUMNS)]


def read_validation(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's validations; none if there are none."""
    return _read(folder / "validation.csv")


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_rows(path: Path, step: int, rows: Sequence[dict[str, str | int | float]]) -> None:
    """Add the results of one validation to a table; those of this step or later ones are replaced.

    Args:
        path: CSV.
        step: Of the run.
        rows: One for each set of patients.
    """
    kept: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    with atomic_path(path, overwrite=True) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["step", *rows[0]])
        writer.writeheader()
        writer.writerows(kept)
        for row in rows:
            shown = {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
            writer.writerow({"step": step, **shown})


def write_report(folder: Path, settings: Recipe, *, criterion: str = "score") -> Path:
    """Write ``report.html``: curves, rates, the last validation, the last samples and the recipe.

    Args:
        folder: Run folder.
        settings: The recipe.
        criterion: Column of validations to draw.

    Returns:
        The page.
    """
    rows, validations = read_log(folder), read_validation(folder)
    draw_curves(rows, validations, folder / "curves.png", criterion)
    seconds = [float(row["seconds"]) for row in rows]
    waited = sum(float(row["seconds_waiting"]) for row in rows)
    samples = sorted((folder / "samples").glob("*.png"))
    last = max((int(row["step"]) for row in validations), default=0)
    path = folder / "report.html"
    write_page(
        path,
        "training.html",
        name=settings.name,
        steps=len(rows),
        planned=None if settings.optimiser.minutes else settings.optimiser.steps,
        hours=sum(seconds) / 3600,
        rate=len(seconds) / sum(seconds) if seconds else 0.0,
        waiting=100 * waited / sum(seconds) if seconds else 0.0,
        loss=float(rows[-1]["loss"]) if rows else math.nan,
        validation=[row for row in validations if int(row["step"]) == last],
        headings=VALIDATION_HEADINGS,
        last=last,
        sample=samples[-1].relative_to(folder).as_posix() if samples else None,
        recipe=settings.model_dump_json(indent=2),
    )
    return path
