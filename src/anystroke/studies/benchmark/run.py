"""Judge models on the benchmark's patients."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from anystroke.core.tables import Cell, read_rows, write_table
from anystroke.core.volume import Volume
from anystroke.evaluation.cases import Pair, PairsFound
from anystroke.evaluation.evaluate import evaluate_pairs, write_measurements
from anystroke.evaluation.metrics.measure import METRICS, MetricSettings, load_settings
from anystroke.evaluation.results import Results, load_results
from anystroke.reports.comparison import CompareSettings, compare_results
from anystroke.reports.published import PublishedTable
from anystroke.studies.benchmark.effects import measure_effects
from anystroke.studies.benchmark.page import BENCHMARK_PAGE, mean_score, write_benchmark_page
from anystroke.studies.benchmark.patients import SCANS, BenchmarkError, Design, simulate_scans
from anystroke.tasks.segmentation.predict import Model, segment

BENCHMARK_TABLE, EFFECTS = "benchmark.tsv", "effects.tsv"
THRESHOLD_MODEL = "threshold"
_FLIP = "+flip"
_BRIGHTEST = 0.02
_EFFECTS = (
    "model", "factor", "level", "sequence", "metric", "pairs", "standard", "changed", "difference", "low",
    "high",
)  # fmt: skip
_FACTS = (
    "patient", "factor", "level", "sequence", "stage", "size_ml", "slice_mm", "snr", "head",
    "contrast_to_noise", "contrast",
)  # fmt: skip

Segmenter = Callable[[Volume], tuple[Volume, Volume | None]]


@dataclass(frozen=True, eq=False)
class Benchmark:
    """What the benchmark made.

    Attributes:
        page: The report.
        table: One row a scan and model.
        means: Mean Dice of each model over scans with a lesion.
        failed: Sentences about scans without result.
    """

    page: Path
    table: Path
    means: Mapping[str, float]
    failed: tuple[str, ...]


def open_segmenter(name: str) -> Segmenter:
    """Open what is to be judged.

    Args:
        name: A shipped model or a model folder, with ``+flip`` for averaging with the mirrored head; or
            ``threshold``, a baseline that has learned nothing.

    Raises:
        CheckpointError: There is no such model.
    """
    if name == THRESHOLD_MODEL:
        return threshold_baseline
    flip = name.endswith(_FLIP)
    model = Model.open(name.removesuffix(_FLIP))

    def run(scan: Volume) -> tuple[Volume, Volume | None]:
        found = segment(scan, model, flip=flip)
        return found.mask, found.probability

    return run


def threshold_baseline(scan: Volume) -> tuple[Volume, Volume | None]:
    """Call lesion what is most unlike the rest of the brain: the 2 % of voxels with the most unusual signal.

    Args:
        scan: One channel.

    Returns:
        The mask, and no probability.
    """
    values = ndimage.gaussian_filter(scan.data[0].numpy(), [1.0 / step for step in scan.spacing])
    head = ndimage.binary_fill_holes(values > 0.25 * np.percentile(values, 99))
    depth = ndimage.distance_transform_edt(head, sampling=scan.spacing)
    inside = depth > min(14.0, 0.4 * float(depth.max()))
    mask = np.zeros(values.shape, bool)
    if inside.any():
        unusual = np.abs(values - np.median(values[inside]))
        mask = inside & (unusual > np.quantile(unusual[inside], 1 - _BRIGHTEST))
    return Volume(torch.from_numpy(mask)[None], scan.affine), None


def run_benchmark(
    names: Sequence[str],
    folder: Path,
    design: Design,
    *,
    settings: MetricSettings | None = None,
    published: Sequence[PublishedTable] = (),
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda text: None,
) -> Benchmark:
    """Simulate the patients, segment their scans with each model, and write what came of it.

    Args:
        names: Models, as `open_segmenter` takes them.
        folder: Gets ``scans``, ``predictions`` and ``scores`` with a folder a model, ``comparison``, one
            page and two tables. Scans of the same design that are there are used again.
        design: The patients.
        settings: What metrics mean.
        published: Published figures to print beside.
        overwrite: Replace the scans of another design.
        on_step: Called with a word on each scan that is done.

    Raises:
        BenchmarkError: Names are not unique, or the scans cannot be made.
        CheckpointError: There is no such model.
        OSError: The folder cannot be written.
    """
    settings = settings or load_settings()
    titles = model_titles(names)
    segmenters = [open_segmenter(name) for name in names]
    scans = folder / "scans"
    for name, note in simulate_scans(design, scans, overwrite=overwrite):
        on_step(note or f"simulated {name}")
    rows = read_rows(scans / SCANS)
    results: list[Results] = []
    failed: list[str] = []
    for title, segmenter in zip(titles, segmenters, strict=True):
        cases, problems = _predict(segmenter, rows, scans, folder / "predictions" / title, on_step)
        evaluated = list(evaluate_pairs(cases, settings=settings))
        failed += [*problems, *(f"{title}: {one.message}" for one in evaluated if one.status == "failed")]
        scores = folder / "scores" / title
        write_measurements(scores, evaluated, PairsFound(tuple(cases)), settings=settings, name=title)
        results.append(load_results(scores))
    compared = CompareSettings(by=("sequence", "factor", "stage", "slice_mm", "snr", "head", "contrast"))
    compare_results(results, folder / "comparison", compared, published=published)
    effects = [effect for one in results for effect in measure_effects(one)]
    write_table(folder / EFFECTS, _EFFECTS, ({**vars(e), "difference": e.difference} for e in effects))
    _write_rows(folder / BENCHMARK_TABLE, results)
    means = {one.name: mean_score(one.cases.values(), "dice") for one in results}
    write_benchmark_page(folder, results, effects, design, published, failed)
    return Benchmark(folder / BENCHMARK_PAGE, folder / BENCHMARK_TABLE, means, tuple(failed))


def model_titles(names: Sequence[str]) -> list[str]:
    """Name models by the last part of their path.

    Raises:
        BenchmarkError: Two names are the same.

    Example:
        >>> model_titles(["default", "runs/mine/model"])
        ['default', 'model']
    """
    titles = [re.sub(r"[^A-Za-z0-9.+_-]", "-", Path(name).name) for name in names]
    if doubles := sorted({title for title in titles if titles.count(title) > 1}):
        raise BenchmarkError(f"expected models of different names, got {doubles[0]} twice; rename a folder")
    return titles


def _predict(
    segmenter: Segmenter,
    rows: Sequence[Mapping[str, str]],
    scans: Path,
    folder: Path,
    on_step: Callable[[str], None],
) -> tuple[list[Pair], list[str]]:
    """Segment every scan; one that fails is a case without prediction."""
    folder.mkdir(parents=True, exist_ok=True)
    cases, problems = [], []
    for row in rows:
        name = row["id"]
        scan, truth = scans / f"{name}.nii.gz", scans / f"{name}_label-L_mask.nii.gz"
        mask, probability = folder / f"{name}_label-L_mask.nii.gz", folder / f"{name}_label-L_probseg.nii.gz"
        facts = {key: row[key] for key in _FACTS}
        try:
            found, sure = segmenter(Volume.load(scan))
        except (ValueError, RuntimeError) as error:
            problems.append(f"{folder.name}: {scan}: {' '.join(str(error).split())}")
            cases.append(Pair(name, None, truth, scan=scan, facts=facts))
            continue
        found.save(mask, overwrite=True)
        if sure is not None:
            sure.save(probability, overwrite=True)
        cases.append(Pair(name, mask, truth, probability if sure is not None else None, scan, facts))
        on_step(f"{folder.name}: {name}")
    return cases, problems


def _write_rows(path: Path, results: Sequence[Results]) -> None:
    measured = [m for m in METRICS if any(m in c.values for one in results for c in one.cases.values())]
    rows: list[dict[str, Cell]] = [
        {"model": one.name, "id": case.id, **case.facts, **case.values}
        for one in results
        for case in one.cases.values()
    ]
    write_table(path, ("model", "id", *_FACTS, *measured), rows)
