"""Folders of DICOM and BIDS trees, damaged at random: nothing is lost without a word."""

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from anystroke.core.errors import AnystrokeError
from anystroke.core.text import readable
from anystroke.core.volume import VolumeWarning
from anystroke.io.finding import find_scans
from anystroke.io.inputs import Found, Input
from dicom_phantom import write_series
from stand_in import axial_affine, phantom

pytest.importorskip("pydicom")
pytest.importorskip("dcm2niix")

SHAPE = (24, 26, 12)
AFFINE = axial_affine(8.0, 8.0, 12.0, shape=SHAPE)
Damage = Callable[[Path, random.Random], None]


def _cut(path: Path, rng: random.Random) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: rng.randrange(len(raw) + 1)])


def _scribble(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 4, 40))):
        raw[rng.randrange(min(len(raw), 1500))] = rng.randrange(256)
    path.write_bytes(raw)


def _drop(path: Path, rng: random.Random) -> None:
    path.unlink()


def _link(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("gone")


def _copy(path: Path, rng: random.Random) -> None:
    shutil.copy(path, path.with_name(f"copy of {path.name}"))


def _junk(path: Path, rng: random.Random) -> None:
    path.with_name(f"._{path.name}").write_bytes(rng.randbytes(60))
    path.with_name("readme.txt").write_text("see the other disc")


def _rename(path: Path, rng: random.Random) -> None:
    path.rename(path.with_name(rng.choice(("IM0001", "x y.dcm", "é.dcm", "a.b.c.dcm", "IMG%d.dcm"))))


def _empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def _loop(path: Path, rng: random.Random) -> None:
    place = path.with_name("loop")
    if not place.is_symlink():
        place.symlink_to(path.parent, target_is_directory=True)


DAMAGES: tuple[Damage, ...] = (_cut, _scribble, _drop, _link, _copy, _junk, _rename, _empty, _loop)


def _find_and_read(folder: Path, work: Path) -> tuple[Found, int]:
    """Find and read; whatever is raised must be an error that a user can mend."""
    read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", VolumeWarning)
        # pydicom warns of values that break its rules.
        warnings.filterwarnings("ignore", module="pydicom")
        found = find_scans([folder], work)
        for scan in found.scans:
            try:
                scan.load()
                read += 1
            except AnystrokeError as error:
                found.problems.append((scan.title, str(error)))
    for text in (*found.skipped, *(problem for _, problem in found.problems)):
        assert "\n" not in text
        text.encode()
    return found, read


@pytest.mark.slow
def test_damaged_dicom_folders(tmp_path: Path) -> None:
    rng = random.Random(11)
    whole = tmp_path / "whole"
    head = phantom(AFFINE, SHAPE)
    write_series(whole, head)
    write_series(whole, head, number=5, description="FLAIR")
    right = np.abs(AFFINE.numpy())
    outcomes = {"both": 0, "one": 0, "none": 0}
    for number in range(100):
        folder = tmp_path / "export"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        for _ in range(rng.choice((1, 1, 2, 6))):
            files = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
            rng.choice(DAMAGES)(rng.choice(files), rng)
        found, read = _find_and_read(folder, tmp_path / "work")
        assert read or found.problems, f"folder {number} is lost without a word"
        outcomes[{0: "none", 1: "one"}.get(read, "both")] += 1
        for scan in found.scans:
            if not any(scan.title == title for title, _ in found.problems):
                _in_place(scan, right, number)
    assert min(outcomes.values()) > 5, outcomes


def _in_place(scan: Input, right: np.ndarray[tuple[int, int], np.dtype[np.float64]], number: int) -> None:
    """A scan that lost slices at an end lies where its other slices were."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = scan.load().reorient("RAS")
    steps = volume.affine[:3, :3].diagonal().numpy()
    same = np.allclose(np.abs(steps), right.diagonal()[:3], rtol=0.01)
    assert same or caught, f"folder {number}: {volume.affine}"


def _bids(root: Path) -> None:
    image = nib.Nifti1Image(phantom(AFFINE, SHAPE).data[0].numpy().astype(np.int16), AFFINE.numpy())
    image.set_qform(AFFINE.numpy(), 1)
    image.set_sform(AFFINE.numpy(), 1)
    for name in ("sub-01/anat/sub-01_T2w", "sub-01/anat/sub-01_FLAIR", "sub-02/ses-1/anat/sub-02_ses-1_T1w"):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"EchoTime": 0.1}))
    series = np.stack([np.asanyarray(image.dataobj)] * 4, axis=-1)
    path = root / "sub-02/ses-1/dwi/sub-02_ses-1_dwi.nii.gz"
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(series, AFFINE.numpy()), path)
    path.with_name("sub-02_ses-1_dwi.bval").write_text("0 1000 1000 1000\n")
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.9.0"}))


def test_damaged_bids_trees(tmp_path: Path) -> None:
    rng = random.Random(13)
    _bids(tmp_path / "whole")
    names = ("phase", "part-real_T2w", "dseg", "T1map", "mask", "xyz", "T2w.txt", "\udce9_T2w")
    outcomes = {"all": 0, "fewer": 0}
    for number in range(50):
        root = tmp_path / "study"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", root)
        for _ in range(rng.choice((1, 2, 4))):
            files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
            path = rng.choice(files)
            what = rng.randrange(4)
            if what == 0:
                shutil.copy(path, path.with_name(f"sub-01_{rng.choice(names)}.nii.gz"))
            elif what == 1 and path.parent != root:
                moved = tmp_path / f"store{number}"
                shutil.rmtree(moved, ignore_errors=True)
                shutil.move(path.parent, moved)
                path.parent.symlink_to(moved, target_is_directory=True)
            else:
                rng.choice(DAMAGES)(path, rng)
        found, read = _find_and_read(root, tmp_path / "work")
        images = [path for path in root.rglob("sub-*.nii.gz") if not path.name.startswith(".")]
        said = " ".join([*found.skipped, *(text for _, text in found.problems)])
        for path in images:
            name = readable(path.name)
            used = any(
                name.removesuffix(".nii.gz").removesuffix("_dwi") in scan.path.name for scan in found.scans
            )
            assert used or name in said, f"tree {number}: {name} is lost without a word"
        outcomes["all" if read >= 5 else "fewer"] += 1
    assert min(outcomes.values()) > 3, outcomes
