import json
import re
from pathlib import Path

import pytest
import torch

from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.simulation.generator import CLASSES, Generator, Sample
from anystroke.simulation.nnunet import NnunetError, check_dataset_folder, write_case, write_description
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

SETTINGS = SynthesisSettings(spacing=4.0, shapes=((32, 40, 32),))


def _scans(seed: int = 1) -> list[Sample]:
    generator = Generator(SETTINGS)
    rng = stream(seed, "nnunet")
    return generator.session(ellipsoid_anatomy(), [sphere_lesion()], weightings=["T1w", "FLAIR"], rng=rng)


def _problems(folder: Path) -> list[str]:
    """What nnU-Net's check of a raw data set would find: names, numbers, geometry and labels."""
    description = json.loads((folder / "dataset.json").read_text())
    ending, channels = description["file_ending"], len(description["channel_names"])
    labels = sorted(description["labels"].values())
    images = sorted(path.name for path in (folder / "imagesTr").iterdir())
    cases = sorted({name[: -len(ending) - 5] for name in images})
    problems = []
    if len(cases) != description["numTraining"]:
        problems.append(f"numTraining {description['numTraining']}, found {len(cases)}")
    if description["labels"]["background"] != 0 or labels != list(range(len(labels))):
        problems.append(f"labels {labels}")
    if images != [f"{case}_{channel:04d}{ending}" for case in cases for channel in range(channels)]:
        problems.append(f"images {images}")
    if sorted(path.name for path in (folder / "labelsTr").iterdir()) != [case + ending for case in cases]:
        problems.append("labels do not fit images")
    for case in [] if problems else cases:
        truth = Volume.load(folder / "labelsTr" / f"{case}{ending}", dtype=torch.int32)
        if not set(truth.data.flatten().tolist()) <= set(labels):
            problems.append(f"{case} has other labels")
        for channel in range(channels):
            image = Volume.load(folder / "imagesTr" / f"{case}_{channel:04d}{ending}")
            if image.shape != truth.shape or not torch.equal(image.affine, truth.affine):
                problems.append(f"{case} channel {channel} has another geometry")
    return problems


@pytest.mark.parametrize("all_classes", [False, True])
def test_a_data_set_passes_the_checks_of_nnunet(all_classes: bool, tmp_path: Path) -> None:
    for number in (1, 2):
        rows = write_case(_scans(number), tmp_path, f"sim-{number:04d}", all_classes=all_classes)
        assert [row["image"] for row in rows] == [
            f"imagesTr/sim-{number:04d}_{channel:04d}.nii.gz" for channel in (0, 1)
        ]
    write_description(tmp_path, channels=["T1w", "FLAIR"], cases=2, all_classes=all_classes)
    assert _problems(tmp_path) == []
    description = json.loads((tmp_path / "dataset.json").read_text())
    names = CLASSES if all_classes else ("background", "lesion")
    assert description["labels"] == {name: index for index, name in enumerate(names)}
    truth = Volume.load(tmp_path / "labelsTr" / "sim-0001.nii.gz", dtype=torch.int32).data[0]
    lesion = _scans(1)[0].target == CLASSES.index("lesion")
    assert torch.equal(truth == description["labels"]["lesion"], lesion)
    (tmp_path / "imagesTr" / "sim-0002_0001.nii.gz").unlink()
    assert _problems(tmp_path)


def test_records_lie_where_nnunet_does_not_look(tmp_path: Path) -> None:
    scans = _scans()
    write_case(scans, tmp_path, "sim-0001")
    channels = json.loads((tmp_path / "records" / "sim-0001.json").read_text())["Channels"]
    assert [channel["Record"]["protocol"]["weighting"] for channel in channels] == ["T1w", "FLAIR"]
    assert [channel["SignalToNoiseRatio"] for channel in channels] == [
        scan.record["scanner"]["snr"] for scan in scans
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imagesTr", "labelsTr", "records"]


@pytest.mark.parametrize(
    "name", ["out", "Dataset1_Stroke", "Dataset501", "Dataset000_Stroke", "Dataset501_a b"]
)
def test_names_that_nnunet_does_not_find_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(NnunetError, match=re.escape(repr(name))):
        check_dataset_folder(tmp_path / name)


def test_a_number_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "Dataset501_Stroke").mkdir()
    check_dataset_folder(tmp_path / "Dataset501_Stroke")
    check_dataset_folder(tmp_path / "Dataset502_Stroke")
    with pytest.raises(NnunetError, match="number 501 already"):
        check_dataset_folder(tmp_path / "Dataset501_Other")
