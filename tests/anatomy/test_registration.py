import math
import shutil
from pathlib import Path

import pytest
import torch

from anystroke.anatomy.registration.affine import (
    STORED,
    Registration,
    RegistrationError,
    file_stem,
    load_registrations,
    mni_tissues,
    register_to_mni,
    save_registrations,
    stored_registration,
)
from anystroke.anatomy.tissues.label_maps import load_label_map
from anystroke.anatomy.tissues.labels import COLIN27, SYNTHSEG
from anystroke.core.volume import Volume

IDENTITY = Registration(torch.eye(4, dtype=torch.float64), 0.7, 0.7, 0.9)


def mni_labels() -> Volume:
    """MNI152 itself as a label map of 3 mm."""
    tissues, affine = mni_tissues(3.0)
    labels = torch.zeros(tissues.shape[1:], dtype=torch.int32)
    labels[tissues[0] > 0.4] = 3
    labels[tissues[1] > 0.5] = 2
    return Volume(labels[None], affine)


def known_affine() -> torch.Tensor:
    pitch, yaw = math.radians(20), math.radians(-8)
    turn = torch.tensor(
        [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]],
        dtype=torch.float64,
    ) @ torch.tensor(
        [[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]],
        dtype=torch.float64,
    )
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = turn @ torch.diag(torch.tensor([0.92, 0.88, 0.95], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([35.0, -50.0, 80.0])
    return affine


def furthest(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest distance [mm] that two affines put between them in a brain-sized box."""
    axis = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    corners = torch.cartesian_prod(
        axis * 65, axis * 85 - 20, axis * 60 + 10, torch.ones(1, dtype=torch.float64)
    )
    return float(((corners @ first.T) - (corners @ second.T)).norm(dim=1).max())


def test_known_affine_is_recovered_the_same_way_each_time() -> None:
    template = mni_labels()
    moved = Volume(template.data, known_affine() @ template.affine).reorient("LIA")
    found = register_to_mni(moved, SYNTHSEG)
    assert furthest(found.affine @ known_affine(), torch.eye(4, dtype=torch.float64)) < 2.0
    assert found.brain_dice > 0.95
    assert found.grey_dice > 0.8
    assert torch.equal(register_to_mni(moved, SYNTHSEG).affine, found.affine)


def test_maps_without_brain_and_coarse_maps_are_refused() -> None:
    with pytest.raises(RegistrationError, match="no brain tissue of scheme 'colin27'"):
        register_to_mni(Volume(torch.zeros(1, 4, 4, 4), torch.eye(4)), COLIN27)
    with pytest.raises(RegistrationError, match="at most 3"):
        register_to_mni(Volume(torch.ones(1, 4, 4, 4), torch.diag(torch.tensor([1.0, 1, 5, 1]))), COLIN27)


@pytest.mark.parametrize("diagonal", [[-1.0, 1, 1, 1], [9.0, 1, 1, 1], [float("nan"), 1, 1, 1]])
def test_impossible_affines_are_refused(diagonal: list[float]) -> None:
    with pytest.raises(RegistrationError, match="expected"):
        Registration(torch.diag(torch.tensor(diagonal)), 0.7, 0.7, 0.9)


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    label_file = tmp_path / "head.nii.gz"
    label_file.write_bytes(b"labels")
    stored = tmp_path / "mni.json"
    registration = Registration(torch.linalg.inv(known_affine()), 0.61, 0.72, 0.93)
    save_registrations({label_file: registration}, stored)
    found = stored_registration(label_file, stored)
    assert furthest(found.affine, registration.affine) < 1e-3
    assert (found.grey_dice, found.white_dice, found.brain_dice) == (0.61, 0.72, 0.93)
    with pytest.raises(FileExistsError):
        save_registrations({label_file: registration}, stored)


def test_stale_and_missing_registrations_are_refused(tmp_path: Path) -> None:
    label_file = tmp_path / "head.nii.gz"
    label_file.write_bytes(b"labels")
    stored = tmp_path / "mni.json"
    save_registrations({label_file: IDENTITY}, stored)
    label_file.write_bytes(b"other labels")
    with pytest.raises(RegistrationError, match="another version"):
        stored_registration(label_file, stored)
    with pytest.raises(RegistrationError, match="no registration is stored for 'face'"):
        stored_registration(tmp_path / "face.nii.gz", stored)


def test_damaged_files_and_equal_stems_are_refused(tmp_path: Path) -> None:
    for text in ("{", "[1]", '{"head": {"sha256": "0"}}'):
        (tmp_path / "mni.json").write_text(text)
        with pytest.raises(RegistrationError, match="make it again"):
            load_registrations(tmp_path / "mni.json")
    files = [tmp_path / "a" / "head.nii", tmp_path / "b" / "head.nii.gz"]
    for file in files:
        file.parent.mkdir()
        file.touch()
    with pytest.raises(RegistrationError, match="called 'head'"):
        save_registrations(dict.fromkeys(files, IDENTITY), tmp_path / "two.json")


def test_stored_registrations_are_good() -> None:
    stored = load_registrations()
    assert len(stored) == 27
    for stem, registration in stored.items():
        assert registration.brain_dice > 0.82, stem
        assert registration.grey_dice > 0.5, stem
        assert registration.white_dice > 0.6, stem


@pytest.mark.real_data
def test_stored_registrations_belong_to_the_data(data_dir: Path) -> None:
    files = [*(data_dir / "anatomies").glob("*/*.nii.gz"), *(data_dir / "anatomies").glob("*/*.mat")]
    assert {file_stem(file) for file in files} == set(load_registrations(STORED))
    for file in files:
        stored_registration(file)


@pytest.mark.real_data
def test_real_map_is_registered_as_stored(data_dir: Path, tmp_path: Path) -> None:
    file = data_dir / "anatomies" / "synthsr" / "brain1_labels.nii.gz"
    copy = tmp_path / file.name
    shutil.copyfile(file, copy)
    labels, scheme = load_label_map(copy)
    found = register_to_mni(labels, scheme)
    assert furthest(found.affine, stored_registration(copy).affine) < 0.5
