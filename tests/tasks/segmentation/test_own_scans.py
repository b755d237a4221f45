import math
import shutil
from pathlib import Path

import pytest

from anystroke.core.tables import read_rows
from anystroke.io.labelled import LabelledScan
from anystroke.io.labelled_checks import CheckedScan
from anystroke.models.checkpoints import find_model, load_config, save_config
from anystroke.tasks.segmentation.calibrate import LEARNT_FROM
from anystroke.tasks.segmentation.config import SegmentationConfig, View
from anystroke.tasks.segmentation.finetuned import complete_finetuned, keep_better
from anystroke.tasks.segmentation.own_scans import OwnComparison, calibrating_of, held_out_of
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.validate import Score


def _checked(patient: str, scan: str, lesions: int = 1) -> CheckedScan:
    files = LabelledScan(f"{patient}_{scan}", Path(f"{scan}.nii"), Path(f"{patient}.nii"))
    return CheckedScan(files, patient, "", lesions, float(lesions))


def test_patients_are_held_out_as_a_whole_and_the_same_ones_each_time() -> None:
    scans = [_checked(f"p{n}", kind) for n in range(10) for kind in ("T1w", "FLAIR")]
    held = held_out_of(scans, 0.2)
    assert len(held) == 4
    assert len({each.patient for each in held}) == 2
    assert held == held_out_of(list(reversed(scans)), 0.2)[::-1]
    assert held_out_of(scans, 0) == []
    assert held_out_of(scans[:2], 0.5) == []


@pytest.mark.parametrize("ill", range(6))
def test_a_lesion_is_held_out_and_one_is_left_to_learn_from(ill: int) -> None:
    scans = [_checked(f"p{n}", "T1w", int(n in (ill, (ill + 1) % 6))) for n in range(6)]
    held = held_out_of(scans, 0.2)
    assert any(each.lesions for each in held)
    assert any(each.lesions for each in scans if each not in held)


def test_the_only_lesion_is_learnt_from() -> None:
    scans = [_checked("p1", "T1w", 0), _checked("p2", "T1w", 1)]
    assert held_out_of(scans, 0.5) == scans[:1]


def test_half_of_the_held_out_patients_calibrate_where_they_are_enough() -> None:
    scans = [_checked(f"p{n}", "T1w", int(n < 10)) for n in range(14)]
    calibrating = calibrating_of(scans)
    judging = [each for each in scans if each not in calibrating]
    assert [sum(each.lesions for each in side) for side in (calibrating, judging)] == [5, 5]
    assert [len(side) for side in (calibrating, judging)] == [7, 7]
    assert calibrating == calibrating_of(scans[::-1])[::-1]
    assert calibrating_of(scans[1:]) == []  # nine with a lesion
    twice = [_checked(f"p{n}", kind) for n in range(6) for kind in ("T1w", "FLAIR")]
    assert len({each.patient for each in calibrating_of(twice)}) == 3
    assert len(calibrating_of(twice)) == 6


def _score(dice: float, truth: float = 10.0) -> Score:
    return Score({"set": "real"}, dice if truth else math.nan, dice if truth else math.nan, 9.0, truth)


def _comparison(before: float, after: float) -> OwnComparison:
    return OwnComparison(("p1", "p2"), (_score(before), _score(0, 0.0)), (_score(after), _score(0, 0.0)))


def test_a_comparison_says_whether_it_helped(tmp_path: Path) -> None:
    better = _comparison(0.5, 0.7)
    assert better.helped
    assert not _comparison(0.7, 0.5).helped
    assert not _comparison(0.5, 0.5).helped
    text = "\n".join(better.lines())
    assert "p1    Dice 0.50, 9.0 of 10.0 ml -> Dice 0.70, 9.0 of 10.0 ml" in text
    assert "9.0 ml marked, no lesion" in text
    assert "mean  Dice 0.50, lesion-wise F1 0.50 -> Dice 0.70, lesion-wise F1 0.70" in text
    assert "2 held-out scans tell little" in text
    better.write(tmp_path / "table.tsv")
    rows = read_rows(tmp_path / "table.tsv")
    assert (rows[0]["dice_before"], rows[0]["dice_after"], rows[1]["dice_after"]) == ("0.5", "0.7", "n/a")


def test_views_are_of_images_as_the_start_sees_them(tmp_path: Path) -> None:
    tuned = tmp_path / "model"
    shutil.copytree(find_model("small"), tuned)
    plain = load_config(tuned, SegmentationConfig).model_copy(update={"spacing": 3.0, "views": (View(),)})
    save_config(tuned, plain)
    complete_finetuned(tuned, "default", ["a"])
    config = load_config(tuned, SegmentationConfig)
    assert config.views == (View(),)
    assert config.adc_exponential == 0
    assert config.certain_together == load_config("default", SegmentationConfig).certain_together


@pytest.mark.parametrize("after", [0.7, 0.3])
def test_the_better_model_is_kept_with_what_belongs_to_it(after: float, tmp_path: Path) -> None:
    tuned, start = tmp_path / "run" / "model", tmp_path / "start"
    shutil.copytree(find_model("small"), tuned)  # other weights of the same classes
    shutil.copytree(find_model("default"), start)
    shutil.copytree(find_model("small"), start / "second_network", dirs_exist_ok=True)
    complete_finetuned(tuned, str(start), ["a", "b"])
    config, before = load_config(tuned, SegmentationConfig), load_config(start, SegmentationConfig)
    for name in (
        "volume_errors",
        "certain_together",
        "certain_alone",
        "views",
        "adc_exponential",
        "small_parts",
    ):
        assert getattr(config, name) == getattr(before, name)
    assert len(config.views) > 1
    assert config.training[LEARNT_FROM] == ["a", "b"]
    assert Model.open(tuned).second_network is not None
    comparison = _comparison(0.5, after)
    chosen = keep_better(
        tmp_path / "model", tuned=tuned, start=str(start), comparison=comparison, learnt_from=["a"]
    )
    kept = Model.open(tmp_path / "model")
    assert kept.second_network is not None
    assert kept.sha256 == Model.open(chosen).sha256
    assert (chosen == tuned) == (after == 0.7)
    card = (tmp_path / "model" / "README.md").read_text()
    assert ("did not help" in card) == (after == 0.3)
    assert "Research use only" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run", "start"]
    again = keep_better(tmp_path / "model", tuned=tuned, start=str(start), comparison=None, learnt_from=["a"])
    assert again == tuned
