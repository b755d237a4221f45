"""Outcomes from scans in MNI space without a mask: what is dark on one side."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from anystroke.anatomy.regions.grid import affine, tissue
from anystroke.anatomy.regions.regions import load_regions, region_labels, region_names
from anystroke.commands.main import main
from anystroke.core.arrays import Array
from anystroke.core.rng import stream
from anystroke.core.tables import read_rows
from anystroke.core.volume import Volume
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.explain import patients_like
from anystroke.tasks.outcome.files import load_outcome
from anystroke.tasks.outcome.scan_features import SIDED_REGIONS, asymmetry_of

PATIENTS = 24
INSULA = SIDED_REGIONS.index("insula left")


def _darkened(region: str, side: int, depth: float) -> Array:
    """Return the template with a region of one side darker."""
    inside = (region_labels() == region_names().index(region) + 1) & (
        load_regions().side.reshape(region_labels().shape) == side
    )
    return np.where(inside, tissue().template * (1 - depth), tissue().template).astype(np.float32)


def test_a_dark_region_is_found_on_its_side() -> None:
    assert np.abs(asymmetry_of(tissue().template)).max() < 1e-5
    found = asymmetry_of(_darkened("insula", 0, 0.5))
    assert found.argmin() == INSULA
    assert found[INSULA] < -1
    assert found[INSULA + 1] > -0.2
    mirrored = asymmetry_of(_darkened("insula", 1, 0.5))
    assert mirrored[INSULA + 1] == pytest.approx(found[INSULA], rel=1e-4)


def test_a_bright_region_shows_on_the_other_side() -> None:
    found = asymmetry_of(_darkened("insula", 0, -0.3))
    assert found.argmin() == INSULA + 1


def test_neither_unit_nor_offset_matters() -> None:
    volume = _darkened("insula", 0, 0.5)
    moved = np.where(tissue().template > 0, 300 * volume + 40, 0).astype(np.float32)
    assert asymmetry_of(moved) == pytest.approx(asymmetry_of(volume), abs=1e-3)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients whose score falls with the damage of the left insula, and not with that of the right one."""
    folder = tmp_path_factory.mktemp("scanned")
    (folder / "images").mkdir()
    lines = ["participant_id\tage\tscore"]
    for k in range(PATIENTS):
        depth = (k % 8) / 10
        volume = _darkened("insula", 0, depth) if k % 2 else _darkened("precuneus", 1, depth)
        noise = 0.2 * torch.randn(volume.shape, generator=stream(k, "noise")).numpy() * (volume > 0)
        scan = Volume(torch.from_numpy(volume + noise)[None], torch.from_numpy(affine()), 4)
        scan.save(folder / "images" / f"sub-{k:02d}_T1w.nii.gz")
        lines.append(f"sub-{k:02d}\t{50 + k}\t{10.3 - 11.7 * depth if k % 2 else 10.1 - 0.01 * k}")
    (folder / "t.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_scores_from_scans_without_masks(
    scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, model, images = str(scanned / "t.tsv"), str(tmp_path / "model"), str(scanned / "images")
    options = ["--target", "score", "--model", "asymmetry:ridge", "--repeats", "1", "--folds", "4"]
    shown = tmp_path / "shown"
    options += ["--show", str(shown), "-o", model]
    assert main(["outcome", "train", table, "--images", images, *options]) == 0
    assert {"sub-00.png", "sub-00_asymmetry.png"} <= {path.name for path in shown.iterdir()}
    out = tmp_path / "p.tsv"
    assert main(["outcome", "predict", model, table, "--images", images, "-o", str(out)]) == 0
    found = [float(row["prediction"]) for row in read_rows(out)]
    assert np.corrcoef(found, [float(row["score"]) for row in read_rows(scanned / "t.tsv")])[0, 1] > 0.9
    folder = tmp_path / "explained"
    assert main(["outcome", "explain", model, table, "--images", images, "-o", str(folder)]) == 0
    regions = [row["region"] for row in read_rows(folder / "regions.tsv")]
    assert regions[0] == "insula left"
    importance = {row["name"]: float(row["importance"]) for row in read_rows(folder / "importance.tsv")}
    assert importance["scan"] > abs(importance["age"])
    assert "beside its mirror image" in (folder / "report.html").read_text(encoding="utf-8")
    assert "sub-01" in (folder / "sub-01.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["outcome", "predict", model, table, "-o", str(tmp_path / "q.tsv")]) == 2
    assert "scans; give their folder with --images" in capsys.readouterr().err


def test_scans_are_asked_for(scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--target", "score", "--model", "asymmetry:ridge", "-o", str(tmp_path / "model")]
    assert main(["outcome", "train", str(scanned / "t.tsv"), *options]) == 2
    assert "needs scans; give their folder with --images" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_scans_with_the_table_and_each_alone(scanned: Path, tmp_path: Path) -> None:
    out = tmp_path / "compared"
    options = ["--target", "score", "--models", "asymmetry:ridge,asymmetry:elastic-net", "--folds", "3"]
    options += ["--images", str(scanned / "images"), "--repeats", "1", "-o", str(out)]
    assert main(["outcome", "compare", str(scanned / "t.tsv"), *options]) == 0
    names = [row["model"] for row in read_rows(out / "models.tsv")]
    assert "asymmetry:ridge (table alone)" in names
    assert "asymmetry:ridge (image alone)" in names


def test_patients_like_this_one_by_their_scans_alone(scanned: Path) -> None:
    images = tuple(sorted((scanned / "images").glob("*.nii.gz")))
    ids = tuple(path.name[:6] for path in images)
    nothing = np.empty((PATIENTS, 0))
    cohort = OutcomeCohort(ids, nothing, (), np.zeros(PATIENTS), images=images)
    # The darkest left insula is most like the one that is nearly as dark.
    assert ids[patients_like(cohort, ids.index("sub-07"))[0]] in {"sub-15", "sub-23", "sub-05", "sub-13"}


def test_a_scan_that_cannot_be_registered_is_left_out_if_asked(
    scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(scanned / "images", images)
    nothing = Volume(torch.zeros(1, 60, 60, 60), torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0])))
    nothing.save(images / "sub-03_T1w.nii.gz", overwrite=True)
    options = ["--target", "score", "--model", "asymmetry:ridge", "--repeats", "1", "--folds", "3"]
    options += ["--images", str(images), "-o", str(tmp_path / "model")]
    assert main(["outcome", "train", str(scanned / "t.tsv"), *options]) == 2
    error = capsys.readouterr().err
    assert "sub-03_T1w.nii.gz cannot be taken to MNI space" in error
    assert "--skip-missing leaves such patients out" in error
    assert main(["outcome", "train", str(scanned / "t.tsv"), *options, "--skip-missing"]) == 0
    said = capsys.readouterr()
    assert "1 of 24 patients are left out: sub-03 (" in said.out + said.err
    assert len(read_rows(tmp_path / "model" / "out_of_fold.tsv")) == PATIENTS - 1


@pytest.mark.parametrize(("model", "code"), [("table:ridge", 0), ("asymmetry:ridge", 2)])
def test_scans_are_registered_for_those_who_look_at_them(
    model: str, code: int, scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(scanned / "images", images)
    nothing = Volume(torch.zeros(1, 60, 60, 60), torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0])))
    nothing.save(images / "sub-03_T1w.nii.gz", overwrite=True)
    options = [
        "--target",
        "score",
        "--model",
        model,
        "--repeats",
        "1",
        "--folds",
        "2",
        "--images",
        str(images),
    ]
    assert main(["outcome", "train", str(scanned / "t.tsv"), *options, "-o", str(tmp_path / "model")]) == code
    assert ("cannot be taken to MNI space" in capsys.readouterr().err) == bool(code)


def test_a_model_of_masks_beside_scans_alone(scanned: Path, tmp_path: Path) -> None:
    options = ["--target", "score", "--models", "default,table:ridge", "--folds", "2", "--repeats", "1"]
    options += ["--images", str(scanned / "images"), "-o", str(tmp_path / "compared")]
    assert main(["outcome", "compare", str(scanned / "t.tsv"), *options]) == 0


def test_features_of_the_default_network(
    scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, model = str(scanned / "images"), str(tmp_path / "model")
    options = ["--target", "score", "--model", "encoder:ridge", "--repeats", "1", "--folds", "3", "-o", model]
    assert main(["outcome", "train", str(scanned / "t.tsv"), "--images", images, *options]) == 0
    loaded = load_outcome(model)
    [member] = loaded.config.members
    assert member.groups == ("columns", "encoder")
    assert member.features[-1] == f"encoder feature {len(member.features) - 1}"
    assert loaded.config.images
    assert not loaded.config.masks
    folder = tmp_path / "explained"
    assert (
        main(["outcome", "explain", model, str(scanned / "t.tsv"), "--images", images, "-o", str(folder)])
        == 0
    )
    assert {row["name"] for row in read_rows(folder / "importance.tsv")} == {"scan", "age"}
    assert not (folder / "regions.tsv").exists()
