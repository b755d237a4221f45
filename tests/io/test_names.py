from pathlib import Path

import pytest

from anystroke.io.names import Name, derivative_stem, image_stem


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("T2w.nii", "T2w_space-orig_label-L"),
        ("a/b/M2208_T2w.nii.gz", "M2208_T2w_space-orig_label-L"),
        ("T1.MGZ", "T1_space-orig_label-L"),
        ("scan.v2.nii.gz", "scan.v2_space-orig_label-L"),
        ("sub-01_T1w.nii.gz", "sub-01_space-orig_label-L_desc-T1w"),
        ("sub-01_ses-a_acq-3D_run-2_FLAIR.nii", "sub-01_ses-a_acq-3D_run-2_space-orig_label-L_desc-FLAIR"),
        ("sub-01_space-MNI152_desc-preproc_T1w.nii.gz", "sub-01_space-orig_label-L_desc-preprocT1w"),
        ("sub-01.nii.gz", "sub-01_space-orig_label-L"),
    ],
)
def test_derivative_names(source: str, stem: str) -> None:
    assert derivative_stem(source) == stem


def test_contrasts_of_a_subject_do_not_collide() -> None:
    assert len({derivative_stem(f"sub-1_{suffix}.nii.gz") for suffix in ("T1w", "T2w", "FLAIR", "dwi")}) == 4


def test_image_stem_strips_one_suffix_only() -> None:
    assert image_stem("x.nii.nii.gz") == "x.nii"


def test_a_name_is_taken_apart() -> None:
    name = Name.parse("a/sub-01_ses-pre-op_acq-3D_space-MNI_desc-preproc_T2w.nii.gz")
    assert name.session == ("01", "pre-op")
    assert name.entities["desc"] == "preproc"
    assert name.source == {"sub": "01", "ses": "pre-op", "acq": "3D"}
    assert (name.words, name.suffix, name.is_bids) == (("T2w",), "T2w", False)
    assert name.sidecar == Path("a/sub-01_ses-pre-op_acq-3D_space-MNI_desc-preproc_T2w.json")
    assert Name.parse("sub-01_ses-2_T2w.nii").is_bids
    assert Name.parse("sub-01_ses-2.nii").suffix == ""
    assert Name.parse("patient 7_flair.nrrd").words == ("patient 7", "flair")


@pytest.mark.parametrize(
    ("name", "lesion", "brain"),
    [
        ("sub-1_label-L_mask.nii.gz", True, False),
        ("sub-1_label-lesion_roi.nii.gz", True, False),
        ("sub-1_desc-lesion_mask.nii.gz", True, False),
        ("sub-1_ses-1_msk.nii.gz", True, False),
        ("sub-1_label-L_probseg.nii.gz", False, False),
        ("sub-1_desc-brain_mask.nii.gz", False, True),
        ("sub-1_T1w.nii.gz", False, False),
    ],
)
def test_masks_are_told_by_their_names(name: str, lesion: bool, brain: bool) -> None:
    assert (Name.parse(name).is_lesion, Name.parse(name).is_brain) == (lesion, brain)


def test_what_lies_beside_a_name_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    path = tmp_path / "M\udcfcller.nii.gz"
    assert Name.parse(path).stem == "Müller"
    assert Name.parse(path).sidecar.name == "M\udcfcller.json"
