"""The verb ``models``."""

import typer

from anystroke.commands.common import OK


def models() -> int:
    """List the models that come with the program.

    Example: anystroke models
    """
    from anystroke.models.checkpoints import find_model, shipped_models

    for name in shipped_models(None):
        typer.echo(f"{name}\t{find_model(name)}")
    return OK
