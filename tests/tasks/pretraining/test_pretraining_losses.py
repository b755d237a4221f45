"""Losses of pre-training against loops over numbers, and against MONAI."""

import math

import numpy as np
import pytest
import torch
from monai.losses import BarlowTwinsLoss, ContrastiveLoss
from torch import Tensor

from anystroke.tasks.pretraining.losses import (
    PretrainingLossSettings,
    barlow_twins,
    nt_xent,
    pretraining_loss,
)


def _views(seed: int, batch: int = 5, width: int = 7) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    one = torch.randn(batch, width, generator=rng, dtype=torch.float64)
    return one, one + 0.5 * torch.randn(batch, width, generator=rng, dtype=torch.float64)


def _alone(sums: Tensor) -> Tensor:
    return sums


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_its_definition(temperature: float) -> None:
    one, two = _views(1)
    views = [row.numpy() / np.linalg.norm(row.numpy()) for row in torch.cat([one, two])]
    total = 0.0
    for i, view in enumerate(views):
        other = (i + len(one)) % len(views)
        below = sum(math.exp(view @ each / temperature) for j, each in enumerate(views) if j != i)
        total -= math.log(math.exp(view @ views[other] / temperature) / below)
    found = nt_xent(one, two, temperature=temperature)
    assert float(found) == pytest.approx(total / len(views), abs=1e-6)
    assert float(found) == pytest.approx(float(ContrastiveLoss(temperature)(one, two)), abs=1e-6)


@pytest.mark.parametrize("redundancy", [0.005, 0.3])
def test_barlow_twins_is_its_definition(redundancy: float) -> None:
    one, two = _views(2, batch=9)
    width = one.shape[1]
    correlation = np.corrcoef(one.numpy().T, two.numpy().T)[:width, width:]
    total = 0.0
    for i in range(width):
        for j in range(width):
            total += (1 - correlation[i, j]) ** 2 if i == j else redundancy * correlation[i, j] ** 2
    assert float(barlow_twins(one, two, redundancy=redundancy)) == pytest.approx(total / width, abs=1e-6)


def test_monai_divides_what_barlow_twins_sums_by_one_more() -> None:
    """So its correlations are B - 1 over B of what they are: with that, both are the same."""
    one, two = _views(3, batch=9)
    width = one.shape[1]
    theirs = np.corrcoef(one.numpy().T, two.numpy().T)[:width, width:] * 8 / 9
    diagonal = np.diag(theirs)
    total = ((1 - diagonal) ** 2).sum() + 0.005 * ((theirs**2).sum() - (diagonal**2).sum())
    assert float(BarlowTwinsLoss(0.005)(one, two)) == pytest.approx(total, rel=1e-4)


def test_equal_views_lose_less() -> None:
    one, _ = _views(4)
    for loss in (nt_xent, barlow_twins):
        assert float(loss(one, one)) < float(loss(one, one.roll(1, 0)))


def test_one_patient_has_no_correlation() -> None:
    with pytest.raises(ValueError, match="at least two patients"):
        barlow_twins(torch.ones(1, 4), torch.ones(1, 4))


def test_parts_of_the_loss_add_up() -> None:
    compared = torch.stack(_views(5), 1)
    remade, clean = torch.zeros(5, 2, 4, 4, 4), torch.full((5, 2, 4, 4, 4), 3.0)
    both = pretraining_loss(
        compared, remade, clean, settings=PretrainingLossSettings(reconstruction=2.0), reduce=_alone
    )
    assert float(both) == pytest.approx(float(nt_xent(*compared.unbind(1))) + 6.0)
    settings = PretrainingLossSettings(kind="none", reconstruction=1.0)
    assert float(pretraining_loss(compared, remade, clean, settings=settings, reduce=_alone)) == 3.0
    settings = PretrainingLossSettings(kind="barlow_twins", reconstruction=0.0)
    alone = pretraining_loss(compared, None, clean, settings=settings, reduce=_alone)
    assert float(alone) == pytest.approx(float(barlow_twins(*compared.unbind(1))))
