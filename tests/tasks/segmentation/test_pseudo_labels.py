import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from anystroke.anatomy.lesions.bank import load_masks
from anystroke.anatomy.registration import mni as scan_registration
from anystroke.anatomy.registration.affine import RegistrationError
from anystroke.commands.common import ArgumentError
from anystroke.commands.pseudo_label import pseudo_label as verb
from anystroke.core.tables import TableError
from anystroke.core.volume import Volume
from anystroke.io.labelled import find_labelled_scans
from anystroke.io.results import Outcome
from anystroke.tasks.segmentation import pseudo_labels
from anystroke.tasks.segmentation.predict import Model, Segmentation, segment
from anystroke.tasks.segmentation.pseudo_labels import (
    LABEL_COLUMNS,
    Limits,
    PseudoLabelError,
    pseudo_label,
    pseudo_lesions,
)
from stand_in import CONFIG, Brightest, axial_affine, phantom, stand_in_model

SHAPE = (48, 56, 40)
AFFINE = axial_affine(4.0, 4.0, 4.5, shape=SHAPE)
STEM = "sub-1_space-orig_label-L_desc-T2w"


def write_scan(folder: Path, name: str = "sub-1_T2w") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.nii.gz"
    phantom(AFFINE, SHAPE).save(path)
    return path


def table(folder: Path) -> list[dict[str, str]]:
    header, *lines = (folder / "pairs.tsv").read_text().splitlines()
    assert tuple(header.split("\t")) == LABEL_COLUMNS
    return [dict(zip(LABEL_COLUMNS, line.split("\t"), strict=True)) for line in lines]


def label(scans: list[Path], folder: Path, model: Model | None = None, **limits: Any) -> list[Outcome]:
    return list(
        pseudo_label(scans, folder, model=model or stand_in_model(), limits=Limits(**limits), device="cpu")
    )


def test_a_kept_scan_is_a_pair(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in")
    [found] = label([scan], tmp_path / "out")
    assert found.details["use"]
    assert found.details["confidence"] is not None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "logs",
        "pairs.tsv",
        f"{STEM}_mask.json",
        f"{STEM}_mask.nii.gz",
    ]
    [row] = table(tmp_path / "out")
    assert row == {
        "image": "../in/sub-1_T2w.nii.gz",
        "mask": f"{STEM}_mask.nii.gz",
        "brain": "n/a",
        "name": "sub-1_T2w",
        "volume_ml": f"{found.details['volume_ml']:.3f}",
        "confidence": f"{found.details['confidence']:.4f}",
        "kept": "yes",
        "reason": "n/a",
    }
    [pair] = find_labelled_scans(tmp_path / "out")
    image, mask, _ = pair.load()
    assert (image.grid.difference(mask.grid), pair.name) == (None, "sub-1_T2w")
    assert float(mask.data.sum()) * mask.voxel_volume == pytest.approx(found.details["volume_ml"], abs=1e-3)
    facts = json.loads((tmp_path / "out" / f"{STEM}_mask.json").read_text())
    assert facts["MeanProbability"] == pytest.approx(found.details["confidence"])


def test_the_confidence_is_the_mean_probability_in_the_mask(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in")
    [found] = label([scan], tmp_path / "out")
    result = segment(scan, stand_in_model(), device="cpu")
    inside = result.probability.data[result.probability.data >= 0.5]
    assert found.details["confidence"] == pytest.approx(float(inside.mean()))
    assert found.details["volume_ml"] == pytest.approx(len(inside) * 0.072, rel=1e-4)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"smallest_ml": 300.0}, "ml is below 300 ml"),
        ({"largest_ml": 1.0}, "ml is above 1 ml"),
        ({"confidence": 1.0}, "is below 1"),
    ],
)
def test_finished_scans_are_judged_anew_but_not_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], reason: str
) -> None:
    scan = write_scan(tmp_path / "in")
    [first] = label([scan], tmp_path / "out")
    monkeypatch.setattr(pseudo_labels, "segment", None)
    [second] = label([scan], tmp_path / "out", **limits)
    assert not second.details["use"]
    assert reason in second.details["reason"]
    assert table(tmp_path / "out")[0]["kept"] == "no"
    [third] = label([scan], tmp_path / "out")
    assert (first.status, third.status) == ("done", "kept")
    assert third == replace(first, status="kept")
    called = []

    def count(*arguments: Any, **options: Any) -> Segmentation:
        called.append(arguments)
        return segment(*arguments, **options)

    monkeypatch.setattr(pseudo_labels, "segment", count)
    label([scan], tmp_path / "out", model=Model(Brightest(), CONFIG, sha256="1" * 64))
    assert len(called) == 1
    (tmp_path / "out" / f"{STEM}_mask.json").write_text("{")
    label([scan], tmp_path / "out", model=Model(Brightest(), CONFIG, sha256="1" * 64))
    assert len(called) == 2


def test_one_failure_does_not_stop_the_rest(tmp_path: Path) -> None:
    good = write_scan(tmp_path / "in")
    bad = tmp_path / "in" / "bad.nii.gz"
    bad.write_bytes(b"no image")
    twin = write_scan(tmp_path / "more")
    found = label([bad, good, twin], tmp_path / "out")
    assert [each.status for each in found] == ["failed", "done", "failed"]
    assert [each.details["use"] for each in found] == [False, True, False]
    assert "bad.nii.gz is not a readable image" in found[0].message
    assert "would write the same files" in found[2].message
    assert "Traceback" in found[0].traceback
    assert [row["mask"] for row in table(tmp_path / "out")] == ["n/a", f"{STEM}_mask.nii.gz", "n/a"]
    assert len(find_labelled_scans(tmp_path / "out")) == 1


def test_a_scan_without_lesion_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "flat.nii"
    head = phantom(AFFINE, SHAPE)
    healthy = torch.where(head.data > 130, 100.0, head.data)
    Volume(healthy, AFFINE).save(path)

    class Sceptic(Brightest):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image) - 100 * torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1, 1)

    [found] = label([path], tmp_path / "out", model=Model(Sceptic(), CONFIG, sha256="2" * 64))
    assert (found.details["use"], found.status) == (False, "done")
    assert found.details["reason"] == "no lesion was found"
    assert found.details["confidence"] is None


def test_the_brain_is_written_where_the_model_knows_it(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"brain": ("tissue",)})
    scan = write_scan(tmp_path / "in")
    [found] = label([scan], tmp_path / "out", model=Model(Brightest(), config, sha256="3" * 64))
    assert found.details["brain"] == "sub-1_space-orig_label-brain_desc-T2w_mask.nii.gz"
    brain = Volume.load(tmp_path / "out" / found.details["brain"])
    head = phantom(AFFINE, SHAPE).data > 60
    inside = (brain.data > 0) & head
    assert float(inside.sum()) > 0.6 * float(head.sum())
    assert float(inside.sum()) > 0.9 * float(brain.data.sum())
    [pair] = find_labelled_scans(tmp_path / "out")
    assert pair.brain is not None
    assert pair.brain.name == found.details["brain"]


def test_lesions_go_to_mni_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = [write_scan(tmp_path / "in", name) for name in ("a", "b", "c")]
    labels = label(scans, tmp_path / "out")
    labels[2] = replace(labels[2], details={**labels[2].details, "use": False})
    calls = []

    def moved(mask: Volume, scan: Volume, *, brain: Volume | None) -> Volume:
        calls.append(brain)
        if len(calls) == 2:
            raise RegistrationError("the registration is poor")
        return mask

    monkeypatch.setattr(scan_registration, "lesion_in_mni", moved)
    seen: list[tuple[str, str]] = []
    files = pseudo_lesions(
        labels, tmp_path / "out", on_scan=lambda name, problem: seen.append((name, problem))
    )
    assert [path.name for path in files] == ["a.nii.gz"]
    assert [mask.name for mask in load_masks(files)] == ["a"]
    assert seen == [("a", ""), ("b", f"{scans[1]}: the registration is poor")]
    assert [path.name for path in pseudo_lesions(labels, tmp_path / "out")] == ["a.nii.gz", "b.nii.gz"]
    assert len(calls) == 3


def test_what_is_refused(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in")
    for limits, message in (
        ({"smallest_ml": 5.0, "largest_ml": 2.0}, "got 5 to 2 ml"),
        ({"confidence": 80}, "got 80; try 0.8"),
    ):
        with pytest.raises(PseudoLabelError, match=message):
            label([scan], tmp_path / "out", **limits)
    with pytest.raises(PseudoLabelError, match="got none"):
        label([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "pairs.tsv").write_text("image\tmask\n")
    with pytest.raises(TableError, match="is not a table of anystroke"):
        label([scan], tmp_path)


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(verb)
    monkeypatch.setattr(Model, "open", lambda _: stand_in_model())
    scan = write_scan(tmp_path / "in")

    def run(*arguments: object) -> tuple[int, str]:
        command = typer.main.get_command(app)
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        code = command.main([str(a) for a in arguments], standalone_mode=False)
        return int(code), result.output

    code, text = run(scan, "-o", tmp_path / "out")
    assert code == 0
    assert "ml, kept" in text
    assert "1 of 1 scans kept" in text
    code, text = run(scan, tmp_path / "gone.nii", "-o", tmp_path / "out", "--smallest", 500, "--largest", 900)
    assert code == 1
    assert "left out" in text
    assert "gone.nii does not exist" in text
    with pytest.raises(PseudoLabelError, match=r"got 3; try 0\.8"):
        run(scan, "-o", tmp_path / "out", "--confidence", 3)
    with pytest.raises(ArgumentError, match="is a file"):
        run(scan, "-o", scan)
