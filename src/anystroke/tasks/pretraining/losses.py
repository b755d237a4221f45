"""What views of one patient should have in common, and keep of the image."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from anystroke.core.config import StrictModel

Reduce = Callable[[Tensor], Tensor]


class PretrainingLossSettings(StrictModel):
    """What is minimised; the defaults are the published values.

    Attributes:
        kind: ``"nt_xent"`` (SimCLR's), ``"barlow_twins"``, or ``"none"`` for reconstruction alone.
        temperature: Of NT-Xent.
        redundancy: Weight of what different features share, of Barlow Twins.
        reconstruction: Weight of the mean absolute difference between views made again and clean ones; 0 for
            no such part.
    """

    kind: Literal["nt_xent", "barlow_twins", "none"] = "nt_xent"
    temperature: float = Field(default=0.5, gt=0)
    redundancy: float = Field(default=0.005, ge=0)
    reconstruction: float = Field(default=1.0, ge=0)


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Return the cross-entropy of finding a patient's other view among all other views, by cosine.

    Args:
        first: (B, D), one view of each patient.
        second: Likewise, the other view.
        temperature: Cosines are divided by it.

    Returns:
        Scalar: the mean over both directions.

    Source: T. Chen et al., A simple framework for contrastive learning of visual representations, ICML 2020.

    Example:
        >>> alike = torch.eye(4)
        >>> bool(nt_xent(alike, alike) < nt_xent(alike, alike.roll(1, 0)))
        True
    """
    views = normalize(torch.cat([first, second]), dim=1)
    logits = views @ views.T / temperature
    own = torch.eye(len(views), dtype=torch.bool, device=views.device)
    other = torch.arange(len(views), device=views.device).roll(len(first))
    return cross_entropy(logits.masked_fill(own, -torch.inf), other)


def barlow_twins(first: Tensor, second: Tensor, *, redundancy: float = 0.005) -> Tensor:
    """Return how far the features of two views are from being the same, and each unlike the others.

    Args:
        first: (B, D), one view of each patient, of at least two.
        second: Likewise, the other view.
        redundancy: Weight of the correlations between different features.

    Returns:
        Scalar: the sum over all pairs of features, divided by their number D, as the published program does.

    Raises:
        ValueError: There is one patient alone, whose features have no correlation.

    Source: J. Zbontar et al., Barlow Twins, ICML 2021.
    """
    if len(first) < 2:
        raise ValueError(
            "expected at least two patients in a batch for Barlow Twins, got one; raise optimiser.batch"
        )
    one, two = (_standardised(each) for each in (first, second))
    correlation = one.T @ two / (len(first) - 1)
    diagonal = correlation.diagonal()
    rest = correlation.square().sum() - diagonal.square().sum()
    total: Tensor = ((1 - diagonal).square().sum() + redundancy * rest) / first.shape[1]
    return total


def _standardised(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred / features.std(0).clamp(min=1e-6)


def pretraining_loss(
    compared: Tensor,
    remade: Tensor | None,
    clean: Tensor,
    *,
    settings: PretrainingLossSettings,
    reduce: Reduce,
) -> Tensor:
    """Return the loss of one batch.

    Args:
        compared: (B, 2, D) of each view of each patient.
        remade: (B, 2, X, Y, Z), the views made again; None where they are not.
        clean: Likewise, as they should be.
        settings: What counts.
        reduce: Sums over the processes of a distributed run, all of whose patients are compared.
    """
    compared = compared if compared.dtype == torch.float64 else compared.float()
    total = compared.new_zeros(())
    if settings.kind != "none":
        first, second = gathered_over_processes(compared, reduce).unbind(1)
        if settings.kind == "nt_xent":
            total = total + nt_xent(first, second, temperature=settings.temperature)
        else:
            total = total + barlow_twins(first, second, redundancy=settings.redundancy)
    else:
        total = total + 0 * compared.sum()
    if remade is not None:
        total = total + settings.reconstruction * (remade.to(total.dtype) - clean).abs().mean()
    return total


def gathered_over_processes(part: Tensor, reduce: Reduce) -> Tensor:
    """Return what all processes of a distributed run have, in their order, with its gradient.

    Args:
        part: (B, ...), as many in each process.
        reduce: Sums over them.

    Returns:
        (R B, ...) for R processes.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return part
    own = torch.zeros(torch.distributed.get_world_size(), dtype=part.dtype, device=part.device)
    own[torch.distributed.get_rank()] = 1
    return reduce(own.view(-1, *[1] * part.ndim) * part).flatten(0, 1)
