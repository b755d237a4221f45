from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from anystroke.anatomy.lesions.bank import load_bank
from anystroke.anatomy.registration.affine import Registration
from anystroke.anatomy.tissues.anatomies import load_anatomies
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.io.datasets import DatasetError
from anystroke.learning.cases import HEALTHY
from anystroke.learning.recipe import DataSettings
from anystroke.learning.sources import patient_packs
from anystroke.learning.sources.packing import pack, sources_of
from anystroke.learning.sources.patient_packs import pack_patients, with_held_out_anatomies
from anystroke.simulation.generator import Generator
from anystroke.simulation.patient_files import write_scans
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.recipe import TrainingSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

SHAPE = (32, 32, 32)


@pytest.fixture(autouse=True)
def _phantom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_packs, "mni_anatomy", ellipsoid_anatomy)


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """Write two simulated T1w scans with lesion masks and maps."""
    folder = tmp_path / "patients"
    folder.mkdir()
    generator = Generator(SynthesisSettings(spacing=6.0, shapes=(SHAPE,), weighting="T1w", cut=0.0))
    for number in (1, 2):
        sample = generator(ellipsoid_anatomy(), [sphere_lesion()], rng=stream(number, "patient"))
        write_scans([sample], folder, f"sim-{number:04d}", maps=True)
    masks = sorted(path.name for path in folder.glob("*_mask.nii.gz"))
    rows = [f"sim-{number:04d}_T1w.nii.gz\t{mask}" for number, mask in enumerate(masks, 1)]
    (folder / "pairs.tsv").write_text("\n".join(["image\tmask", *rows]) + "\n")
    return folder


def _settings(*parts: dict[str, Any], **more: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {
            "name": "test",
            "grid": {"spacing": 6.0, "shapes": [SHAPE]},
            "data": {"package": 10, "held_out_lesions": 0.4},
            "sources": list(parts),
            **more,
        }
    )


def test_every_kind_of_source_gives_cases(patients: Path, tmp_path: Path) -> None:
    settings = _settings(
        {"kind": "simulated"},
        {"kind": "random_contrasts", "augmentation": "tail"},
        {"kind": "scans", "scans": {"data": [str(patients)], "augmentation": "tail"}},
        {"kind": "maps", "maps": {"data": [str(patients)]}, "augmentation": "tail"},
    )
    told: list[str] = []
    names = pack(settings, tmp_path / "data", told.append)
    assert names["source_2_scans"] == ["sim-0001_T1w", "sim-0002_T1w"]
    assert len(names["source_3_maps"]) == 2
    assert told
    opened = sources_of(settings, tmp_path / "data")()
    cases = [source.case(SHAPE, rng=stream(1, "case")) for source in opened]
    again = [source.case(SHAPE, rng=stream(1, "case")) for source in opened]
    for case, same in zip(cases, again, strict=True):
        assert case.image.shape == case.target.shape == SHAPE
        assert torch.equal(case.image, same.image)
        assert float(case.image.std()) > 0
    assert int(cases[0].target.max()) <= 4
    for case in cases[2:]:
        assert set(case.target.flatten().tolist()) <= {4, HEALTHY}
    assert all(case.record for case in cases)


def test_the_lesion_is_the_last_class_of_every_scheme(patients: Path, tmp_path: Path) -> None:
    for classes, last in (("lesion", 1), ("published", 5)):
        part = {"kind": "scans", "scans": {"data": [str(patients)], "lesion_centred": 1.0}}
        settings = _settings(part, classes=classes)
        pack(settings, tmp_path / classes)
        [source] = sources_of(settings, tmp_path / classes)()
        target = source.case(SHAPE, rng=stream(1, "case")).target
        assert set(target.flatten().tolist()) == {last, HEALTHY}


def test_made_up_patients_are_packed_once_and_held_out_by_their_names(tmp_path: Path) -> None:
    settings = _settings({"kind": "simulated"})
    names = pack(settings, tmp_path)
    assert len(names["lesions"]) + len(names["held_out_lesions"]) == 10
    assert not set(names["lesions"]) & set(names["held_out_lesions"])
    before = (tmp_path / "lesions.safetensors").stat().st_mtime_ns
    assert pack(settings, tmp_path) == names
    assert (tmp_path / "lesions.safetensors").stat().st_mtime_ns == before
    assert [a.name for a in load_anatomies(tmp_path / "held_out_anatomies.safetensors")] == ["ellipsoids"]
    assert [m.name for m in load_bank(tmp_path / "held_out_lesions.safetensors")] == names["held_out_lesions"]


def test_a_recipe_without_data_is_refused(tmp_path: Path) -> None:
    settings = _settings({"kind": "simulated"}, data={})
    with pytest.raises(DatasetError, match=r"got 0 and 0.*data\.package"):
        pack(settings, tmp_path)


def _label_map(path: Path, *, mirrored: bool = False, spacing: float = 6.0) -> Path:
    labels = torch.zeros(1, 32, 32, 32, dtype=torch.int32)
    labels[0, 8:16, 8:24, 8:24], labels[0, 16:24, 8:24, 8:24] = (41, 2) if mirrored else (2, 41)
    path.parent.mkdir(exist_ok=True)
    Volume(labels, torch.diag(torch.tensor([spacing, 6.0, 6.0, 1.0]))).save(path, dtype=torch.int16)
    return path


def test_label_maps_that_the_package_does_not_know_are_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        _label_map(tmp_path / "own" / f"a{number}.nii.gz")
    told: list[Path] = []

    def registered(path: Path, *_: object) -> tuple[Registration, str]:
        told.append(path)
        return Registration(torch.eye(4), 0.6, 0.7, 0.9), "registered"

    monkeypatch.setattr(patient_packs, "registration_of", registered)
    toy = ellipsoid_anatomy()
    monkeypatch.setattr(patient_packs, "build_anatomy", lambda *_, name: replace(toy, name=name))
    (tmp_path / "data").mkdir()
    data = with_held_out_anatomies(DataSettings(anatomies=(tmp_path / "own",)))
    assert len(data.held_out_anatomies) == 1
    data = data.model_copy(update={"lesions": (_lesions(tmp_path / "lesions"),)})
    names = pack_patients(data, tmp_path / "data")
    assert sorted(names["anatomies"] + names["held_out_anatomies"]) == ["a0", "a1", "a2"]
    assert names["held_out_anatomies"] == list(data.held_out_anatomies)
    assert len(names["held_out_lesions"]) == 1  # of three: the hash alone holds out none
    pack_patients(data, tmp_path / "data")
    assert len(told) == 3  # once each


def _lesions(folder: Path, *, middle: float = 0.0, count: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    affine[:3, 3] = middle
    for number in range(count):
        mask = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
        mask[0, 5:10, 5:10, 5 : 10 + number] = 1
        Volume(mask, affine).save(folder / f"l{number}.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda folder: _label_map(folder / "b.nii.gz", mirrored=True),
            "left half of the brain on the right side",
        ),
        (lambda folder: _label_map(folder / "b.nii.gz", spacing=7.0), "expected isotropic ones"),
        (
            lambda folder: Volume(torch.full((1, 9, 9, 9), 7777), torch.eye(4)).save(
                folder / "b.nii.gz", dtype=torch.int16
            ),
            "holds the numbers 7777",
        ),
    ],
)
def test_label_maps_are_looked_at_before_the_first_is_registered(
    spoil: Callable[[Path], object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _label_map(tmp_path / "own" / "a.nii.gz")
    spoil(tmp_path / "own")
    monkeypatch.setattr(patient_packs, "registration_of", lambda *_: pytest.fail("registered"))
    data = DataSettings(anatomies=(tmp_path / "own",), lesions=(_lesions(tmp_path / "lesions"),))
    with pytest.raises(DatasetError, match=rf"1 of 2 label maps cannot be used: .*{words}"):
        pack_patients(data, tmp_path / "data")


def test_folders_that_are_not_there_and_masks_in_other_spaces_are_told_of(tmp_path: Path) -> None:
    data = DataSettings(anatomies=(tmp_path / "nowhere",))
    with pytest.raises(DatasetError, match=r"no such folder; name yours with --anatomies"):
        pack_patients(data, tmp_path / "data")
    _label_map(tmp_path / "own" / "a.nii.gz")
    data = DataSettings(anatomies=(tmp_path / "own",), lesions=(_lesions(tmp_path / "far", middle=150.0),))
    with pytest.raises(DatasetError, match=r"expected lesion masks in MNI space, but 3 of 3 lie elsewhere"):
        pack_patients(data, tmp_path / "data")
