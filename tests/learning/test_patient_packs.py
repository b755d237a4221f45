from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from anystroke.anatomy.lesions.bank import LesionMask, load_bank, load_lesion_mask
from anystroke.core.volume import Volume
from anystroke.io.datasets import DatasetError
from anystroke.learning.recipe import DataSettings
from anystroke.learning.sources import patient_packs
from anystroke.learning.sources.patient_packs import pack_patients
from phantoms import ellipsoid_anatomy


@pytest.fixture(autouse=True)
def _phantom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_packs, "mni_anatomy", ellipsoid_anatomy)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in range(4):
        _write(folder, number)
    return folder


def _write(folder: Path, number: int, size: int = 3) -> None:
    data = torch.zeros((1, 12, 13, 14), dtype=torch.uint8)
    data[0, number : number + size, 2:9, 4:6] = 1
    Volume(data, torch.eye(4)).save(folder / f"m{number}.nii.gz", overwrite=True)


def _settings(masks: Path, **more: object) -> DataSettings:
    return DataSettings.model_validate({"lesions": [masks], "package": 1, "held_out_lesions": 0.5, **more})


def _all(folder: Path) -> dict[str, LesionMask]:
    banks = [load_bank(folder / f"{name}.safetensors") for name in ("lesions", "held_out_lesions")]
    return {mask.name: mask for bank in banks for mask in bank}


def test_masks_are_those_of_the_files(masks: Path, tmp_path: Path) -> None:
    names = pack_patients(_settings(masks), tmp_path)
    packed = _all(tmp_path)
    assert {"m0", "m1", "m2", "m3"} < set(packed)
    assert sorted(names["lesions"] + names["held_out_lesions"]) == sorted(packed)
    for path in masks.iterdir():
        mask = load_lesion_mask(path)
        assert torch.equal(mask.mask, packed[mask.name].mask)
        assert torch.equal(mask.affine, packed[mask.name].affine)


def test_only_new_and_changed_files_are_read_again(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_patients(_settings(masks), tmp_path)
    read: list[str] = []

    def watched(path: Path) -> LesionMask:
        read.append(path.name)
        return load_lesion_mask(path)

    monkeypatch.setattr(patient_packs, "load_lesion_mask", watched)
    before = (tmp_path / "lesions.safetensors").stat().st_mtime_ns
    pack_patients(_settings(masks), tmp_path)
    assert (read, (tmp_path / "lesions.safetensors").stat().st_mtime_ns) == ([], before)
    _write(masks, 4)
    _write(masks, 0, size=2)
    (masks / "m1.nii.gz").unlink()
    told: list[tuple[str, int, int]] = []
    pack_patients(_settings(masks), tmp_path, lambda *what: told.append(what))
    assert sorted(read) == ["m0.nii.gz", "m4.nii.gz"]
    assert told == [("lesion masks", done, 4) for done in (1, 2, 3, 4)]
    packed = _all(tmp_path)
    assert "m1" not in packed
    assert packed["m0"].shape == (2, 7, 2)


def test_another_split_moves_masks_without_reading_them(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pack_patients(_settings(masks), tmp_path)
    for reader in ("load_lesion_mask", "blob_bank", "mni_anatomy"):
        monkeypatch.setattr(patient_packs, reader, None)
    names = [pack_patients(_settings(masks, split=split), tmp_path)["lesions"] for split in "abcdef"]
    assert any(each != first["lesions"] for each in names)


def test_an_empty_mask_is_left_out(masks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write(masks, 9, size=0)
    pack_patients(_settings(masks), tmp_path)
    assert "m9" in caplog.text
    assert "m9" not in _all(tmp_path)


def test_a_broken_off_packing_leaves_what_was_there(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_patients(_settings(masks), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    _write(masks, 5)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_patients(_settings(masks), tmp_path, interrupt)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_pack_is_used_where_its_inputs_are_gone(
    masks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = pack_patients(_settings(masks), tmp_path)
    elsewhere = _settings(tmp_path / "nowhere")
    assert pack_patients(elsewhere, tmp_path) == names
    assert "nowhere is not there" in caplog.text
    (tmp_path / "lesions.safetensors").unlink()
    with pytest.raises(DatasetError, match="nowhere"):
        pack_patients(elsewhere, tmp_path)


def test_what_others_packed_is_used_where_no_inputs_are_named(masks: Path, tmp_path: Path) -> None:
    names = pack_patients(_settings(masks), tmp_path)
    assert pack_patients(DataSettings(), tmp_path) == names


def test_an_old_pack_is_not_overwritten(masks: Path, tmp_path: Path) -> None:
    old = tmp_path / "lesions.safetensors"
    save_file({"0.mask": torch.ones(1)}, old, metadata={"names": '["a"]'})
    with pytest.raises(DatasetError, match="delete the folder"):
        pack_patients(_settings(masks), tmp_path)
