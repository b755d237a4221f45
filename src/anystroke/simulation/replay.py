"""Make a simulated scan again from its record."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from anystroke.anatomy.lesions.bank import LesionMask
from anystroke.anatomy.tissues.anatomies import Anatomy, anatomy_called
from anystroke.simulation.generator import Generator, Sample
from anystroke.simulation.settings import SynthesisSettings


def regenerate(
    record: Mapping[str, Any],
    anatomies: Iterable[Anatomy],
    masks: Sequence[LesionMask],
    *,
    device: torch.device | str = "cpu",
) -> Sample:
    """Make a sample again from its record: to the bit on the CPU, but for rounding on a GPU.

    Args:
        record: ``Sample.record``, or what was read back from JSON.
        anatomies: Hold the patient, found by name.
        masks: Those that the generator drew from, in the same order; or those that it was given.
        device: Where to compute.

    Raises:
        ValueError: If the anatomy or a lesion is not there, or the record is that of another version.
    """
    if "shown_on" not in record:
        raise ValueError("expected a record of this version, got one without 'shown_on'; simulate anew")
    anatomy = anatomy_called(record["anatomy"], anatomies)
    settings = SynthesisSettings.model_validate(record["settings"])
    generator = Generator(settings, masks)
    lesions = None
    if not record["lesions_drawn"]:
        by_name = {mask.name: mask for mask in masks}
        if missing := [name for name in record["lesions"] if name not in by_name]:
            raise ValueError(f"expected a lesion mask called {missing[0]!r}, but it is not among those given")
        lesions = [by_name[name] for name in record["lesions"]]
    shown_on = record["shown_on"]
    patient = generator.patient(
        anatomy, lesions, key=record["key"], stage=record["stage"], shown_on=shown_on, device=device
    )
    drawn_as = {name: record[name] for name in ("scan", "weighting", "field_strength")}
    sample = generator.scan(patient, **drawn_as)
    # A record from before a setting was there means the setting's default.
    drawn = {**record, "settings": settings.model_dump(mode="json")}
    if not _same_draws(sample.record, drawn):
        raise ValueError("the lesion masks are not those that the sample was drawn from; give the same bank")
    return sample


def _same_draws(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether records tell of the same draws; what was measured in the image may differ by rounding."""
    apart = "visibility"
    if {**record, apart: None} != {**other, apart: None}:
        return False
    volumes = [sum(float(lesion["ml"]) for lesion in each.get(apart, ())) for each in (record, other)]
    return math.isclose(volumes[0], volumes[1], rel_tol=0.01, abs_tol=0.05)
