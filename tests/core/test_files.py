import pathlib

import pytest

from anystroke.core.files import atomic_path, sha256


def _write_half(target: pathlib.Path) -> None:
    with atomic_path(target, overwrite=True) as temporary:
        temporary.write_text("new, but")
        raise RuntimeError("half way")


def test_failure_leaves_the_old_file_and_no_rest(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half"):
        _write_half(target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_existing_file_is_refused_unless_overwritten(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileExistsError, match="exists already"), atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "old"
    with atomic_path(target, overwrite=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_missing_folder_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_path(tmp_path / "nowhere" / "a.txt"):
        pass


def test_temporary_name_keeps_the_image_suffix(tmp_path: pathlib.Path) -> None:
    with atomic_path(tmp_path / "a.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")


def test_permissions_are_those_of_ordinary_files(tmp_path: pathlib.Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.touch()
    assert (tmp_path / "atomic").stat().st_mode == ordinary.stat().st_mode


def test_sha256_of_known_bytes(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    assert sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
