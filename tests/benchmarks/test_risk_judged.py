import math
import os
from pathlib import Path

import numpy as np
import pytest
from risk import SEED, markdown, summary

from anystroke.tasks.segmentation.observations import Observation, PatientSet, observe_all
from anystroke.tasks.segmentation.predict import Model
from stand_in import ONE_SIGN

CURVES = ONE_SIGN.marked.model_copy(
    update={"signs": ("peak",), "edges": ((-0.7, 0.0, 0.7, 1.5),), "odds": ((2.0, 1.0, -1.0, -2.0, -4.0),)}
)
PEAK = ONE_SIGN.model_copy(update={"marked": CURVES})


def _observation(peak: float, *, failed: bool, reason: str = "", difficulty: str = "usual") -> Observation:
    groups = {"difficulty": difficulty, "weighting": "T1w", "set": "simulated", "anatomy": "a"}
    return Observation(
        {"peak": peak, "volume": 1.0}, failed, (reason,) if reason else (), groups, None, 0.0, 0.0
    )


def test_the_summary_judges_risks_flags_and_groups() -> None:
    some = [
        _observation(-1.0, failed=True, difficulty="hopeless"),
        _observation(-0.5, failed=True, difficulty="hopeless"),
        _observation(0.5, failed=True, reason="the brain is cut off"),
        _observation(1.0, failed=False),
        _observation(2.0, failed=False, reason="the brain is cut off"),
        _observation(math.nan, failed=False),
    ]
    found = summary(some, PEAK)
    assert found["unknown"] == 1
    assert (found["all"]["n"], found["all"]["failed"], found["all"]["auc"]) == (5, 3, 1.0)
    assert found["all"]["sensitivity"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["all"]["specificity"] == 1.0
    assert found["all"]["flag"] == {"sensitivity": 1.0, "specificity": 0.5}
    assert found["all"]["other_reasons"] == {
        "sensitivity": pytest.approx(1 / 3, abs=1e-3),
        "specificity": 0.5,
    }
    assert (found["by_mask"]["marks something"]["n"], found["by_mask"]["empty"]["n"]) == (5, 0)
    assert found["by_difficulty"]["hopeless"]["auc"] is None  # all failed
    assert sum(row["n"] for row in found["reliability"]) == 5
    assert "| all | 5 | 3 | 1.00 (" in markdown(found)


@pytest.mark.slow
def test_the_default_model_knows_its_failures(tmp_path: Path) -> None:
    """Takes a quarter of an hour: 400 patients of anatomies and lesions that nothing learnt from."""
    pack = os.environ.get("ANYSTROKE_PACK")
    if not pack:
        pytest.skip("set ANYSTROKE_PACK to the data folder of a training run")
    model = Model.open("default")
    assert model.config.risk is not None
    patients = PatientSet(Path(pack), 400, SEED, held_out=True)
    found = summary(observe_all(model, patients, kept=tmp_path / "kept.jsonl"), model.config.risk)
    assert found["unknown"] == 0
    assert found["all"]["auc"] >= 0.85
    gaps = [abs(row["risk"] - row["failed"]) for row in found["reliability"] if row["n"] >= 40]
    assert np.mean(gaps) < 0.1
