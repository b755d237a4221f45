"""Scans of whole heads and masks on them, in spaces of their own, as `simulate` writes them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anystroke.anatomy.regions.grid import tissue
from anystroke.anatomy.registration.mni import ScanRegistration, register_scan
from anystroke.commands.main import main
from anystroke.core.tables import read_rows
from anystroke.core.volume import Volume
from anystroke.tasks.outcome import masks
from anystroke.tasks.outcome.masks import load_lesion, scan_in_mni
from anystroke.tasks.outcome.table import OutcomeError

pytestmark = pytest.mark.slow

HEADS = 3


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty patients, whose scans and masks are links to three simulated ones; age and score go together."""
    folder = tmp_path_factory.mktemp("cohort")
    options = ["--weighting", "T1w", "--stage", "chronic", "--spacing", "4", "--seed", "3"]
    assert main(["simulate", "-o", str(folder / "set"), "--count", str(HEADS), *options]) == 0
    scans = sorted((folder / "set").glob("sub-*/anat/*_T1w.nii.gz"))
    truths = sorted((folder / "set" / "derivatives").rglob("*_mask.nii.gz"))
    assert len(scans) == len(truths) == HEADS
    lines = ["participant_id\tage\tscore"]
    for kind, files in (("images", scans), ("masks", truths)):
        (folder / kind).mkdir()
        for k in range(40):
            word = "T1w" if kind == "images" else "lesion"
            (folder / kind / f"sub-{k:02d}_{word}.nii.gz").symlink_to(files[k % HEADS])
    lines += [f"sub-{k:02d}\t{50 + k}\t{k // 2 + 5 * (k % HEADS)}" for k in range(40)]
    (folder / "t.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "few.tsv").write_text("\n".join(lines[:19]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[Volume]:
    """Collect what is registered."""
    masks._scan_in_mni.cache_clear()
    seen: list[Volume] = []

    def counted(scan: Volume, *, brain: Volume | None = None) -> ScanRegistration:
        seen.append(scan)
        assert brain is not None
        assert 600 < float((brain.data > 0).sum()) * brain.voxel_volume < 3500
        return register_scan(scan, brain=brain)

    monkeypatch.setattr("anystroke.tasks.outcome.masks.register_scan", counted)
    return seen


def test_a_mask_in_the_space_of_its_scan(simulated: Path, registered: list[Volume]) -> None:
    for k in range(HEADS):
        mask, scan = (
            simulated / kind / f"sub-{k:02d}_{word}.nii.gz"
            for kind, word in (("masks", "lesion"), ("images", "T1w"))
        )
        truth = Volume.load(mask)
        lesion = load_lesion(mask, scan)
        wanted = float((truth.data > 0).sum()) * truth.voxel_volume
        wanted *= float(torch.linalg.det(scan_in_mni(scan).affine[:3, :3]))
        assert lesion.volume_ml == pytest.approx(wanted, rel=0.1, abs=0.1)
        if not wanted:
            continue
        inside = (tissue().template > 0).reshape(-1)[lesion.voxels]
        assert np.average(inside, weights=lesion.shares) > 0.8
    assert len(registered) == HEADS


def test_regions_of_masks_on_scans(simulated: Path, tmp_path: Path, registered: list[Volume]) -> None:
    files = ["--images", str(simulated / "images"), "--masks", str(simulated / "masks")]
    table, model = str(simulated / "few.tsv"), tmp_path / "model"
    options = ["--target", "score", "--model", "loads:ridge", "--repeats", "1", "-o", str(model)]
    assert main(["outcome", "train", table, *files, *options]) == 0
    assert len(registered) == HEADS
    out = tmp_path / "p.tsv"
    assert main(["outcome", "predict", str(model), table, *files, "-o", str(out)]) == 0
    rows = read_rows(out)
    found = np.array([float(row["prediction"]) for row in rows])
    score = np.array([float(row["score"]) for row in read_rows(simulated / "few.tsv")])
    assert np.corrcoef(found, score)[0, 1] > 0.8


def test_pictures_of_scans_without_a_mask(simulated: Path, tmp_path: Path, registered: list[Volume]) -> None:
    files = ["--images", str(simulated / "images")]
    table, model = str(simulated / "t.tsv"), tmp_path / "model"
    options = ["--target", "score", "--model", "stitched:lightweight", "--epochs", "1", "--repeats", "1"]
    options += ["--folds", "2", "-o", str(model)]
    assert main(["outcome", "train", table, *files, *options]) == 0
    assert len(registered) == HEADS
    out = tmp_path / "p.tsv"
    assert main(["outcome", "predict", str(model), table, *files, "-o", str(out)]) == 0
    found = np.array([float(row["prediction"]) for row in read_rows(out)])
    heads = np.arange(40) % HEADS
    # The same scan has the same prediction, another scan another one.
    of_head = [found[heads == k] for k in range(HEADS)]
    assert max(float(np.ptp(values)) for values in of_head) < 1e-3
    assert len({round(float(values.mean()), 6) for values in of_head}) == HEADS


def test_scans_that_show_no_head(tmp_path: Path) -> None:
    path = tmp_path / "sub-1_T1w.nii.gz"
    Volume(torch.zeros(1, 60, 60, 60), torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0]))).save(path)
    with pytest.raises(OutcomeError, match=r"sub-1_T1w.nii.gz cannot be taken to MNI space"):
        scan_in_mni(path)
