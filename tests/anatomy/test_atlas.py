from pathlib import Path

import pytest
import torch

from anystroke.anatomy.registration.atlas import Atlas, AtlasError, read_names
from anystroke.core.volume import Volume


def _labels() -> Volume:
    affine = torch.diag(torch.tensor([-2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([40.0, -40.0, -20.0])
    data = torch.zeros(1, 40, 40, 30, dtype=torch.int16)
    data[:, 2:20] = 2  # x of 36 to 2 mm: the right
    data[:, 22:38] = 1
    return Volume(data, affine)


def test_regions_are_looked_up_whatever_the_storage_order(tmp_path: Path) -> None:
    _labels().reorient("PIR").save(tmp_path / "atlas.nii.gz")
    (tmp_path / "atlas.txt").write_text(
        "1|L|middle cerebral artery left|3\n2|R|middle cerebral artery right|4\n"
    )
    atlas = Atlas.load(tmp_path / "atlas.nii.gz")
    points = torch.tensor([[-20.0, 0, 0], [20, 0, 0], [0, 0, 0], [20, 0, 500], [-400, 0, 0]])
    assert atlas.at(points).tolist() == [1, 2, 0, 0, 0]
    assert atlas.name(1) == "middle cerebral artery left"
    assert atlas.name(9) == "region 9"


@pytest.mark.parametrize(
    "text",
    [
        "1|MCA|middle cerebral|3\n2|PCA|posterior cerebral|5\n",
        "index\tname\tabbreviation\n1\tmiddle cerebral\tMCA\n2\tposterior cerebral\tPCA\n",
        "1 middle cerebral\n\n2 posterior cerebral\n",
        "1,middle cerebral\n2,posterior cerebral\n",
    ],
)
def test_names_in_the_forms_that_atlases_have(text: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(text)
    assert read_names(tmp_path / "names.txt") == {1: "middle cerebral", 2: "posterior cerebral"}


def test_what_is_no_atlas_is_refused(tmp_path: Path) -> None:
    labels = _labels()
    Volume(torch.rand(1, 8, 8, 8), labels.affine).save(tmp_path / "image.nii.gz")
    far = labels.affine.clone()
    far[:3, 3] += 200
    Volume(labels.data, far).save(tmp_path / "far.nii.gz")
    labels.save(tmp_path / "atlas.nii.gz")
    (tmp_path / "names.txt").write_text("middle cerebral artery\n")
    with pytest.raises(AtlasError, match="is no atlas, expected whole numbers"):
        Atlas.load(tmp_path / "image.nii.gz")
    with pytest.raises(AtlasError, match="does not lie in MNI space: 0 % of it"):
        Atlas.load(tmp_path / "far.nii.gz")
    with pytest.raises(AtlasError, match="names no region"):
        Atlas.load(tmp_path / "atlas.nii.gz", tmp_path / "names.txt")
    with pytest.raises(AtlasError, match="cannot be read"):
        Atlas.load(tmp_path / "nowhere.nii.gz")
    with pytest.raises(AtlasError, match="cannot be read"):
        Atlas.load(tmp_path / "atlas.nii.gz", tmp_path / "nowhere.txt")


@pytest.mark.real_data
def test_the_arterial_atlas(data_dir: Path) -> None:
    atlas = Atlas.load(data_dir / "templates" / "ArterialAtlas136.nii.gz")
    assert len(atlas.names) == 32
    left, right = atlas.at(torch.tensor([[-45.0, -10, 10], [45, -10, 10]])).tolist()
    assert atlas.name(left) == "frontal pars of middle cerebral artery left"
    assert atlas.name(right) == "frontal pars of middle cerebral artery right"
