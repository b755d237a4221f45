from pathlib import Path

import pytest

from anystroke.io.datasets import DatasetError, images_in, is_held_out


def test_images_are_sorted_and_other_files_left_out(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nii", "c.mgz", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in images_in(tmp_path)] == ["a.nii", "b.nii.gz", "c.mgz"]


def test_missing_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="but there is none"):
        images_in(tmp_path / "none")
    with pytest.raises(DatasetError, match="but there are none"):
        images_in(tmp_path)


def test_the_split_is_stable_and_has_the_wanted_share() -> None:
    held = [name for name in (f"sub-{i}" for i in range(2000)) if is_held_out(name, 0.15)]
    assert len(held) == pytest.approx(300, abs=50)
    assert held[:3] == ["sub-1", "sub-3", "sub-6"]
    assert not any(is_held_out(name, 0.0) for name in held)
