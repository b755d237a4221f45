r"""Plant small bright lesions into scans without any, and count how many a model finds.

    python benchmarks/planted_lesions.py default --data runs/data --output planted
    python benchmarks/planted_lesions.py default runs/other/model --scans FLAIR.nii.gz --output planted

Lesions are ellipsoids of so many ml in places of ordinary brightness, four in each scan and 22 mm apart.
Their signal is so many times the brain's median; texture and noise of the scan remain. Anybody sees the
larger and brighter ones, so that what is missed of them is the model's fault, not the scan's. Scans are
simulated ones of held-out anatomies, or ``--scans``, on which no model should be chosen. Nothing is
planted within 22 mm of what a model marks in the scan as it is.
"""

import argparse
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from anystroke.core.arrays import Array
from anystroke.core.volume import Volume
from anystroke.io.formats import read_scan
from anystroke.simulation.cohorts import held_out_pack
from anystroke.tasks.segmentation.predict import Model, segment
from anystroke.tasks.segmentation.validate import simulated_patients

SEED = 20261128
TOGETHER = 4
APART_MM = 22.0
DEPTH_MM = (5.0, 22.0)
BRIGHTNESS = (0.75, 1.2)
EDGE_MM = 0.5


def hosts(options: argparse.Namespace) -> Iterator[tuple[str, Volume]]:
    """Name the scans to plant in: group and scan."""
    for path in options.scans:
        yield path.name, read_scan(path)
    if options.data is not None:
        weightings = options.weightings.split(",")
        for patient in simulated_patients(
            held_out_pack(options.data), count=0, healthy=options.patients, seed=SEED, weightings=weightings
        ):
            yield patient.groups["weighting"], patient.scan


def places(scan: Volume, models: Sequence[Model]) -> tuple[Array, float]:
    """Return voxels to plant at, (N, 3), where no model marks anything, and the median of the brain."""
    plain = [segment(scan, model) for model in models]
    brain = plain[0].brain
    if brain is None:
        raise SystemExit("expected a first model that tells the healthy brain")
    image = scan.data[0].numpy()
    shown = replace(brain, data=brain.data.float()).resample_to(scan.affine, scan.shape)
    inside = shown.data[0].numpy() > 0.5
    depth = ndimage.distance_transform_edt(inside, sampling=scan.spacing)
    median = float(np.median(image[inside]))
    marked = np.any([each.mask.data[0].bool().numpy() for each in plain], axis=0)
    if marked.any():
        inside &= ndimage.distance_transform_edt(~marked, sampling=scan.spacing) > APART_MM
    inside &= (depth > DEPTH_MM[0]) & (depth < DEPTH_MM[1])
    inside &= (image > BRIGHTNESS[0] * median) & (image < BRIGHTNESS[1] * median)
    return np.argwhere(inside), median


def plant(
    scan: Volume, where: Array, level: float, volume_ml: float, rng: np.random.Generator
) -> tuple[Volume, list[Array]]:
    """Return a scan with lesions whose signal is ``level``, and the (X, Y, Z) mask of each."""
    image, spacing = scan.data[0].numpy(), np.array(scan.spacing)
    chosen: list[Array] = []
    for centre in rng.permutation(where)[:2000]:
        if all(np.linalg.norm((centre - other) * spacing) > APART_MM for other in chosen):
            chosen.append(centre)
        if len(chosen) == TOGETHER:
            break
    radius = (volume_ml * 1000 * 0.75 / math.pi) ** (1 / 3)
    index = np.moveaxis(np.indices(image.shape), 0, -1)
    share, masks = np.zeros(image.shape), []
    for centre in chosen:
        axes = np.exp(rng.normal(0, 0.2, 3))
        axes *= radius / np.prod(axes) ** (1 / 3)
        away = np.sqrt((((index - centre) * spacing / axes) ** 2).sum(-1))
        share = np.maximum(share, 1 / (1 + np.exp(np.clip((away - 1) * radius / EDGE_MM, -50, 50))))
        masks.append(away <= 1)
    texture = image - ndimage.gaussian_filter(image, 2 / spacing)
    made = image * (1 - share) + share * (level + texture)
    return replace(scan, data=torch.from_numpy(made.astype(np.float32))[None]), masks


def draw(scan: Volume, masks: Sequence[Array], found: Array, path: Path) -> None:
    """Draw the slices through the planted lesions: green outlines where found, red where missed."""
    image = scan.data[0].numpy()
    figure = Figure(figsize=(3 * len(masks), 3.4), facecolor="white")
    for cell, mask in zip(figure.subplots(1, len(masks), squeeze=False)[0], masks, strict=True):
        layer = int(mask.sum((0, 1)).argmax())
        cell.imshow(image[:, :, layer].T, cmap="gray", origin="lower", vmax=np.quantile(image, 0.999))
        cell.contour(
            mask[:, :, layer].T, [0.5], colors="lime" if (mask & found).any() else "red", linewidths=0.8
        )
        cell.axis("off")
    figure.tight_layout()
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="names or folders")
    parser.add_argument("--scans", type=Path, nargs="+", default=[])
    parser.add_argument("--data", type=Path, help="packed data, whose held-out anatomies are simulated")
    parser.add_argument("--weightings", default="DWI,FLAIR")
    parser.add_argument("--patients", type=int, default=12, help="simulated scans")
    parser.add_argument("--volumes", type=float, nargs="+", default=[0.1, 0.3, 1.0, 3.0], help="ml")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.4, 1.8, 2.4], help="times the median")
    parser.add_argument("--repeats", type=int, default=1, help="of each volume and ratio in each scan")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    options = parser.parse_args()
    if not options.scans and options.data is None:
        parser.error("expected --scans or --data, to have something to plant in")
    options.output.mkdir(parents=True, exist_ok=True)
    models = {name: Model.open(name) for name in options.models}
    rows = []
    for number, (group, scan) in enumerate(hosts(options)):
        rng = np.random.default_rng([SEED, number])
        where, median = places(scan, list(models.values()))
        if not len(where):
            print(f"no place to plant in scan {number} ({group})")
            continue
        for volume, ratio, turn in product(options.volumes, options.ratios, range(options.repeats)):
            planted, masks = plant(scan, where, ratio * median, volume, rng)
            for name, model in models.items():
                result = segment(planted, model)
                found, sure = (
                    result.mask.data[0].bool().numpy(),
                    result.prediction.probability.data[0].numpy(),
                )
                rows += [
                    {
                        "model": name,
                        "scan": f"{number}-{group}",
                        "group": group,
                        "volume_ml": volume,
                        "ratio": ratio,
                        "found": int((mask & found).any()),
                        "highest_probability": round(float(sure[mask].max()), 4),
                    }
                    for mask in masks
                    if mask.any()
                ]
                if turn == 0:
                    stem = f"{Path(name).name}-{number}-{group.split('.')[0]}-{volume}ml-{ratio}"
                    draw(planted, masks, found, options.output / f"{stem}.png")
    if not rows:
        raise SystemExit("expected a scan with room for a lesion, but there is none; give whole brains")
    with (options.output / "planted.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    keys = dict.fromkeys((row["model"], row["group"], row["volume_ml"], row["ratio"]) for row in rows)
    for key in sorted(keys):
        some = [r for r in rows if (r["model"], r["group"], r["volume_ml"], r["ratio"]) == key]
        share = np.mean([r["found"] for r in some])
        middle = np.median([r["highest_probability"] for r in some])
        name, group, volume, ratio = key
        print(
            f"{name}  {group}  {volume} ml, {ratio} times: found {share:.2f} of {len(some)}, p {middle:.2f}"
        )


if __name__ == "__main__":
    main()
