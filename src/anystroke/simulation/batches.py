"""Several simulated scans at once: what is spatial is computed for all patients in one go on a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from anystroke.anatomy.lesions.bank import LesionMask
from anystroke.anatomy.lesions.stages import Stage
from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.core.gathering import together
from anystroke.simulation.generator import Generator, Sample


@dataclass(frozen=True)
class Order:
    """A scan to be made; see `Generator.generate`.

    Attributes:
        anatomy: The patient.
        key: Decides all that is random.
        lesions: Masks to put in; None draws them from the generator's own.
        stage: Age of the lesion; None draws it.
        scan: Number of the scan within the patient's session.
        weighting: Restricts the protocol; that of the settings if None.
    """

    anatomy: Anatomy
    key: int
    lesions: Sequence[LesionMask] | None = None
    stage: Stage | None = None
    scan: int = 0
    weighting: str | None = None


def generate_batch(
    generator: Generator, orders: Sequence[Order], *, device: torch.device | str = "cpu"
) -> list[Sample]:
    """Simulate several scans at once.

    Each order is met by `Generator.generate`, whose random numbers come from the order's key alone; so what a
    sample is does not depend on the others, but for rounding. On the CPU, compiled loops take one patient
    after the other, and nothing is gained.

    Args:
        generator: What scans look like.
        orders: One for each scan.
        device: Where to compute.

    Returns:
        A sample for each order, whose record `anystroke.simulation.replay.regenerate` replays.

    Example:
        >>> from anystroke.anatomy.tissues.mni import mni_anatomy
        >>> from anystroke.simulation.settings import SynthesisSettings
        >>> generator = Generator(SynthesisSettings(shapes=((24, 24, 24),), spacing=6.0))
        >>> orders = [Order(mni_anatomy(), key) for key in (1, 2)]
        >>> [sample.record["key"] for sample in generate_batch(generator, orders)]
        [1, 2]
    """
    return together(
        [
            partial(
                generator.generate,
                order.anatomy,
                order.lesions,
                key=order.key,
                stage=order.stage,
                scan=order.scan,
                weighting=order.weighting,
                device=device,
            )
            for order in orders
        ]
    )
