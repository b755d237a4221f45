"""Steps, checkpoints and the end of one call of a training: after its last step, in time, or when asked."""

import logging
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from anystroke.core.files import write_json
from anystroke.learning.clock import Clock
from anystroke.learning.interruption import Interruption
from anystroke.learning.run_log import RunLog, write_report
from anystroke.learning.stream import Batch
from anystroke.learning.supply import RANGE_CASES, Supply
from anystroke.learning.task import Validate
from anystroke.learning.trainer import LossError, Trainer, TrainingError
from anystroke.models.checkpoints import load_config, save_config
from anystroke.models.image_features import image_features, image_range

log = logging.getLogger(__name__)
# Fewer do not tell the 0.5 and 99.5 % quantiles at all.
_FEWEST_FOR_RANGE = 50
_SHEET_CASES = 4


class Loop:
    """One call of a training.

    Args:
        trainer: At the step to go on from.
        supply: Of batches.
        validate: Judges the network; None for no validation, and in all processes but one.
        criterion: Column of validations that the best model has most of.
        clock: Time that the call has; None to go on to the recipe's last step.
    """

    def __init__(
        self,
        trainer: Trainer,
        supply: Supply,
        *,
        validate: Validate | None,
        criterion: str,
        clock: Clock | None,
    ) -> None:
        self.trainer, self.supply, self.clock = trainer, supply, clock
        self.validate, self.criterion = validate, criterion
        self.first = trainer.step
        self.writes = trainer.fabric.is_global_zero
        if clock is not None or trainer.settings.buffer is not None:
            minutes = None if clock is None else clock.seconds / 60
            trainer.calls = [*trainer.calls, {"minutes": minutes, "from_step": self.first}]

    def run(self) -> None:
        """Train.

        Raises:
            TrainingError: No step was done in time, or SIGTERM came; the checkpoint is written before.
            LossError: The loss or its gradient is not finite.
        """
        trainer, every = self.trainer, self.trainer.settings.validation.every
        with (
            RunLog(trainer.folder, self.first, active=self.writes, criterion=self.criterion) as record,
            _display(self.writes) as display,
            Interruption() as interruption,
        ):
            bar = display.add_task("training", total=self._total, detail="")
            end = ""
            while self._goes_on:
                started = time.perf_counter()
                taken = self._take(interruption)
                end = self._end(interruption, waiting=taken is None)
                if taken is None or end:
                    break
                self._step(taken, record, started)
                display.update(bar, completed=self._done, detail=_detail(trainer, record))
                last = not self._goes_on
                if last or self._rehearses or trainer.step % trainer.settings.optimiser.checkpoint_every == 0:
                    self._checkpoint(record, taken[-1])
                if last or trainer.step % every == 0:
                    self._validation(record)
                    trainer.fabric.barrier()
            if end:
                self.supply.close()
            if end and self.writes and trainer.step > self.first:
                self._save()
        self._finish(end)

    @property
    def _goes_on(self) -> bool:
        return self.clock is not None or self.trainer.step < self.trainer.settings.optimiser.steps

    @property
    def _rehearses(self) -> bool:
        """Whether to write everything once to learn how long that takes."""
        return self.clock is not None and self.trainer.step == self.first + 1

    @property
    def _total(self) -> float:
        return self.trainer.settings.optimiser.steps if self.clock is None else self.clock.seconds

    @property
    def _done(self) -> float:
        return self.trainer.step if self.clock is None else self.clock.elapsed

    def _take(self, interruption: Interruption) -> list[Batch] | None:
        def over() -> bool:
            if self.clock is not None:
                self.clock.look()
            return interruption.came or (self.clock is not None and self.clock.over)

        if over():
            return None
        try:
            return self.supply.take(self.trainer.step, over)
        except RuntimeError:
            # A signal to the whole job ends the worker processes as well.
            if not interruption.came:
                raise
            return None

    def _end(self, interruption: Interruption, *, waiting: bool) -> str:
        """Return ``"signal"`` or ``"time"`` if the call ends, the same in all processes."""
        if self.clock is not None:
            if not waiting:
                self.clock.begin()
            self.clock.look()
        over = self.clock is not None and self.clock.over
        left = 0.0 if self.clock is None else self.clock.left
        fabric = self.trainer.fabric
        state = torch.tensor([float(interruption.came), float(over or waiting), -left], device=fabric.device)
        if fabric.world_size > 1:
            torch.distributed.all_reduce(state, torch.distributed.ReduceOp.MAX)
        came, over, left = bool(state[0]), bool(state[1]), -float(state[2])
        if self.clock is not None:
            self.trainer.left = left
        return "signal" if came else "time" if over else ""

    def _step(self, taken: list[Batch], record: RunLog, started: float) -> None:
        trainer = self.trainer
        waited = time.perf_counter() - started
        rate = trainer.learning_rate
        try:
            loss = trainer.train_step(*taken)
        except LossError as error:
            raise LossError(f"{error}; {self._keep_records()} says what it was made of") from error
        trainer.made = self.supply.made
        seconds = time.perf_counter() - started
        record.step(trainer.step, loss, rate, waited, seconds)
        # The first steps of a call wait for worker processes and choose algorithms.
        if self.clock is not None and trainer.step > self.first + 1:
            self.clock.stepped(seconds)

    def _save(self) -> None:
        if self.trainer.calls:
            done = {"to_step": self.trainer.step}
            if self.clock is not None:
                done["seconds"] = round(self.clock.elapsed)
            if self.trainer.settings.buffer is not None:
                done["cases"] = self.supply.made - self.supply.first_case
            self.trainer.calls[-1] |= done
        self.trainer.save()

    def _checkpoint(self, record: RunLog, batch: Batch) -> None:
        in_time = self.clock is None or self._rehearses or self.clock.can_save
        if not (self.writes and in_time):
            return
        started = time.perf_counter()
        self._save()
        path = self.trainer.folder / "samples" / f"step_{self.trainer.step:06d}.png"
        self.trainer.task.sheet(self.trainer, batch.first(_SHEET_CASES), path)
        record.sheet(self.trainer.step, path)
        if self._rehearses:
            write_report(self.trainer.folder, self.trainer.settings, criterion=self.criterion)
        if self.clock is not None:
            self.clock.saved(time.perf_counter() - started)

    def _validation(self, record: RunLog) -> None:
        if self.validate is None or (self.clock is not None and not self.clock.can_validate):
            return
        started = time.perf_counter()
        self.validate(self.trainer, record)
        if self.clock is not None:
            self.clock.validated(time.perf_counter() - started)

    def _finish(self, end: str) -> None:
        trainer, steps = self.trainer, self.trainer.step - self.first
        if self.writes and (steps or not end):
            if trainer.task.watches_images and end != "signal":
                self._keep_image_range()
            write_report(trainer.folder, trainer.settings, criterion=self.criterion)
        if end == "signal" and not trainer.step:
            raise TrainingError("SIGTERM came before the first step was done; train again")
        if end == "signal":
            raise TrainingError(
                f"SIGTERM came: stopped after step {trainer.step} with a checkpoint; go on with --resume"
            )
        if self.clock is not None and not steps:
            raise TrainingError(
                f"no step was done in {self.clock.seconds / 60:g} minutes, which reading the data and making "
                "the first cases took; give more, or fewer cases to begin with (buffer.first)"
            )

    def _keep_image_range(self) -> None:
        """Keep with the models what images of the training are like."""
        trainer, options = self.trainer, self.trainer.settings.optimiser
        if self.supply.measures:
            features = self.supply.features
            if self.clock is not None and len(features) < _FEWEST_FOR_RANGE:
                log.warning(
                    "there was time to measure %d images, too few to tell which scans are unlike them; "
                    "benchmarks/image_range.py measures more",
                    len(features),
                )
                return
        else:
            count = min(RANGE_CASES, options.steps * options.accumulate * options.batch)
            spacing = trainer.settings.grid.spacing
            features = [image_features(image, spacing=spacing) for image in self.supply.further(count)]
        usual = image_range(features)
        for folder in (trainer.folder / "model", trainer.folder / "best"):
            if folder.is_dir():
                config = load_config(folder, trainer.task.config_kind)
                save_config(folder, config.model_copy(update={"image_range": usual}))

    def _keep_records(self) -> Path:
        """Write what the cases of the current step were made of, as ``regenerate`` takes it."""
        trainer = self.trainer
        path = trainer.folder / f"step_{trainer.step:06d}_cases_{trainer.fabric.global_rank}.json"
        write_json(path, self.supply.records())
        return path


def _display(active: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}, left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not active)


def _detail(trainer: Trainer, record: RunLog) -> str:
    return f"step {trainer.step}, loss {record.recent:.3f}, {record.rate:.2f} steps/s"
