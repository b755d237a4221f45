"""The picture of estimated maps."""

import dataclasses
import pathlib
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch

from anystroke.acquisition.presets.preset import load_preset
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.qmri.estimated_maps import MAP_OUTPUTS
from anystroke.reports.theme import embed
from anystroke.tasks.qmri.picture import draw_estimate, write_estimate_page
from anystroke.tasks.qmri.predict import QmriEstimate
from stand_in import axial_affine

SHAPE = (48, 56, 44)
AFFINE = axial_affine(4.0, 4.0, 4.0, shape=SHAPE)
NAMES = ("proton_density", "r1", "r2star", "mt_saturation")


def _estimate(orientation: str) -> QmriEstimate:
    """A round brain that is brighter where x < 0, on the patient's left, and typical in its maps."""
    grid = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    brain = (grid[0] ** 2 + grid[1] ** 2 + grid[2] ** 2 < 0.5).float()
    image = brain * torch.where(grid[0] < 0, 2.0, 1.0)

    def volume(data: torch.Tensor) -> Volume:
        return Volume(data[None], AFFINE).reorient(orientation)

    return QmriEstimate(
        scan=volume(image),
        maps={name: volume(brain * MAP_OUTPUTS[name].typical) for name in NAMES},
        brain=volume(brain.to(torch.uint8)),
        field_strength=3.0,
        protocol=load_preset("typical").sample(stream(0), weighting="T1w"),
        resimulated=volume(image),
        correlation=1.0,
        refined=False,
        warnings=(),
        model="toy",
        model_version="1",
        model_sha256="",
        flips=1,
    )


def _panels(path: pathlib.Path, count: int) -> list[np.ndarray[Any, Any]]:
    """Return the axial panels, without their titles."""
    picture = np.asarray(matplotlib.image.imread(path))[..., 0]
    height, width = picture.shape
    return [
        picture[75 : height // 2, k * width // count : (k + 1) * width // count].astype(float)
        for k in range(count)
    ]


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "ASL"])
def test_left_is_on_the_right_and_maps_have_their_own_window(
    tmp_path: pathlib.Path, orientation: str
) -> None:
    estimate = _estimate(orientation)
    path = tmp_path / "maps.png"
    draw_estimate(estimate, {"FLAIR": estimate.scan}, path, title="sub-01")
    panels = _panels(path, 7)
    for number in (0, 1, 6):
        left, right = np.array_split(panels[number], 2, axis=1)
        assert right.max() > 0.95, number
        assert left.max() == pytest.approx(0.5, abs=0.05), number
    for panel in panels[2:6]:
        assert panel.max() == pytest.approx(1 / 1.6, abs=0.02)
        assert 0.1 < (panel > 0.5).mean() < 0.8


def test_a_picture_is_not_replaced_unasked(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "maps.png"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        draw_estimate(_estimate("RAS"), {}, path)
    assert path.read_bytes() == b"mine"
    draw_estimate(_estimate("RAS"), {}, path, overwrite=True)
    assert len(_panels(path, 6)) == 6


def test_the_page_has_the_picture_the_protocol_and_quartiles_within_the_brain(tmp_path: pathlib.Path) -> None:
    estimate = dataclasses.replace(_estimate("RAS"), warnings=("the head is cut off",))
    picture = tmp_path / "maps.png"
    draw_estimate(estimate, {}, picture)
    page = tmp_path / "report.html"
    write_estimate_page(estimate, page, picture, stem="sub-01", assumed={"echo_time": "0.003: usual"})
    text = page.read_text(encoding="utf-8")
    assert embed(picture) in text
    assert estimate.protocol.describe() in text
    assert "the head is cut off" in text
    assert "0.003: usual" in text
    for name in NAMES:
        assert text.count(f"<td>{MAP_OUTPUTS[name].typical:.3g}</td>") >= 3, name
