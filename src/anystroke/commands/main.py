"""The command. Each verb imports what it needs when it runs, so that help is quick."""

import logging
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any

import typer

from anystroke.commands import (
    apply,
    benchmark,
    calibrate,
    compare,
    demo,
    doctor,
    estimate_qmri,
    evaluate,
    finetune,
    fit_priors,
    models,
    outcome,
    pretrain,
    probe,
    pseudo_label,
    recipes,
    segment,
    simulate,
    train,
)
from anystroke.commands.common import FAILED, INTERRUPTED, OK, USAGE, complain
from anystroke.core.errors import AnystrokeError

app = typer.Typer(
    help="Find the stroke lesion in a brain MR image, whatever the sequence. Research use only.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anystroke {version('anystroke')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Say nothing more than the application's own help."""


VERBS = (
    segment.segment,
    segment.bids,
    models.models,
    simulate.simulate,
    demo.demo,
    fit_priors.fit_priors,
    doctor.doctor,
    estimate_qmri.estimate_qmri,
    recipes.recipes,
    train.train,
    finetune.finetune,
    pretrain.pretrain,
    probe.probe,
    apply.apply,
    calibrate.calibrate,
    pseudo_label.pseudo_label,
    evaluate.evaluate,
    compare.compare,
    benchmark.benchmark,
)
for _verb in VERBS:
    app.command(_verb.__name__.replace("_", "-"))(_verb)
app.add_typer(outcome.outcome, name="outcome")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print the program's own warnings as sentences, without a line of its source."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            if category.__module__.startswith("anystroke"):
                complain(f"warning: {message}")
            else:
                show(message, category, *args, **kwargs)

        warnings.showwarning = say
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows the program's name; by default those of the process.

    Returns:
        0 all done, 1 some inputs failed, 2 wrong usage, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments:
        main(["--help"])
        return USAGE
    if "--debug" not in arguments:
        # They speak of caches where there is no home folder, of what headers are mended in, and of precision.
        for name in ("matplotlib", "nibabel.global", "lightning_fabric.utilities.rank_zero"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    command = typer.main.get_command(app)
    arguments = segment.as_bids_app(arguments, list(getattr(command, "commands", ())))
    try:
        with _plain_warnings():
            result = command.main(arguments, prog_name="anystroke", standalone_mode=False)
    except typer.Exit as exit_:
        result = exit_.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except AnystrokeError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        complain(f"error: {' '.join(str(error).split())}")
        return USAGE
    except Exception as error:  # noqa: BLE001  # told in one sentence, whatever it is
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            complain(f"error: {error.format_message().rstrip('.')}; see 'anystroke --help'")
            return USAGE
        if "--debug" in arguments:
            traceback.print_exc()
        complain(f"error: {' '.join(str(error).split()) or type(error).__name__}")
        return FAILED
    if result == INTERRUPTED:
        complain("interrupted; what was finished is kept")
    return result if isinstance(result, int) else OK
