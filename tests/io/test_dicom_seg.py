from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.io.dicom_seg import write_dicom_seg
from dicom_phantom import write_series
from stand_in import axial_affine, lesion_truth, phantom, rotation

highdicom: Any = pytest.importorskip("highdicom")

SHAPE = (40, 48, 36)
AFFINE = rotation(8.0, -12.0) @ axial_affine(4.0, 4.0, 5.0, shape=SHAPE)
CODES = ["".join((a, b, c)) for a in "RL" for b in "AP" for c in "SI"] + [
    "ASR",
    "PIL",
    "SLA",
    "IRP",
    "SAR",
    "ILP",
]


@pytest.mark.parametrize("orientation", CODES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_lesion_comes_back_where_it_was(orientation: str, tmp_path: Path) -> None:
    scan = phantom(AFFINE, SHAPE).reorient(orientation)
    mask = Volume(lesion_truth(AFFINE, SHAPE).to(torch.uint8), AFFINE)
    write_series(tmp_path / "in", scan)
    files = sorted((tmp_path / "in").iterdir())
    # The mask may be stored in another order than the series, as after conversion.
    write_dicom_seg(mask.reorient("LAS"), files[::-1], tmp_path / "s.dcm", model="m", model_version="1")
    found = highdicom.seg.segread(tmp_path / "s.dcm")
    assert found.Modality == "SEG"
    assert found.SegmentSequence[0].SegmentLabel == "Stroke lesion"
    assert found.SeriesDescription == "Stroke lesion, research use only"
    volume = found.get_volume()
    data = np.asarray(volume.array).reshape(*volume.array.shape[:3])
    index = np.argwhere(data > 0)
    centre = (np.diag([-1, -1, 1, 1.0]) @ volume.affine @ [*index.mean(axis=0), 1.0])[:3]
    true = (AFFINE.numpy() @ [*np.argwhere(mask.data[0].numpy()).mean(axis=0), 1.0])[:3]
    np.testing.assert_allclose(centre, true, atol=0.01)
    assert len(index) == int(mask.data.sum())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_lesion(tmp_path: Path) -> None:
    scan = phantom(AFFINE, SHAPE)
    write_series(tmp_path / "in", scan)
    empty = Volume(torch.zeros_like(scan.data), scan.affine)
    write_dicom_seg(
        empty, sorted((tmp_path / "in").iterdir()), tmp_path / "s.dcm", model="m", model_version="1"
    )
    assert highdicom.seg.segread(tmp_path / "s.dcm").pixel_array.sum() == 0
