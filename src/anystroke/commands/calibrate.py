"""The verb ``calibrate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anystroke.commands.common import OK, ArgumentError, progress_bar
from anystroke.commands.options import Debug

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress, TaskID

FEWEST_FOR_RISK = 60


def calibrate(
    model: Annotated[
        Path, typer.Argument(metavar="DIR", help="A model folder; its config.json is replaced.")
    ],
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The folder 'data' of a training run with label maps and lesions."),
    ],
    patients: Annotated[
        int | None,
        typer.Option(min=1, help="Simulated patients.", show_default="200; 12 for an estimator"),
    ] = None,
    risk_patients: Annotated[
        int,
        typer.Option(min=0, help="Simulated patients that teach which masks fail; 0 for none."),
    ] = 500,
    only_risk: Annotated[
        bool, typer.Option("--only-risk", help="Leave thresholds and intervals as they are.")
    ] = False,
    observations: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keeps what their masks show, to go on after an interruption."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the patients.")] = 2027,
    _debug: Debug = False,
) -> int:
    """Choose a model's temperature, threshold and smallest certainty, and measure its errors.

    Simulated patients made of the training's anatomies and lesions decide; those held out stay unseen. They
    also teach which masks fail, so that results come with that risk. Of an estimator of maps, the mean bias
    of each map is taken out.

    Example: anystroke calibrate run/model --data run/data
    """
    from anystroke.core.memory import keep_pages
    from anystroke.models.checkpoints import task_of_model

    for name in ("anatomies", "lesions"):
        if not (data / f"{name}.safetensors").is_file():
            raise ArgumentError(
                f"expected {name}.safetensors in {data}, but there is none; give the 'data' folder of a run "
                "that trains on simulated patients"
            )
    keep_pages()
    if task_of_model(model) == "qmri":
        return _calibrate_estimator(model, data, patients or 12, seed)
    if patients is not None and patients < 50:
        raise ArgumentError(f"--patients: expected at least 50 to calibrate with, got {patients}")
    if 0 < risk_patients < FEWEST_FOR_RISK or (only_risk and not risk_patients):
        raise ArgumentError(
            f"--risk-patients: expected at least {FEWEST_FOR_RISK} to learn from, got {risk_patients}"
        )
    if not only_risk:
        _choose(model, data, patients or 200, seed)
    if risk_patients:
        _learn_risk(model, data, risk_patients, seed, observations)
    return OK


def _choose(model: Path, data: Path, patients: int, seed: int) -> None:
    """Replace thresholds and intervals."""
    from anystroke.models.checkpoints import save_config
    from anystroke.tasks.segmentation.calibrate import calibrate as choose
    from anystroke.tasks.segmentation.predict import Model

    opened = Model.open(model)
    with progress_bar() as bar:
        found = choose(opened, data, patients=patients, seed=seed, on_patient=_shown(bar))
    save_config(model, found.applied_to(opened.config))
    typer.echo(
        f"temperature {found.temperature:g}, threshold {found.threshold:g}, smallest certainty "
        f"{found.certain:g}; log loss {found.log_loss[0]:.5f} -> {found.log_loss[1]:.5f}, mean Dice "
        f"{found.mean_dice[0]:.3f} -> {found.mean_dice[1]:.3f}, lesion-wise F1 {found.mean_f1[0]:.3f} -> "
        f"{found.mean_f1[1]:.3f}, false volume {found.false_volume[0]:.2f} -> "
        f"{found.false_volume[1]:.2f} ml"
    )


def _learn_risk(model: Path, data: Path, patients: int, seed: int, kept: Path | None) -> None:
    """Replace what tells masks that fail."""
    from anystroke.models.checkpoints import save_config
    from anystroke.tasks.segmentation.observations import PatientSet, observe_all
    from anystroke.tasks.segmentation.predict import Model
    from anystroke.tasks.segmentation.risk_fit import fit_risk

    opened = Model.open(model)
    with progress_bar() as bar:
        found = observe_all(opened, PatientSet(data, patients, seed), kept=kept, on_patient=_shown(bar))
    try:
        risk = fit_risk(found)
    except ValueError as error:
        raise ArgumentError(f"--risk-patients: {error}") from error
    save_config(model, opened.config.model_copy(update={"risk": risk}))
    typer.echo(
        f"risk: {risk.failed} of {risk.patients} masks failed; area under the curve {risk.auc:.2f} "
        f"({risk.auc_interval[0]:.2f} to {risk.auc_interval[1]:.2f}), from {risk.threshold:g} sensitivity "
        f"{risk.sensitivity:.2f} and specificity {risk.specificity:.2f}"
    )


def _shown(bar: "Progress") -> "Callable[[str, int, int], None]":
    tasks: dict[str, TaskID] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done)

    return show


def _calibrate_estimator(model: Path, data: Path, heads: int, seed: int) -> int:
    """Replace an estimator's values by the median truth behind them."""
    from anystroke.models.checkpoints import save_config
    from anystroke.tasks.qmri.calibrate import calibrate_estimator
    from anystroke.tasks.qmri.predict import Estimator

    opened = Estimator.open(model)
    with progress_bar() as bar:
        task = bar.add_task("heads", total=heads)
        found = calibrate_estimator(
            opened, data, heads=heads, seed=seed, on_head=lambda done: bar.update(task, completed=done)
        )
    save_config(model, found.applied_to(opened.config))
    for name, curve in found.curves.items():
        bias = ", ".join(
            f"{tissue.replace('_', ' ')} {100 * b:+.1f} %" for tissue, b in found.bias[name].items()
        )
        typer.echo(f"{name}: a curve of {len(curve)} points (bias before: {bias})")
    return OK
