"""Errors of an estimator of quantitative maps: on held-out simulated heads, and its ratios on real T1w scans.

    python benchmarks/estimator_error.py run/model --data run/data --heads 24 -o docs/estimator
    python benchmarks/estimator_error.py run/model --scan T1.mgz:aseg.mgz --scan T1w.nii.gz -o docs/estimator

Writes ``estimator.json`` and ``estimator.md``. Errors are of voxels and of the tissue's mean in a head;
beside them are those of who knows the tissue of each voxel and the mean of the population, but no scan.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from anystroke.anatomy.lesions.bank import blob_lesion
from anystroke.anatomy.tissues.classes import CLASSES
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.io.formats import read_scan
from anystroke.qmri.estimated_maps import MAP_OUTPUTS
from anystroke.qmri.units_check import UNITS
from anystroke.simulation.cohorts import Pack, held_out_pack
from anystroke.tasks.qmri.calibrate import heads_to_estimate, measure_errors, scan_of_head
from anystroke.tasks.qmri.predict import (
    NEEDED_TISSUES,
    Estimator,
    QmriEstimate,
    estimate_maps,
    estimate_qmri,
    named_protocols,
)
from anystroke.tasks.segmentation.predict import Model, segment

FREESURFER = {"white_matter": (2, 41), "grey_matter": (3, 42), "csf": (4, 43)}
SEED = 20261122


def simulated(estimator: Estimator, data: Path, heads: int) -> list[dict[str, Any]]:
    """Return one row for each tissue and map; the lesion is a tissue of its own."""
    pack = held_out_pack(data)
    errors = measure_errors(
        estimator,
        pack,
        heads=heads,
        seed=SEED,
        on_head=lambda done: print(f"head {done} of {heads}", flush=True),
    )
    rows = []
    for (tissue, name), error in sorted(errors.result().items()):
        rows.append(
            {
                "tissue": tissue,
                "map": name,
                "unit": UNITS[name],
                "heads": error.heads,
                "truth": error.truth,
                "bias": error.bias,
                "bias_percent": 100 * error.bias / error.truth if error.truth else None,
                "sd": error.sd,
                "sd_of_population_mean": error.spread,
                "rmse_of_head_mean": error.sd_of_means,
                "rmse_of_head_mean_percent": 100 * error.sd_of_means / error.truth if error.truth else None,
                "sd_of_head_means": error.spread_of_means,
            }
        )
    return rows


def real(estimator: Estimator, segmenter: Model, scan: Path, labels: Path | None) -> dict[str, Any]:
    """Return the ratios of tissues, and how a scan correlates with its simulation."""
    volume = read_scan(scan)
    found = segment(volume, segmenter, tissues=NEEDED_TISSUES)
    estimate = estimate_qmri(volume, estimator, segmentation=found)
    if labels is None:
        inside = {name: found.tissues[name].data[0] > 0.9 for name in NEEDED_TISSUES}
    else:
        numbers = Volume.load(labels).resample_to(volume.affine, volume.shape, "nearest").data[0].round()
        inside = {
            name: torch.isin(numbers, torch.tensor(FREESURFER[name]).float()) for name in NEEDED_TISSUES
        }
    medians = {
        name: {tissue: _median(values.data[0], where) for tissue, where in inside.items()}
        for name, values in estimate.maps.items()
    }
    return {
        "scan": scan.name,
        "labels": None if labels is None else labels.name,
        "medians": medians,
        "r1_white_over_grey": _ratio(medians, "r1", "white_matter"),
        "mt_white_over_grey": _ratio(medians, "mt_saturation", "white_matter"),
        "r1_csf_over_grey": _ratio(medians, "r1", "csf"),
        "correlation": estimate.correlation,
        "warnings": list(estimate.warnings),
        "looks": _looks(estimate, inside),
    }


def _median(values: Tensor, where: Tensor) -> float:
    return float(values[where].median()) if bool(where.any()) else float("nan")


def _ratio(medians: dict[str, dict[str, float]], name: str, tissue: str) -> float | None:
    if name not in medians or not medians[name]["grey_matter"]:
        return None
    return medians[name][tissue] / medians[name]["grey_matter"]


def _looks(estimate: QmriEstimate, inside: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return the medians of simulated FLAIR and T2w by tissue."""
    images = {p.weighting: estimate.simulate(p).data[0] for p in named_protocols(["FLAIR", "T2w"])}
    return {
        weighting: {tissue: _median(image, where) for tissue, where in inside.items()}
        for weighting, image in images.items()
    }


def markdown(result: dict[str, Any]) -> str:
    """Return tables of all that was measured."""
    lines = [f"# Errors of the estimator {result['model']}", ""]
    if rows := result["simulated"]:
        lines += [
            f"Held-out simulated heads of 1 mm: {result['heads']}. Percent of the true mean in brackets; "
            "beside each error that of who knows tissue and population alone.",
            "",
            "| tissue | map | unit | true | bias | SD | SD by population | RMSE of a head's mean | its SD |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            share, own = (
                "" if row[key] is None else f" ({row[key]:.1f} %)"
                for key in ("bias_percent", "rmse_of_head_mean_percent")
            )
            lines.append(
                f"| {row['tissue']} | {row['map']} | {row['unit']} | {row['truth']:.3g} | "
                f"{row['bias']:+.3g}{share} | {row['sd']:.3g} | {row['sd_of_population_mean']:.3g} | "
                f"{row['rmse_of_head_mean']:.3g}{own} | {row['sd_of_head_means']:.3g} |"
            )
    if rows := result["real"]:
        lines += [
            "",
            "| scan | R1 WM/GM | MT WM/GM | R1 CSF/GM | correlation of the simulated scan | warnings |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            values = (row["r1_white_over_grey"], row["mt_white_over_grey"], row["r1_csf_over_grey"])
            shown = " | ".join("n/a" if value is None else f"{value:.2f}" for value in values)
            lines.append(
                f"| {row['scan']} | {shown} | {row['correlation']:.3f} | "
                f"{' '.join(row['warnings']) or 'none'} |"
            )
    return "\n".join(lines) + "\n"


def draw(estimator: Estimator, path: Path) -> None:
    """Draw a simulated head of the MNI152 brain with a lesion: true maps above estimated ones."""
    names = estimator.config.maps
    lesion = blob_lesion(centre=(-38.0, 4.0, 12.0), volume_ml=40.0, rng=stream(SEED, "lesion"), name="blob")
    pack = Pack([mni_anatomy()], [lesion])
    [head] = heads_to_estimate(estimator.config, pack, count=1, seed=SEED)
    found = estimate_maps(scan_of_head(head), estimator)
    z = int((head.classes == CLASSES.index("lesion")).sum((0, 1)).argmax())
    figure = Figure(figsize=(2.6 * (len(names) + 1), 6.4), facecolor="black", layout="constrained")
    axes = figure.subplots(2, len(names) + 1)
    axes[0, 0].imshow(head.image[:, :, z].T, cmap="gray", origin="lower")
    axes[0, 0].set_title("simulated T1w", color="white")
    for column, (name, true) in enumerate(zip(names, head.maps, strict=True), start=1):
        limits = (0.0, 1.6 * MAP_OUTPUTS[name].typical)
        for row, (values, what) in enumerate(((true, "true"), (found[name].data[0], "estimated"))):
            axes[row, column].imshow(
                values[:, :, z].T, cmap="gray", origin="lower", vmin=limits[0], vmax=limits[1]
            )
            title = f"{what} {name.replace('_', ' ')} [{UNITS[name]}]"
            axes[row, column].set_title(title, color="white", fontsize=9)
    for each in axes.flat:
        each.set_axis_off()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model folder, or the name of a shipped estimator")
    parser.add_argument("--data", type=Path, help="folder with held_out_anatomies and held_out_lesions")
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--scan", action="append", default=[], metavar="T1W[:ASEG]")
    parser.add_argument("--segmenter", default="default")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="true and estimated maps of one head")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    estimator = Estimator.open(arguments.model)
    if arguments.picture:
        draw(estimator, arguments.picture)
    result: dict[str, Any] = {
        "model": estimator.config.name,
        "sha256": estimator.sha256,
        "training": estimator.config.training,
        "heads": arguments.heads if arguments.data else 0,
        "seed": SEED,
        "simulated": simulated(estimator, arguments.data, arguments.heads) if arguments.data else [],
        "real": [],
    }
    for text in arguments.scan:
        scan, _, labels = text.partition(":")
        segmenter = Model.open(arguments.segmenter)
        result["real"].append(real(estimator, segmenter, Path(scan), Path(labels) if labels else None))
        print(f"{scan} is done", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "estimator.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (arguments.output / "estimator.md").write_text(markdown(result), encoding="utf-8")


if __name__ == "__main__":
    main()
