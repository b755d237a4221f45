"""Measure a model of ``downstream/tissues`` on a real scan with labels in FreeSurfer's numbers.

    python benchmarks/tissues_real.py runs/tissues/model --scan T1.mgz --labels aseg.mgz --output tissues

FreeSurfer labels no fluid around the brain, so that its fluid is that of the ventricles: the Dice of fluid is
given where there are labels alone, those of grey and white matter over the whole head and there.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anystroke.anatomy.tissues.classes import CLASS_OF_TISSUE
from anystroke.anatomy.tissues.label_maps import load_label_map
from anystroke.anatomy.tissues.labels import to_tissues
from anystroke.core.arrays import Array
from anystroke.core.files import write_json
from anystroke.core.volume import Volume
from anystroke.evaluation.metrics.overlap import dice
from anystroke.io.formats import read_scan
from anystroke.tasks.tissues.predict import TissueModel, segment_tissues
from anystroke.tasks.tissues.sources import LEARNT_TISSUES


def labelled_tissues(path: Path, scan: Volume) -> Volume:
    """Read labels as numbers of ``LEARNT_TISSUES``, uint8 (1, X, Y, Z) on the grid of the scan."""
    labels, scheme = load_label_map(path)
    difference = labels.grid.difference(scan.grid, tolerance=0.1)
    if difference:
        raise SystemExit(f"expected labels on the grid of the scan, but {path} differs: {difference}")
    tissues = to_tissues(labels.data[0], scheme, spacing=labels.spacing[0])
    return Volume(CLASS_OF_TISSUE[tissues.long()][None], labels.affine)


def scores(found: Volume, truth: Volume) -> dict[str, float]:
    """Return the Dice of each tissue, over the whole head and where there are labels."""
    a, b = found.data[0], truth.data[0]
    labelled = b > 0
    made = {}
    for number, name in enumerate(LEARNT_TISSUES[1:], 1):
        if name != "csf":
            made[f"{name}_dice"] = dice(a == number, b == number)
        made[f"{name}_dice_where_labelled"] = dice((a == number) & labelled, b == number)
    return made


def draw(scan: Volume, found: Volume, truth: Volume, path: Path) -> None:
    """Draw a section of each axis: scan, labels, what was found."""
    views = [volume.reorient("RAS").data[0].numpy() for volume in (scan, truth, found)]
    figure = Figure(figsize=(9, 9), facecolor="white")
    for row, axis in zip(figure.subplots(3, 3), range(3), strict=True):
        for cell, view, title in zip(row, views, ("scan", "labels", "found"), strict=True):
            flat: Array = view.take(view.shape[axis] // 2, axis=axis).T[::-1]
            cell.imshow(flat, cmap="gray" if title == "scan" else "viridis", interpolation="nearest")
            cell.set_title(title)
            cell.axis("off")
    figure.tight_layout()
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    scan = read_scan(options.scan)
    truth = labelled_tissues(options.labels, scan)
    found = segment_tissues(scan, TissueModel.load(options.model))
    made = scores(Volume(found.data.to(torch.uint8), found.affine), truth)
    write_json(options.output / "dice.json", made)
    draw(scan, found, truth, options.output / "sections.png")
    for name, value in made.items():
        print(f"{name:>36}: {value:.3f}")


if __name__ == "__main__":
    main()
