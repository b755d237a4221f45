"""Label maps in MATLAB files that cannot be read."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from anystroke.anatomy.tissues.label_maps import load_label_map
from anystroke.core.volume import VolumeError

ANATOMY = np.ones((4, 5, 6), dtype=np.uint8)


def _saved(folder: Path, **variables: np.ndarray) -> Path:
    path = folder / "head.mat"
    savemat(path, variables, do_compression=True)
    return path


def test_a_head_model_is_read_with_its_labels(tmp_path: Path) -> None:
    volume, scheme = load_label_map(_saved(tmp_path, Anatomy=ANATOMY))
    assert volume.shape == ANATOMY.shape
    assert scheme.name == "colin27"


def test_other_variables_are_no_head_model(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"3-D variable 'Anatomy'.*there is none"):
        load_label_map(_saved(tmp_path, other=ANATOMY))
    with pytest.raises(VolumeError, match=r"it has the shape \(4, 5\)"):
        load_label_map(_saved(tmp_path, Anatomy=ANATOMY[..., 0]))


@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "text", "missing"])
def test_a_damaged_file_is_told(damage: str, tmp_path: Path) -> None:
    path = _saved(tmp_path, Anatomy=ANATOMY)
    whole = path.read_bytes()
    changed = whole[:150] + bytes([whole[150] ^ 255]) + whole[151:]
    path.write_bytes({"empty": b"", "cut": whole[:-20], "changed": changed}.get(damage, b"hello" * 100))
    if damage == "missing":
        path.unlink()
    with pytest.raises(VolumeError, match="missing, damaged or no MATLAB file"):
        load_label_map(path)


def test_files_of_matlab_7_3_are_told_what_to_do(tmp_path: Path) -> None:
    path = _saved(tmp_path, Anatomy=ANATOMY)
    header = bytearray(path.read_bytes()[:128])
    header[124:126] = b"\x00\x02"
    path.write_bytes(bytes(header) + b"\x89HDF" + b"0" * 600)
    with pytest.raises(VolumeError, match="save it with -v7"):
        load_label_map(path)
