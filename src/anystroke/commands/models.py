"""The verb ``models``."""

from pathlib import Path
from typing import Any

import typer

from anystroke.commands.common import OK


def models() -> int:
    """List the models that come with the program: what for, how large, how good, and where they are.

    Example: anystroke models
    """
    from anystroke.models.checkpoints import find_model, model_facts, shipped_models, task_of_model

    rows = [("name", "task", "version", "MB", "on held-out simulated patients", "folder")]
    for name in shipped_models(None):
        folder, facts = find_model(name), model_facts(name)
        rows.append(
            (name, task_of_model(name), facts["version"], _size(folder), _held_out(facts), str(folder))
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return OK


def _size(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*.safetensors')) / 1e6:.1f}"


def _held_out(facts: dict[str, Any]) -> str:
    found = facts["training"].get("held_out")
    if not found:
        return "see its card"
    return f"median Dice {found['median_dice']:.2f}, F1 {found['mean_f1']:.2f}, n = {found['patients']}"
