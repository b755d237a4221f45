from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anystroke.core.rng import stream
from anystroke.core.staging import staged
from anystroke.core.volume import Volume
from anystroke.corruption.echo_planar_scan import EchoPlanarSettings
from anystroke.simulation.generator import CLASSES, Generator, Sample
from anystroke.simulation.patient_files import (
    lesion_volume,
    patient_target,
    scan_targets,
    write_scans,
)
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion


@pytest.fixture(scope="module")
def scans() -> list[Sample]:
    return _session(0.0)


def _session(distorted: float) -> list[Sample]:
    looks = SynthesisSettings(
        spacing=4.0,
        shapes=((32, 40, 32),),
        cut=0.0,
        echo_planar=EchoPlanarSettings(diffusion=distorted, echo_spacing=(7e-4, 8e-4)),
    )
    generator = Generator(looks)
    rng = stream(1, "scans")
    return generator.session(ellipsoid_anatomy(), [sphere_lesion()], weightings=["T1w", "DWI"], rng=rng)


def test_scans_of_a_session_have_one_truth(scans: list[Sample]) -> None:
    assert torch.equal(scans[0].target, scans[1].target)
    top, bottom = scans[0].target.clone(), scans[1].target.clone()
    top[:, :, 20:] = 0
    bottom[:, :, :12] = 0
    parts = [replace(scan, target=part) for scan, part in zip(scans, (top, bottom), strict=True)]
    assert torch.equal(patient_target(parts), scans[0].target)
    assert not torch.equal(top, scans[0].target)


def test_a_distorted_scan_has_a_truth_of_its_own(tmp_path: Path) -> None:
    still, distorted = _session(1.0)
    assert not torch.equal(still.target, distorted.target)
    targets = scan_targets([still, distorted])
    assert torch.equal(targets[0], still.target)
    assert torch.equal(targets[1], distorted.target)
    rows = write_scans([still, distorted], tmp_path, "sim-1")
    assert [row["mask"] for row in rows] == [
        "sim-1_label-L_mask.nii.gz",
        "sim-1_label-L_desc-dwi_mask.nii.gz",
    ]
    for row, scan in zip(rows, (still, distorted), strict=True):
        written = Volume.load(tmp_path / row["segmentation"], dtype=torch.uint8)
        assert torch.equal(written.data[0], scan.target)
    (alone,) = write_scans([distorted], tmp_path, "sim-2")
    assert alone["mask"] == "sim-2_label-L_mask.nii.gz"


def test_scans_of_two_patients_have_none(scans: list[Sample]) -> None:
    first, second = scans
    with pytest.raises(ValueError, match="tissues differ"):
        patient_target([first, replace(second, target=second.target.flip(0).roll(5, 1))])
    with pytest.raises(ValueError, match=r"\(32, 40, 32\) and \(32, 40, 30\)"):
        patient_target([first, replace(second, target=second.target[:, :, :30])])
    with pytest.raises(ValueError, match="got none"):
        patient_target([])


def test_the_volume_counts_lesion_alone() -> None:
    target = torch.arange(len(CLASSES)).reshape(-1, 1, 1)
    assert lesion_volume(target, torch.diag(torch.tensor([10.0, -10.0, 5.0, 1.0]))) == pytest.approx(0.5)


def test_two_scans_of_one_name_are_refused(scans: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sim_T1w, sim_T1w"):
        write_scans([scans[0], scans[0]], tmp_path, "sim")
    assert not list(tmp_path.iterdir())


def test_staged_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    def write(*, fails: bool) -> None:
        with staged(tmp_path) as staging:
            (staging / "deep").mkdir()
            (staging / "deep" / "a.txt").write_text("new")
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(fails=True)
    assert not list(tmp_path.iterdir())
    write(fails=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "a.txt"]
