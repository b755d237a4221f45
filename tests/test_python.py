"""What people write in Python: arrays with affines, nibabel images and paths in; short texts, files out."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import anystroke
from anystroke.core.volume import VolumeError
from anystroke.evaluation.masks import MaskError
from anystroke.simulation.settings import SynthesisSettings
from stand_in import axial_affine, phantom, stand_in_model

SHAPE = (48, 56, 40)
AFFINE = axial_affine(4.0, 4.0, 4.5, shape=SHAPE)


def test_arrays_nibabel_images_and_paths_are_the_same_scan(tmp_path: Path) -> None:
    scan = phantom(AFFINE, SHAPE)
    array, affine = scan.to_array()
    scan.save(tmp_path / "scan.nii.gz")
    model = stand_in_model()
    masks = [
        anystroke.segment(image, model, device="cpu", affine=given).mask.data
        for image, given in (
            (array, affine),
            (torch.from_numpy(array), torch.from_numpy(affine)),
            (nib.Nifti1Image(array, affine), None),
            (tmp_path / "scan.nii.gz", None),
            (scan, None),
        )
    ]
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert bool(masks[0].any())
    with pytest.raises(VolumeError, match="give its affine"):
        anystroke.segment(array, model)
    with pytest.raises(VolumeError, match=r"real numbers \(x, y, z\)"):
        anystroke.segment(array[..., None], model, affine=affine)
    with pytest.raises(TypeError, match="got dict"):
        anystroke.segment({}, model)


def test_an_array_and_its_way_back_are_exact() -> None:
    array = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    affine = np.array([[0, -2, 0, 5], [1, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1.0]])
    back, matrix = anystroke.Volume.from_array(array, affine).to_array()
    assert np.array_equal(back, array)
    assert np.array_equal(matrix, affine)
    with pytest.raises(VolumeError, match=r"affine of shape \(4, 4\)"):
        anystroke.Volume.from_array(array, np.eye(3))


def test_results_say_what_they_are_in_a_line_and_in_a_notebook() -> None:
    found = anystroke.segment(phantom(AFFINE, SHAPE), stand_in_model(), device="cpu")
    text = repr(found)
    assert text.startswith(f"Segmentation({found.lesion_volume:.1f} ml in 1 lesion, ")
    assert "\n" not in text
    assert len(text) < 400
    html = found._repr_html_()
    assert html.count("<img alt=") == 1
    assert f"{found.lesion_volume:.1f} ml" in html
    assert repr(found.mask) == "Volume(48 x 56 x 40 voxels of 4 x 4 x 4.5 mm, RAS, uint8)"


def test_a_result_is_saved_as_the_command_writes_it(tmp_path: Path) -> None:
    phantom(AFFINE, SHAPE).save(tmp_path / "sub-1_T2w.nii.gz")
    found = anystroke.segment(tmp_path / "sub-1_T2w.nii.gz", stand_in_model(), device="cpu")
    mask = found.save(tmp_path / "out")
    assert torch.equal(anystroke.Volume.load(mask, dtype=torch.uint8).data, found.mask.data)
    facts = json.loads(mask.with_name(mask.name.replace(".nii.gz", ".json")).read_text())
    assert facts["LesionVolume"] == pytest.approx(found.lesion_volume, abs=1e-6)
    assert all((mask.parent / name).is_file() for name in facts["Files"])
    assert any(name.endswith("_report.html") for name in facts["Files"])
    again = anystroke.segment(phantom(AFFINE, SHAPE), stand_in_model(), device="cpu")
    unnamed = again.save(tmp_path / "out", name="from_memory")
    assert unnamed.name.startswith("from_memory_")


def test_masks_are_evaluated_in_any_form(tmp_path: Path) -> None:
    truth = np.zeros((10, 10, 10), dtype=np.uint8)
    truth[2:6, 2:6, 2:6] = 1
    prediction = np.roll(truth, 1, axis=0)
    affine = np.diag([2.0, 1, 1, 1])
    for name, array in (("truth", truth), ("prediction", prediction)):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    dices = [
        anystroke.evaluate(prediction, truth, affine=affine),
        anystroke.evaluate(tmp_path / "prediction.nii.gz", tmp_path / "truth.nii.gz"),
        anystroke.evaluate(nib.Nifti1Image(prediction, affine), tmp_path / "truth.nii.gz"),
        anystroke.evaluate(prediction * 0.9, truth, affine=affine, threshold=0.5),
    ]
    assert [found.values["dice"] for found in dices] == pytest.approx([0.75] * 4)
    with pytest.raises(MaskError, match="the prediction"):
        anystroke.evaluate(prediction * 0.9, truth, affine=affine)


def test_one_scan_is_simulated_by_its_seed_alone() -> None:
    settings = SynthesisSettings(spacing=6.0, shapes=((32, 36, 32),))
    first, again, other = (anystroke.simulate("FLAIR", seed=k, settings=settings) for k in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    assert first.protocol.weighting == "FLAIR"
    assert bool((first.target == 4).any())
    assert "FLAIR" in repr(first)
    without = anystroke.simulate("T2w", lesions=[], settings=settings)
    assert not bool((without.target == 4).any())
