import pytest

from anystroke.io.names import derivative_stem, image_stem


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
