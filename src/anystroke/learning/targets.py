"""What a network learns to tell apart: tissues and lesion, lesion alone, or the classes of SynthStroke."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from anystroke.anatomy.tissues.classes import CLASSES, LESION
from anystroke.learning.cases import IGNORED

Scheme = Literal["tissues", "lesion", "published"]

TARGET_SCHEMES: Mapping[Scheme, tuple[str, ...]] = {
    "tissues": CLASSES,
    "lesion": ("background", "lesion"),
    "published": ("background", "grey_matter", "partial_volume", "white_matter", "csf", "lesion"),
}
"""Names of the classes of each scheme, in the order of their numbers; the lesion is the last of each.

``"published"`` has the six classes of SynthStroke. Its partial volume is a label of the published anatomies;
here it is what the word says: a voxel of which grey and white matter both have at least a quarter.
"""

_PARTIAL_VOLUME = 0.25
_GREY, _WHITE = CLASSES.index("grey_matter"), CLASSES.index("white_matter")


def needs_shares(scheme: Scheme, *, soft: bool) -> bool:
    """Tell whether a target can only be made of the shares of the classes.

    Example:
        >>> needs_shares("tissues", soft=False), needs_shares("published", soft=False)
        (False, True)
    """
    return soft or scheme == "published"


def make_target(
    target: Tensor,
    shares: Tensor | None,
    scheme: Scheme,
    *,
    soft: bool = False,
    unseen: Tensor | None = None,
) -> Tensor:
    """Make the target of a scheme from that of the simulator.

    The share of partial volume is twice the smaller one of grey and white matter, which lose as much each: so
    it is half a voxel, the most that a class must have to win, where both have a quarter of it.

    Args:
        target: (X, Y, Z) uint8, numbers of ``CLASSES``, as in ``Sample.target``.
        shares: (5, X, Y, Z), as in ``Sample.shares``; may be None where `needs_shares` is False.
        scheme: Which classes.
        soft: Give the share of each class instead of the number of one.
        unseen: (X, Y, Z) bool, where the target is to be ignored; None for nowhere.

    Returns:
        (X, Y, Z) uint8, ``IGNORED`` where unseen; or, soft, (K, X, Y, Z) float32 that sums to one, and
        to zero where unseen.

    Raises:
        ValueError: If there is no such scheme, or no shares where they are needed.

    Example:
        >>> shares = torch.tensor([0.0, 0.5, 0.25, 0.25, 0.0]).reshape(5, 1, 1, 1)
        >>> target = torch.ones(1, 1, 1, dtype=torch.uint8)
        >>> make_target(target, shares, "published").item()
        2
        >>> make_target(target, shares, "published", soft=True).flatten().tolist()
        [0.0, 0.25, 0.5, 0.0, 0.25, 0.0]
    """
    if scheme not in TARGET_SCHEMES:
        raise ValueError(f"expected a scheme among {', '.join(TARGET_SCHEMES)}, got {scheme!r}")
    made = _of_scheme(target, shares, scheme, soft=soft)
    return made if unseen is None else made.masked_fill(unseen, 0 if soft else IGNORED)


def _of_scheme(target: Tensor, shares: Tensor | None, scheme: Scheme, *, soft: bool) -> Tensor:
    if not needs_shares(scheme, soft=soft):
        return target if scheme == "tissues" else (target == LESION).to(torch.uint8)
    if shares is None:
        raise ValueError(
            f"the {'soft' if soft else 'hard'} target of the scheme {scheme!r} needs the shares of the "
            "classes, but the sample has none; simulate with soft_target = true"
        )
    if scheme == "tissues":
        return shares
    background, grey, white, csf, lesion = shares.unbind()
    if scheme == "lesion":
        return torch.stack([1 - lesion, lesion])
    both = torch.minimum(grey, white)
    if soft:
        return torch.stack([background, grey - both, 2 * both, white - both, csf, lesion])
    numbers = torch.tensor(
        [TARGET_SCHEMES["published"].index(name) for name in CLASSES], dtype=torch.uint8, device=target.device
    )
    result = numbers[target.long()]
    result[(both >= _PARTIAL_VOLUME) & (target != LESION)] = TARGET_SCHEMES["published"].index(
        "partial_volume"
    )
    return result
