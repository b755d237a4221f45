"""A picture of estimated maps beside their scan and what was simulated of them, and a page about them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from anystroke.core.arrays import Array
from anystroke.core.volume import Volume
from anystroke.qmri.estimated_maps import MAP_OUTPUTS
from anystroke.reports.estimate import draw_maps, write_estimate_report
from anystroke.reports.slices import Shown
from anystroke.simulation.patient_files import MAP_FILES
from anystroke.tasks.qmri.predict import QmriEstimate

_BRIGHTEST = 1.6  # of a map, in units of what is typical


def draw_estimate(
    estimate: QmriEstimate,
    simulated: Mapping[str, Volume],
    path: str | Path,
    *,
    title: str = "",
    overwrite: bool = False,
) -> None:
    """Draw an axial and a coronal slice of scan, scan simulated again, maps and simulated images, as a PNG.

    Each map's grey levels run from 0 to a value that is written above it, the same for all scans; those of
    images from the 0.5th percentile to the brain's 99.5th.

    Args:
        estimate: What was found.
        simulated: Name -> image of it, on the grid of the scan.
        path: The PNG to write; its folder must exist.
        title: A line above the picture.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is False.
    """
    mask = estimate.brain.reorient("RAS")
    brain, spacing = (mask.data[0] > 0).numpy(), mask.spacing
    images = {"scan": estimate.scan, "simulated again": estimate.resimulated}
    panels = {name: _image(volume, brain, spacing) for name, volume in images.items()}
    for name, volume in estimate.maps.items():
        high = _BRIGHTEST * MAP_OUTPUTS[name].typical
        suffix, units, _ = MAP_FILES[name]
        words = f"{suffix}, 0 to {high:.3g} {units}"
        panels[words] = Shown(_values(volume), spacing, limits=(0.0, high))
    panels |= {f"simulated {name}": _image(volume, brain, spacing) for name, volume in simulated.items()}
    words = "   ".join(part for part in (title, f"correlation {estimate.correlation:.3f}") if part)
    draw_maps(panels, brain, path, title=words, overwrite=overwrite)


def write_estimate_page(
    estimate: QmriEstimate, path: Path, picture: Path, *, stem: str, assumed: Mapping[str, str] | None = None
) -> None:
    """Write a page about the maps of one scan.

    Args:
        estimate: What was found.
        path: The HTML file.
        picture: What ``draw_estimate`` drew.
        stem: Begin of the names of the scan's files.
        assumed: What of the protocol its sidecar did not tell, and why it was taken.

    Raises:
        OSError: A file cannot be read or written.
    """
    mask = estimate.brain.data[0] > 0
    rows = []
    for name, volume in estimate.maps.items():
        suffix, units, description = MAP_FILES[name]
        quartiles = np.percentile(volume.data[0][mask].float().numpy(), (25, 50, 75))
        file = f"{stem}_desc-estimated_{suffix}.nii.gz"
        rows.append((description, file, units, *(f"{value:.3g}" for value in quartiles)))
    model = f"{estimate.model} {estimate.model_version}, SHA-256 {estimate.model_sha256[:12]}"
    adjusted = "yes, to the protocol of the scan" if estimate.refined else "no"
    facts = [
        ("Protocol", estimate.protocol.describe()),
        ("Correlation of the scan simulated again", f"{estimate.correlation:.3f}"),
        ("Field of the maps", f"{estimate.field_strength:g} T"),
        ("Refined", adjusted),
        ("Model", model),
    ]
    write_estimate_report(
        path, name=stem, picture=picture, facts=facts, maps=rows, warnings=estimate.warnings, assumed=assumed
    )


def _values(volume: Volume) -> Array:
    values: Array = replace(volume, data=volume.data[:1].to(torch.float32)).reorient("RAS").data[0].numpy()
    return values


def _image(volume: Volume, brain: Array, spacing: tuple[float, float, float]) -> Shown:
    values = _values(volume)
    limits = (float(np.percentile(values, 0.5)), float(np.percentile(values[brain], 99.5)))
    return Shown(values, spacing, limits)
