"""What lies beside the arrays of a model of outcomes."""

from typing import Any, Literal

from pydantic import Field

from anystroke.core.config import StrictModel
from anystroke.tasks.outcome.calibrate import Conformal
from anystroke.tasks.outcome.features import AtlasRegions
from anystroke.tasks.outcome.table import Column, Target


class MemberConfig(StrictModel):
    """What a member sees, and its names, beside its arrays."""

    groups: tuple[str, ...]
    estimator: str
    features: tuple[str, ...]
    parts: tuple[str, ...]


class PictureNetworkConfig(StrictModel):
    """What a network is and sees, beside its weights."""

    network: str
    picture: str
    shrink: int = 1
    heads: int
    table: int
    groups: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    sees_scans: bool = False


class OutcomeConfig(StrictModel):
    """What is needed to use a model of outcomes, beside its arrays.

    Attributes:
        task: Tells it from other models.
        name: Short name.
        version: Of the arrays.
        model: As in ``--model``.
        target: What is predicted.
        columns: Of tables.
        masks: Whether lesion masks are needed.
        images: Whether scans are needed.
        atlas: Regions it was trained with.
        members: Estimators.
        network: A network instead.
        bounds: Smallest and largest number of the training.
        conformal: Of intervals, where numbers are predicted.
        temperature: Logits are divided by it.
        training: Facts for the record.
    """

    task: Literal["outcome"] = "outcome"
    name: str
    version: str = "1"
    model: str
    target: Target
    columns: tuple[Column, ...] = ()
    masks: bool = False
    images: bool = False
    atlas: AtlasRegions | None = None
    members: tuple[MemberConfig, ...] = ()
    network: PictureNetworkConfig | None = None
    bounds: tuple[float, float] = (0.0, 0.0)
    conformal: Conformal | None = None
    temperature: float = 1.0
    training: dict[str, Any] = Field(default_factory=dict)
