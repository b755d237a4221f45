from pathlib import Path
from typing import Any

import pytest
import torch

from anystroke.anatomy.lesions.bank import load_bank
from anystroke.anatomy.tissues.anatomies import load_anatomies
from anystroke.core.rng import stream
from anystroke.io.datasets import DatasetError
from anystroke.learning.cases import HEALTHY
from anystroke.learning.sources import patient_packs
from anystroke.learning.sources.packing import pack, sources_of
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
