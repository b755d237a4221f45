"""Pictures of training samples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


def sample_sheet(cases: Sequence[tuple[Tensor, Tensor, Tensor, str]], path: Path) -> None:
    """Draw the largest lesion slice of each case beside its target and the predicted probability.

    Args:
        cases: ``(image, lesion, probability, title)``: three (X, Y, Z) tensors in RAS+ order and a caption.
        path: PNG to write; its folder is made.
    """
    figure = Figure(figsize=(6, 2.4 * len(cases)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(cases), 3, squeeze=False)
    for row, (image, lesion, probability, title) in zip(axes, cases, strict=True):
        area = lesion.sum((0, 1))
        z = int(area.argmax()) if float(area.max()) > 0 else lesion.shape[2] // 2
        shown = ((image, None), (lesion.float(), 1.0), (probability, 1.0))
        for axis, (volume, top) in zip(row, shown, strict=True):
            bottom = None if top is None else 0.0
            axis.imshow(volume[:, :, z].T.numpy(), cmap="gray", origin="lower", vmin=bottom, vmax=top)
            axis.set_axis_off()
        row[0].set_title(title, fontsize=7, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def map_sheet(
    image: Tensor, truth: Tensor, found: Tensor, names: Sequence[str], path: Path, *, title: str
) -> None:
    """Draw the middle slice of a scan, and of each true map beside the estimated one.

    Args:
        image: (X, Y, Z) in RAS+ order.
        truth: (K, X, Y, Z).
        found: Likewise.
        names: Of the maps.
        path: PNG to write; its folder is made.
        title: Caption.
    """
    figure = Figure(figsize=(2.2 * (len(names) + 1), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(names) + 1, squeeze=False)
    z = image.shape[2] // 2
    for row, maps in zip(axes, (truth, found), strict=True):
        row[0].imshow(image[:, :, z].T.numpy(), cmap="gray", origin="lower")
        for axis, name, volume, true in zip(row[1:], names, maps, truth, strict=True):
            top = float(true.flatten().kthvalue(max(int(0.98 * true.numel()), 1)).values)
            axis.imshow(volume[:, :, z].T.numpy(), cmap="viridis", origin="lower", vmin=0.0, vmax=top or 1.0)
            axis.set_title(name, fontsize=7)
        for axis in row:
            axis.set_axis_off()
    axes[0][0].set_title(title, fontsize=7, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def predict_lesion(network: torch.nn.Module, image: Tensor) -> Tensor:
    """Return the lesion probability (B, X, Y, Z), the last class, of normalised images (B, 1, X, Y, Z)."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        probability: Tensor = network(image).float().softmax(1)[:, -1].cpu()
    network.train(was_training)
    return probability
