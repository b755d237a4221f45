"""Runs that are broken off."""

from collections.abc import Sequence
from pathlib import Path

import torch

from anystroke.learning.stream import Batch
from anystroke.learning.trainer import Trainer
from anystroke.tasks.registry import AnyRecipe


def check_resumes_to_the_bit(settings: AnyRecipe, run: Path, batches: Sequence[Batch]) -> None:
    """Check that two steps, a checkpoint and two steps are the same as in one go."""
    whole = Trainer(settings, run)
    for batch in batches[:2]:
        whole.train_step(batch)
    whole.save()
    resumed = Trainer(settings, run)
    resumed.resume()
    assert [resumed.train_step(b) for b in batches[2:]] == [whole.train_step(b) for b in batches[2:]]
    assert all(torch.equal(whole.average[key], resumed.average[key]) for key in whole.average)
