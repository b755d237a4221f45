"""The verb ``calibrate``."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anystroke.commands.common import OK, ArgumentError, complain, compute_on, progress_bar
from anystroke.commands.options import Debug, Device, Threads, with_options
from anystroke.commands.own_scans import looked_at, paired_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress, TaskID

    from anystroke.tasks.segmentation.calibrate import Calibration
    from anystroke.tasks.segmentation.predict import Model

FEWEST_FOR_RISK = 60


@dataclass(frozen=True)
class CalibrationData:
    """What it is calibrated on."""

    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder 'data' of a training run with label maps and lesions."),
    ] = None
    scans: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DATA",
            help="Instead: scans with masks that the model has not learnt from, as for 'finetune'.",
        ),
    ] = None
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Masks of one folder of --scans, named alike.",
            show_default="beside the scans",
        ),
    ] = None


@dataclass(frozen=True)
class CalibrationOptions:
    """How."""

    patients: Annotated[
        int | None,
        typer.Option(min=1, help="Simulated patients.", show_default="200; 12 for an estimator"),
    ] = None
    risk_patients: Annotated[
        int,
        typer.Option(min=0, help="Simulated patients that teach which masks fail; 0 for none."),
    ] = 500
    only_risk: Annotated[
        bool, typer.Option("--only-risk", help="Leave thresholds and intervals as they are.")
    ] = False
    only_parts: Annotated[
        bool,
        typer.Option(
            "--only-parts", help="Learn how likely parts of masks are lesions, and leave all else as it is."
        ),
    ] = False
    part_patients: Annotated[
        int | None,
        typer.Option(min=1, help="Simulated patients that teach that.", show_default="400"),
    ] = None
    observations: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keeps what their masks show, to go on after an interruption."),
    ] = None
    temperature: Annotated[
        float | None, typer.Option(min=0.05, max=20, help="Keep to this one.", show_default="the best")
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.999,
            help="Keep to this one, of what the network says before it is calibrated.",
            show_default="the best",
        ),
    ] = None
    certain: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.999, help="Keep to this smallest certainty of a part.", show_default="the best"
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Of the patients.")] = 2027
    device: Device = "auto"
    threads: Threads = None
    debug: Debug = False


@with_options
def calibrate(
    model: Annotated[
        Path, typer.Argument(metavar="DIR", help="A model folder; its config.json is replaced.")
    ],
    on: CalibrationData,
    options: CalibrationOptions,
) -> int:
    """Choose a model's temperature, threshold and smallest certainty, and measure its errors.

    Simulated patients made of the training's anatomies and lesions decide; those held out stay unseen. They
    also teach which masks fail, so that results come with that risk. Of an estimator of maps, the mean bias
    of each map is taken out.

    With --scans, scans of one's own decide: the temperature from 5 with a lesion on, thresholds from 20,
    intervals of volumes from 40; what they are too few for stays.

    Where one of temperature, threshold and certainty is given, the others are chosen with it, and errors are
    measured at it. Where they change, what --only-parts has learnt is taken away.

    Example: anystroke calibrate my_model/model --scans more_scans --masks their_masks
    """
    from anystroke.core.memory import keep_pages
    from anystroke.models.checkpoints import find_model, task_of_model

    compute_on(options.device, options.threads)
    data, patients, risk_patients, seed = on.data, options.patients, options.risk_patients, options.seed
    if not (model / "config.json").is_file():
        shipped = find_model(str(model))
        raise ArgumentError(
            f"{model} comes with the package and is not changed; copy its folder {shipped} and calibrate that"
        )
    if (data is None) == (not on.scans):
        raise ArgumentError("give either --data, the 'data' folder of a run, or --scans, scans with masks")
    kept = (options.temperature, options.threshold, options.certain)
    alone = options.only_risk or options.only_parts
    if any(value is not None for value in kept) and (data is None or alone):
        raise ArgumentError(
            "--temperature, --threshold and --certain are kept to where errors are measured on simulated "
            "patients: give --data, without --only-risk and --only-parts"
        )
    if options.only_risk and options.only_parts:
        raise ArgumentError("give either --only-risk or --only-parts, one after the other")
    if options.part_patients is not None and not options.only_parts:
        raise ArgumentError("--part-patients are those of --only-parts; give both")
    if data is None and options.only_parts:
        raise ArgumentError(
            "--only-parts learns of simulated patients: give --data, the 'data' folder of a run"
        )
    if data is None:
        return _calibrate_on_scans(model, on.scans or [], on.masks)
    for name in ("anatomies", "lesions"):
        if not (data / f"{name}.safetensors").is_file():
            raise ArgumentError(
                f"expected {name}.safetensors in {data}, but there is none; give the 'data' folder of a run "
                "that trains on simulated patients"
            )
    keep_pages()
    if task_of_model(model) == "qmri":
        if alone:
            raise ArgumentError(
                "--only-risk and --only-parts are of models that segment, and this one estimates maps"
            )
        return _calibrate_estimator(model, data, patients or 12, seed)
    if options.only_parts:
        return _learn_parts(model, data, seed, options)
    if patients is not None and patients < 50:
        raise ArgumentError(f"--patients: expected at least 50 to calibrate with, got {patients}")
    if 0 < risk_patients < FEWEST_FOR_RISK or (options.only_risk and not risk_patients):
        raise ArgumentError(
            f"--risk-patients: expected at least {FEWEST_FOR_RISK} to learn from, got {risk_patients}"
        )
    if not options.only_risk:
        _choose(model, data, patients or 200, seed, options)
    if risk_patients:
        _learn_risk(model, data, risk_patients, seed, options.observations)
    return OK


def _choose(model: Path, data: Path, patients: int, seed: int, options: CalibrationOptions) -> None:
    """Replace thresholds and intervals."""
    from anystroke.models.checkpoints import save_config
    from anystroke.tasks.segmentation.calibrate import ALL_CHOICES, Choices
    from anystroke.tasks.segmentation.calibrate import calibrate as choose
    from anystroke.tasks.segmentation.predict import Model

    opened = Model.open(model)
    choices = Choices(
        ALL_CHOICES.temperatures if options.temperature is None else (options.temperature,),
        ALL_CHOICES.thresholds if options.threshold is None else (options.threshold,),
        ALL_CHOICES.certainties if options.certain is None else (options.certain,),
    )
    with progress_bar() as bar:
        found = choose(opened, data, patients=patients, seed=seed, choices=choices, on_patient=shown_on(bar))
    save_config(model, found.applied_to(opened.config))
    typer.echo(calibration_said(found))
    _complain_of_losses(model, opened)


def _complain_of_losses(folder: Path, before: "Model") -> None:
    """Say if what was learnt of parts, or of probabilities, was taken away."""
    from anystroke.models.checkpoints import load_config
    from anystroke.tasks.segmentation.config import SegmentationConfig

    old, new = before.config, load_config(folder, SegmentationConfig)
    if any(
        getattr(old, name) is not None and getattr(new, name) is None
        for name in ("calibrated_alone", "calibrated_together")
    ):
        complain(
            "note: what probabilities mean at the new temperature is not known, and they are written as the "
            "network says them; calibrate with 40 scans or more, or with --data"
        )
    if old.part_model is not None and new.part_model is None:
        complain("note: how likely parts are lesions is no longer known; --only-parts --data learns it anew")


def calibration_said(found: "Calibration") -> str:
    """Say what was chosen and what it changes."""
    false = found.false_volume
    return (
        f"temperature {found.temperature:g}, threshold {found.threshold:g}, smallest certainty "
        f"{found.certain:g}; log loss {found.log_loss[0]:.5f} -> {found.log_loss[1]:.5f}, mean Dice "
        f"{found.mean_dice[0]:.3f} -> {found.mean_dice[1]:.3f}, lesion-wise F1 {found.mean_f1[0]:.3f} -> "
        f"{found.mean_f1[1]:.3f}" + (f", false volume {false[0]:.2f} -> {false[1]:.2f} ml" if false else "")
    )


def _calibrate_on_scans(model: Path, sources: "Sequence[Path]", masks: Path | None) -> int:
    """Replace what scans of one's own are enough to choose."""
    from anystroke.models.checkpoints import save_config
    from anystroke.tasks.segmentation.calibrate import calibrate_on_scans
    from anystroke.tasks.segmentation.predict import Model

    opened = Model.open(model)
    with tempfile.TemporaryDirectory() as folder:
        checked = looked_at(paired_sources(sources, masks, Path(folder)))
    with progress_bar() as bar:
        found = calibrate_on_scans(opened, [each.scan for each in checked], on_patient=shown_on(bar))
    save_config(model, found.applied_to(opened.config))
    typer.echo(calibration_said(found))
    if opened.config.risk is not None:
        complain("note: how likely masks are to fail is no longer known; --only-risk --data learns it anew")
    _complain_of_losses(model, opened)
    return OK


def _learn_risk(model: Path, data: Path, patients: int, seed: int, kept: Path | None) -> None:
    """Replace what tells masks that fail."""
    from anystroke.models.checkpoints import save_config
    from anystroke.tasks.segmentation.observations import PatientSet, observe_all
    from anystroke.tasks.segmentation.predict import Model
    from anystroke.tasks.segmentation.risk_fit import fit_risk

    opened = Model.open(model)
    with progress_bar() as bar:
        found = observe_all(opened, PatientSet(data, patients, seed), kept=kept, on_patient=shown_on(bar))
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


def _learn_parts(model: Path, data: Path, seed: int, options: CalibrationOptions) -> int:
    """Replace what tells which parts of masks are lesions."""
    from anystroke.models.checkpoints import save_config
    from anystroke.tasks.segmentation.part_fit import learn_parts
    from anystroke.tasks.segmentation.predict import Model

    opened = Model.open(model)
    with progress_bar() as bar:
        parts = learn_parts(
            opened,
            data,
            patients=options.part_patients or 400,
            seed=seed,
            kept=options.observations,
            on_patient=shown_on(bar),
        )
    save_config(model, opened.config.model_copy(update={"part_model": parts}))
    typer.echo(
        f"parts: {parts.right} of {parts.parts} parts of {parts.patients} masks are lesions; area under the "
        f"curve {parts.auc:.2f}"
    )
    return OK


def shown_on(bar: "Progress") -> "Callable[[str, int, int], None]":
    """Return what shows the patients that were done."""
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
