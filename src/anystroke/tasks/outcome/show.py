"""Pictures of what models see of a few patients."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anystroke.core.arrays import Array
from anystroke.core.files import atomic_path
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.explain import region_map
from anystroke.tasks.outcome.models import PICTURES, Transform
from anystroke.tasks.outcome.pictures import one_picture, scan_on_grid, symbols_of
from anystroke.tasks.outcome.scan_features import SIDED_REGIONS, asymmetry_of
from anystroke.tasks.outcome.table import OutcomeError


def show_representations(cohort: OutcomeCohort, folder: Path, patients: int = 3) -> Path:
    """Draw every representation of the first patients.

    Args:
        cohort: Patients with lesions or scans.
        folder: Made if missing; gets a PNG a patient, the asymmetry of scans, and the patterns of the
            low-rank representation.
        patients: How many.

    Returns:
        The folder.

    Raises:
        OutcomeError: There are neither lesions nor scans.
    """
    if not cohort.lesions and not cohort.images:
        raise OutcomeError("--show draws images, but there are none; give --masks or --images")
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(min(patients, len(cohort.ids))):
        volume = scan_on_grid(cohort.images[k]) if cohort.images else cohort.lesions[k].dense()
        figure = Figure(figsize=(4 * len(PICTURES), 4.4), facecolor="white")
        for axes, name in zip(figure.subplots(1, len(PICTURES)), PICTURES, strict=True):
            drawn = one_picture(volume, name, symbols_of(cohort, k))
            flat = drawn if drawn.ndim == 2 else drawn.max(axis=2).T[::-1]
            axes.imshow(flat, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(name)
            axes.axis("off")
        _save(figure, folder / f"{cohort.ids[k]}.png")
        if cohort.images:
            _show_asymmetry(volume, folder / f"{cohort.ids[k]}_asymmetry.png")
    if cohort.measured is not None and len(cohort.ids) >= 12:
        _show_patterns(cohort, folder / "low-rank.png")
    return folder


def _show_asymmetry(volume: Array, path: Path) -> None:
    """Draw a scan, and by how much its regions are darker than their mirror images, seen from above."""
    darker = region_map(dict(zip(SIDED_REGIONS, np.minimum(asymmetry_of(volume), 0).tolist(), strict=True)))
    figure = Figure(figsize=(8, 4.4), facecolor="white")
    shown = (("scan, middle section", volume[:, :, volume.shape[2] // 2]), ("asymmetry", darker.max(axis=2)))
    for axes, (title, flat) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        axes.imshow(flat.T[::-1], cmap="gray", interpolation="nearest")
        axes.set_title(title)
        axes.axis("off")
    _save(figure, path)


def _show_patterns(cohort: OutcomeCohort, path: Path) -> None:
    """Draw the first patterns of the low-rank representation, seen from above."""
    transform = Transform.fit(("low-rank",), cohort)
    shown = transform.components[:6].reshape(-1, *(cohort.measured.maps.shape[1:] if cohort.measured else ()))
    figure = Figure(figsize=(3 * len(shown), 3.4), facecolor="white")
    for k, axes in enumerate(np.atleast_1d(figure.subplots(1, len(shown)))):
        flat = shown[k].sum(axis=2).T[::-1]
        most = float(np.abs(flat).max()) or 1.0
        axes.imshow(flat, cmap="RdBu_r", vmin=-most, vmax=most)
        axes.set_title(f"pattern {k + 1}")
        axes.axis("off")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    with atomic_path(path, overwrite=True) as part:
        FigureCanvasAgg(figure).print_figure(str(part), dpi=90, format="png")
