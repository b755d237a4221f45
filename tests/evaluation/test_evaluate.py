import json
import math
from pathlib import Path

import pytest
import torch

from anystroke.commands.main import main
from anystroke.core.tables import TableError, number, read_rows, write_table
from anystroke.core.volume import Volume
from anystroke.evaluation.cases import Pair, PairError, find_pairs
from anystroke.evaluation.evaluate import Reading, evaluate_pairs
from anystroke.evaluation.masks import MaskError, isotropic_grid, load_probability, read_mask, resampled_mask
from anystroke.evaluation.metrics.measure import load_settings

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))


def lesion(start: int = 4, side: int = 4, *, value: float = 1.0) -> torch.Tensor:
    data = torch.zeros(1, 16, 16, 16)
    data[:, start : start + side, 4:8, 4:8] = value
    return data


def save(path: Path, data: torch.Tensor, affine: torch.Tensor = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Volume(data, affine).save(path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["evaluate", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def table(folder: Path) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in read_rows(folder / "metrics.tsv")}


def test_what_segment_writes_meets_what_simulate_writes(tmp_path: Path) -> None:
    for patient in ("sim-0001", "sim-0002"):
        truth = save(tmp_path / "sim" / f"{patient}_label-L_mask.nii.gz", lesion())
        save(tmp_path / "sim" / f"{patient}_dseg.nii.gz", lesion())
        for contrast in ("T1w", "FLAIR"):
            stem = f"{patient}_{contrast}_space-orig_label-L"
            save(tmp_path / "seg" / f"{stem}_mask.nii.gz", lesion())
            save(tmp_path / "seg" / f"{stem}_probseg.nii.gz", lesion(value=0.9))
    found = find_pairs(tmp_path / "seg", tmp_path / "sim")
    assert [case.id for case in found.cases] == [
        f"sim-000{n}_{contrast}" for n in (1, 2) for contrast in ("FLAIR", "T1w")
    ]
    assert found.cases[-1].truth == truth
    assert found.cases[0].facts == {"patient": "sim-0001", "sequence": "FLAIR"}
    assert found.cases[0].probability is not None
    assert not found.problems
    assert found.notes == (f"2 files in {tmp_path / 'sim'} were passed over, as others are called masks",)


def test_bids_trees_pair_by_subject_and_session(tmp_path: Path) -> None:
    for session in ("1", "2"):
        where = Path("sub-01") / f"ses-{session}" / "anat"
        save(
            tmp_path / "p" / where / f"sub-01_ses-{session}_space-orig_label-L_desc-T1w_mask.nii.gz", lesion()
        )
        name = f"sub-01_ses-{session}_space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask.nii.gz"
        save(tmp_path / "t" / where / name, lesion())
    pairs = find_pairs(tmp_path / "p", tmp_path / "t").cases
    sessions = [(case.prediction, case.truth) for case in pairs]
    assert len(sessions) == 2
    for prediction, truth in sessions:
        assert prediction is not None
        assert prediction.parent.parent.name == truth.parent.parent.name


def test_plain_names_pair_and_what_has_no_partner_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("case_001", "case_002", "case_004"):
        save(tmp_path / "t" / f"{name}.nii.gz", lesion())
    for name in ("case_001", "case_002", "case_003"):
        save(tmp_path / "p" / f"{name}.nii.gz", lesion(5))
    code, out, err = run(capsys, tmp_path / "p", tmp_path / "t", "-o", tmp_path / "o")
    assert code == 1
    assert "case_003.nii.gz has no truth" in err
    assert "case_004.nii.gz has no prediction" in err
    assert "2 cases measured, 2 failed" in out
    rows = table(tmp_path / "o")
    assert float(rows["case_001"]["dice"]) == pytest.approx(0.75)
    assert rows["case_004"]["status"] == "failed"
    assert rows["case_003"]["status"] == "failed"
    assert (tmp_path / "o" / rows["case_003"]["prediction"]).samefile(tmp_path / "p" / "case_003.nii.gz")
    assert rows["case_003"]["truth"] == "n/a"
    assert "case_003.nii.gz has no truth" in rows["case_003"]["message"]
    assert sum(row["status"] == "failed" for row in rows.values()) == 2
    code, out, _ = run(
        capsys, tmp_path / "p", tmp_path / "t", "-o", tmp_path / "o", "--missing", "empty", "--overwrite"
    )
    assert table(tmp_path / "o")["case_004"]["dice"] == "0"


def test_two_patients_under_one_name_are_refused(tmp_path: Path) -> None:
    for site in ("a", "b"):
        save(tmp_path / "p" / site / "sub-01_label-L_mask.nii.gz", lesion())
        save(tmp_path / "t" / site / "sub-01_label-L_mask.nii.gz", lesion())
    found = find_pairs(tmp_path / "p", tmp_path / "t")
    assert not found.cases
    assert len(found.problems) == 2
    assert all("the name sub-01 stands for 2 cases" in each.message for each in found.problems)
    places = [f"{site}/sub-01_label-L_mask" for site in ("a", "b")]
    assert [each.id for each in found.problems] == places
    assert [each.prediction for each in found.problems] == [tmp_path / "p" / f"{p}.nii.gz" for p in places]
    save(tmp_path / "q" / "sub-01_desc-T1w_label-L_mask.nii.gz", lesion())
    [problem] = find_pairs(tmp_path / "q", tmp_path / "t").problems[:1]
    assert "several truths" in problem.message
    assert problem.id == "sub-01_desc-T1w"


def test_what_has_no_partner_has_a_name_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for where in ("t/case_1", "t/b/case_2", "p/case_1", "p/a/case_3", "p/c/case_3", "p/case_3"):
        save(tmp_path / f"{where}.nii.gz", lesion())
    save(tmp_path / "t" / "d" / "case_4.nii.gz", lesion())
    found = find_pairs(tmp_path / "p", tmp_path / "t")
    assert [case.id for case in found.cases] == ["case_1", "case_2", "case_4"]
    assert [each.id for each in found.problems] == ["a/case_3", "c/case_3", "case_3"]
    code, _, err = run(capsys, tmp_path / "p", tmp_path / "t", "-o", tmp_path / "o")
    assert code == 1
    rows = table(tmp_path / "o")
    assert len(rows) == 6  # no name stands for two
    for each in found.problems:
        assert f"error: {each.message}" in err
        assert each.prediction is not None
        assert (tmp_path / "o" / rows[each.id]["prediction"]).samefile(each.prediction)
    pairs = tmp_path / "pairs.tsv"
    lines = [{"prediction": "p/case_1.nii.gz"}, {"id": "mine", "prediction": "p/case_3.nii.gz"}, {}]
    write_table(pairs, ("id", "prediction", "truth"), lines)
    assert [each.id for each in find_pairs(pairs).problems] == ["case_1", "mine", "line 4"]


def test_a_table_of_pairs_with_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "p1.nii.gz", lesion(5))
    save(tmp_path / "p2.nii.gz", lesion(value=0.7))
    save(tmp_path / "t.nii.gz", lesion())
    pairs = tmp_path / "pairs.tsv"
    write_table(
        pairs,
        ("id", "prediction", "truth", "probability", "site"),
        [
            {"id": "one", "prediction": "p1.nii.gz", "truth": "t.nii.gz", "site": "A"},
            {"id": "two", "prediction": "p2.nii.gz", "truth": "t.nii.gz", "probability": "p2.nii.gz"},
        ],
    )
    code, _out, err = run(capsys, pairs, "-o", tmp_path / "o")
    assert code == 1
    assert "p2.nii.gz holds probabilities (0 to 0.7), expected a mask; give --threshold" in err
    code, _, err = run(capsys, pairs, "-o", tmp_path / "o", "--threshold", "0.5", "--overwrite")
    assert code == 0
    assert "note: two: the prediction probabilities cut at 0.5" in err
    rows = table(tmp_path / "o")
    assert (rows["one"]["site"], rows["two"]["site"]) == ("A", "n/a")
    assert rows["one"]["brier"] == "n/a"
    assert float(rows["two"]["brier"]) == pytest.approx(0.09, abs=1e-6)
    assert (tmp_path / "o" / rows["one"]["prediction"]).resolve() == (tmp_path / "p1.nii.gz").resolve()
    facts = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert facts["Settings"]["connectivity"] == 26
    assert "preset anystroke" in facts["Convention"]
    lesions = read_rows(tmp_path / "o" / "lesions.tsv")
    assert [row["kind"] for row in lesions] == ["true", "predicted"] * 2
    assert (lesions[0]["x"], lesions[0]["y"]) == ("11", "11")
    code, _, err = run(capsys, pairs, tmp_path / "t.nii.gz", "-o", tmp_path / "o2")
    assert (code, "no second path" in err) == (2, True)
    write_table(pairs, ("prediction", "truth", "dice"), [{"prediction": "a", "truth": "b", "dice": 1}])
    with pytest.raises(TableError, match="column dice"):
        find_pairs(pairs)


def test_labels_are_given_and_not_guessed(tmp_path: Path) -> None:
    classes = lesion(value=4.0)
    classes[:, 12:] = 1
    path = save(tmp_path / "a_dseg.nii.gz", classes)
    with pytest.raises(MaskError, match="labels 1, 4; say which is the lesion"):
        read_mask(path)
    assert int(read_mask(path, label="4").mask.data.sum()) == 64
    with pytest.raises(MaskError, match="no table of labels"):
        read_mask(path, label="lesion")
    (tmp_path / "a_dseg.tsv").write_text("index\tname\n1\tgrey_matter\n4\tlesion\n")
    assert int(read_mask(path, label="Lesion").mask.data.sum()) == 64
    with pytest.raises(MaskError, match="grey_matter, lesion; give its number"):
        read_mask(path, label="stroke")
    assert read_mask(path, label="5").notes == ("holds no lesion",)
    binary = save(tmp_path / "b.nii.gz", lesion())
    with pytest.raises(MaskError, match="label 1 alone, expected 5"):
        read_mask(binary, label="5")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "infarct": 1}}))
    assert bool(read_mask(binary, label="infarct").mask.data.any())


def test_values_that_are_no_labels(tmp_path: Path) -> None:
    broken = lesion()
    broken[0, 0, 0, :3] = math.nan
    with pytest.raises(MaskError, match="3 voxels that are NaN"):
        read_mask(save(tmp_path / "nan.nii.gz", broken))
    with pytest.raises(MaskError, match="no labels"):
        read_mask(save(tmp_path / "scan.nii.gz", lesion(value=312.5)))
    with pytest.raises(MaskError, match=r"0 to 1\.5"):
        load_probability(save(tmp_path / "p.nii.gz", lesion(value=1.5)))


def test_another_grid_is_resampled_and_said(tmp_path: Path) -> None:
    fine = torch.diag(torch.tensor([1.0, 1, 1, 1], dtype=torch.float64))
    fine[:3, 3] = -0.5
    data = lesion().repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    prediction = save(tmp_path / "p.nii.gz", data, fine)
    truth = save(tmp_path / "t.nii.gz", lesion())
    [done] = evaluate_pairs([Pair("a", prediction, truth)])
    assert done.measurement is not None
    assert done.measurement.values["dice"] == 1
    assert "32 x 32 x 32 voxels of 1 x 1 x 1 mm to 16 x 16 x 16 voxels of 2 x 2 x 2 mm" in done.message
    assert "0.51 ml before and 0.51 ml after" in done.message
    [done] = evaluate_pairs([Pair("a", truth, truth)], settings=load_settings("qsynth"))
    assert done.measurement is not None
    assert done.measurement.values["truth_ml"] == pytest.approx(64 * 8 / 1000)
    far = AFFINE.clone()
    far[0, 3] = 500
    [failed] = evaluate_pairs([Pair("a", save(tmp_path / "far.nii.gz", lesion(), far), truth)])
    assert failed.status == "failed"
    assert "far.nii.gz: its field of view does not overlap" in failed.message


def test_an_isotropic_grid_covers_the_same_space() -> None:
    volume = Volume(torch.zeros(1, 10, 10, 4), torch.diag(torch.tensor([0.5, 0.5, 5.0, 1.0])))
    affine, shape = isotropic_grid(volume, 1.0)
    assert shape == (5, 5, 20)
    first = affine @ torch.tensor([-0.5, -0.5, -0.5, 1.0], dtype=torch.float64)
    assert first[:3].tolist() == pytest.approx([-0.25, -0.25, -2.5])
    moved, note = resampled_mask(
        Volume(torch.ones(1, 10, 10, 4, dtype=torch.bool), volume.affine), affine, shape
    )
    assert bool(moved.data.all())
    assert note


def test_one_bad_case_hides_no_other(tmp_path: Path) -> None:
    good = save(tmp_path / "good.nii.gz", lesion())
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    cases = [Pair("bad", tmp_path / "bad.nii.gz", good), Pair("none", None, good), Pair("good", good, good)]
    done = list(evaluate_pairs(cases))
    assert [one.status for one in done] == ["failed", "failed", "ok"]
    assert "bad.nii.gz" in done[0].message
    assert "good.nii.gz has no prediction" in done[1].message
    [empty] = evaluate_pairs(cases[1:2], reading=Reading(missing="empty"))
    assert empty.measurement is not None
    assert empty.measurement.values["sensitivity"] == 0


def test_arguments_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = save(tmp_path / "m.nii.gz", lesion())
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((mask,), "expected the truth"),
        ((mask, tmp_path), "two files or two folders"),
        ((tmp_path / "none", mask), "there is none"),
        ((tmp_path / "empty", tmp_path), "files in"),
        ((mask, mask, "--preset", "dice"), "got 'dice'"),
        ((mask, mask, "--set", "connectivity=7"), "connectivity"),
        ((mask, mask, "--set", "connectivity"), "KEY=VALUE"),
        ((mask, mask, "--threshold", "2"), "got 2"),
        ((mask, mask, "--missing", "skip"), "'skip'"),
    ):
        code, _, err = run(capsys, *arguments, "-o", tmp_path / "o")
        assert (code, message in err) == (2, True), (arguments, err)
    assert not (tmp_path / "o").exists()
    assert run(capsys, mask, mask, "-o", tmp_path / "o", "--set", "connectivity=6")[0] == 0
    code, _, err = run(capsys, mask, mask, "-o", tmp_path / "o")
    assert (code, "exists already" in err) == (2, True)
    with pytest.raises(PairError):
        find_pairs(mask)


def test_tables_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    with pytest.raises(TableError, match="there is none"):
        read_rows(path)
    for text, message in (("", "empty"), ("a\ta\n", "two columns"), ("a\tb\n1\n", "line 2 has 1 cells")):
        path.write_text(text)
        with pytest.raises(TableError, match=message):
            read_rows(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TableError, match="not a table of text"):
        read_rows(path)
    assert math.isnan(number("n/a"))
    with pytest.raises(ValueError, match="x"):
        number("x")
