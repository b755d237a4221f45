from pathlib import Path

import pytest
import torch

from anystroke.core.volume import Volume
from anystroke.io.labelled import LabelledScan, LabelledScanError
from anystroke.io.labelled_checks import check_labelled_scans
from stand_in import axial_affine, lesion_truth, phantom

SHAPE = (40, 48, 36)
AFFINE = axial_affine(5.0, 5.0, 5.0, shape=SHAPE)


def _scan(
    folder: Path, name: str, *, mask: torch.Tensor | None = None, brighter: float = 0.0
) -> LabelledScan:
    head = phantom(AFFINE, SHAPE)
    image, drawn = folder / f"{name}_T2w.nii.gz", folder / f"{name}_lesion.nii.gz"
    Volume(head.data * (1 + brighter) + torch.arange(SHAPE[0])[:, None, None] * 0.01, AFFINE).save(image)
    lesion = lesion_truth(AFFINE, SHAPE) if mask is None else mask
    Volume(lesion.to(torch.uint8), AFFINE).save(drawn)
    return LabelledScan(f"{name}_T2w", image, drawn)


def test_a_line_says_what_each_scan_is(tmp_path: Path) -> None:
    empty = torch.zeros(1, *SHAPE)
    scans = [_scan(tmp_path, "p1"), _scan(tmp_path, "p2", mask=empty, brighter=0.5)]
    told: list[str] = []
    first, second = check_labelled_scans(scans, on_scan=lambda each: told.append(str(each)))
    volume = float(lesion_truth(AFFINE, SHAPE).sum()) * 0.125
    assert first.lesions == 1
    assert first.lesion_ml == pytest.approx(volume)
    assert told[0] == f"p1_T2w: 40 x 48 x 36 voxels of 5 x 5 x 5 mm, RAS; 1 lesion, {volume:.1f} ml"
    assert told[1].endswith("no lesion; its mask is empty: taken as a scan without a stroke")
    assert first.patient != second.patient


def test_a_mask_elsewhere_one_of_the_brain_and_a_copy_are_refused_together(tmp_path: Path) -> None:
    corner = torch.zeros(1, *SHAPE)
    corner[:, :4, :4, :4] = 1
    scans = [
        _scan(tmp_path, "p1"),
        _scan(tmp_path, "p2", mask=corner, brighter=0.1),
        _scan(tmp_path, "p3", mask=phantom(AFFINE, SHAPE).data > 50, brighter=0.2),
        _scan(tmp_path, "p4"),
    ]
    with pytest.raises(LabelledScanError) as raised:
        check_labelled_scans(scans)
    text = str(raised.value)
    assert text.startswith("3 of 4 scans cannot be used: p2_T2w: 100 % of the lesion")
    assert "does the mask belong to another scan, or is one of them mirrored?" in text
    assert "is it a mask of the brain?" in text
    assert "is the same image as" in text


def test_masks_that_are_all_empty_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(LabelledScanError, match="all are empty; check which number the lesion has"):
        check_labelled_scans([_scan(tmp_path, "p1", mask=torch.zeros(1, *SHAPE))])
