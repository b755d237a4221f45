from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.svm import SVR

from anystroke.tasks.outcome.calibrate import Conformal, fit_temperature, smoothed
from anystroke.tasks.outcome.cohort import Files, OutcomeCohort
from anystroke.tasks.outcome.estimators import ESTIMATORS
from anystroke.tasks.outcome.evaluate import (
    FoldSettings,
    compare_two,
    cross_validate,
    out_of_fold_scores,
    permutation_test,
)
from anystroke.tasks.outcome.explain import explain_model, one_number, region_importance, region_map
from anystroke.tasks.outcome.files import load_outcome, save_outcome
from anystroke.tasks.outcome.fitting import fit_model
from anystroke.tasks.outcome.folds import (
    close_box,
    group_differences,
    matched_groups,
    open_box,
    stratified_folds,
)
from anystroke.tasks.outcome.models import Transform, find_model_spec
from anystroke.tasks.outcome.predict import predict_rows
from anystroke.tasks.outcome.scores import (
    area_under_curve,
    calibration_error,
    chances,
    corrected_t_test,
    scores,
    white_t_test,
)
from anystroke.tasks.outcome.simulated import PLANTED, simulated_cohort
from anystroke.tasks.outcome.table import OutcomeError, Target
from anystroke.tasks.outcome.train import Study, check_model, train_outcome

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def cohort() -> OutcomeCohort:
    return simulated_cohort(80)


def _random(seed: int, rows: int, columns: int) -> tuple[Array, Array]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=rng, dtype=torch.float64).numpy()
    noise = torch.randn(rows, generator=rng, dtype=torch.float64).numpy()
    return x, 3 * x[:, 0] + x[:, 1] ** 2 + 0.5 * noise


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("classes", [False, True])
def test_estimators_learn(name: str, classes: bool) -> None:
    x, y = _random(1, 150, 5)
    wanted = (y > np.median(y)).astype(float) if classes else y
    part = ESTIMATORS[name].fit(x[:100], wanted[:100], classes, ESTIMATORS[name].grid[0])
    predicted = part.apply(x[100:])
    if name == "mean":
        assert np.ptp(predicted) == 0
    elif classes:
        assert area_under_curve(predicted, wanted[100:] == 1) > 0.8
    else:
        assert np.corrcoef(predicted, wanted[100:])[0, 1] > 0.8


def test_trees_are_those_of_scikit_learn() -> None:
    x, y = _random(2, 120, 5)
    part = ESTIMATORS["boosting"].fit(x, y, False, {})
    settings = {
        "n_estimators": 150,
        "max_depth": 3,
        "learning_rate": 0.04,
        "subsample": 0.5,
        "max_features": 0.2,
    }
    model = GradientBoostingRegressor(**settings, min_samples_leaf=8, random_state=0).fit(x, y)
    assert np.allclose(part.apply(x), model.predict(x), atol=1e-9)


def test_fourier_features_stand_for_the_kernel() -> None:
    x, y = _random(3, 120, 5)
    part = ESTIMATORS["support-vectors"].fit(x, y, False, {"cost": 30, "gamma": 0.1})
    exact = SVR(C=30 / 8, epsilon=0.125, gamma=0.1 / 5).fit(x, y / y.std())
    assert np.corrcoef(part.apply(x), exact.predict(x))[0, 1] > 0.99


def test_no_array_is_a_patient(cohort: OutcomeCohort) -> None:
    model = fit_model(find_model_spec("low-rank:support-vectors"), cohort, "two_classes")
    rows = model.members[0].transform.apply(cohort)
    for array in model.members[0].parts[0].arrays.values():
        if array.ndim == 2 and array.shape[1] == rows.shape[1]:
            assert not any(np.isclose(array, row).all(axis=1).any() for row in rows)
    assert len(cohort.ids) not in model.members[0].parts[0].arrays["weights"].shape


def test_nothing_is_learnt_from_held_out_patients(cohort: OutcomeCohort) -> None:
    transform = Transform.fit(("columns", "low-rank"), cohort.rows(range(40)))
    changed = replace(cohort, columns=np.where(np.arange(80)[:, None] >= 40, 99.0, cohort.columns))
    again = Transform.fit(("columns", "low-rank"), changed.rows(range(40)))
    assert np.array_equal(transform.mean, again.mean)
    assert np.array_equal(transform.components, again.components)


def test_missing_values_become_training_medians(cohort: OutcomeCohort) -> None:
    transform = Transform.fit(("columns",), cohort)
    gap = replace(cohort.rows([0]), columns=np.array([[np.nan, 2.0]]))
    assert transform.apply(gap)[0, 0] == pytest.approx(
        (transform.median[0] - transform.mean[0]) / transform.scale[0]
    )


@pytest.mark.parametrize(
    "name", ["nonsense", "volume:ridge", "volume:resnet18", "stitched:daft", "wrong:svm"]
)
def test_models_that_there_are_not(name: str) -> None:
    with pytest.raises(OutcomeError, match="expected"):
        find_model_spec(name)


def test_from_training_to_a_file_and_back(cohort: OutcomeCohort, tmp_path: Path) -> None:
    study = Study(cohort, Target(name="good", kind="two_classes", classes=("no", "yes")), (), Files())
    trained = train_outcome(study, "default", "toy", validation=FoldSettings(folds=3, repeats=1))
    assert trained.evaluation["scores"]["auc"] > 0.6
    save_outcome(tmp_path / "m", trained.model, "card")
    again = load_outcome(tmp_path / "m")
    assert np.array_equal(again.fitted.raw(cohort), trained.model.fitted.raw(cohort))
    rows = predict_rows(again, cohort)
    assert {row["prediction"] for row in rows} == {"no", "yes"}
    assert not list((tmp_path / "m").glob("*.pkl"))
    (tmp_path / "m" / "config.json").write_text("{}")
    with pytest.raises(OutcomeError, match="predicts no outcome"):
        load_outcome(tmp_path / "m")


def test_grades_and_numbers(cohort: OutcomeCohort) -> None:
    grades = replace(cohort, target=np.floor(np.clip(cohort.columns[:, 0], 1, 6.99)) // 2)
    model = fit_model(find_model_spec("table:ridge"), grades, "ordered")
    raw = model.raw(grades)
    assert np.allclose(chances(raw).sum(axis=1), 1)
    assert (chances(raw) >= 0).all()
    assert scores(raw, grades.target, "ordered")["spearman"] > 0.8
    numbers = replace(cohort, target=10 * cohort.columns[:, 1])
    found = cross_validate(
        find_model_spec("table:ridge"), numbers, "number", FoldSettings(folds=4, repeats=2)
    )
    values = out_of_fold_scores(found, numbers.target, "number", draws=50)
    assert values["r"] > 0.95
    assert values["r_interval"][0] <= values["r"] <= values["r_interval"][1] + 0.01


def test_chance_is_chance(cohort: OutcomeCohort) -> None:
    spec = find_model_spec("table:ridge")
    found = cross_validate(spec, cohort, "two_classes", FoldSettings(folds=4, repeats=1))
    observed = scores(found.raw[0], cohort.target, "two_classes")["auc"]
    shuffled = permutation_test(spec, cohort, "two_classes", observed=observed, draws=10)
    assert 0.3 < shuffled["mean"] < 0.7
    assert shuffled["highest"] < observed
    assert shuffled["p"] == pytest.approx(1 / 11)


def test_tests_of_two_models(cohort: OutcomeCohort) -> None:
    how = FoldSettings(folds=4, repeats=2)
    good, bad = (
        cross_validate(find_model_spec(n), cohort, "two_classes", how) for n in ("table:ridge", "table:mean")
    )
    found = compare_two(good, bad, cohort.target, "two_classes")
    assert found["difference"] > 0.1
    assert found["low"] > 0
    assert found["bootstrap_p"] < 0.01
    assert found["white_dof"] == pytest.approx(1.35)
    same = compare_two(good, good, cohort.target, "two_classes")
    assert (same["difference"], same["bootstrap_p"]) == (0.0, 1.0)


def test_t_tests_by_hand() -> None:
    differences = [0.02, 0.03, 0.01, 0.04]
    mean, sd = np.mean(differences), np.std(differences, ddof=1)
    white = white_t_test(differences)
    assert white.t == pytest.approx(mean * np.sqrt(2.35) / sd)
    corrected = corrected_t_test(differences, test_share=1 / 3)
    assert corrected.t == pytest.approx(mean / np.sqrt((1 / 4 + 1 / 3) * sd**2))


def test_folds_are_stratified() -> None:
    target = np.r_[np.zeros(30), np.ones(10)]
    folds = stratified_folds(target, 5, seed=1, classes=True)
    assert [int(target[folds == k].sum()) for k in range(5)] == [2] * 5
    assert np.array_equal(folds, stratified_folds(target, 5, seed=1, classes=True))
    numbers = stratified_folds(np.arange(100.0), 5, seed=1, classes=False)
    assert all(abs(np.arange(100.0)[numbers == k].mean() - 49.5) < 2.5 for k in range(5))


def test_groups_are_matched(cohort: OutcomeCohort) -> None:
    values = np.c_[cohort.columns, [lesion.volume_ml for lesion in cohort.lesions]]
    groups = matched_groups(values, 4, seed=1)
    assert np.bincount(groups).tolist() == [20] * 4
    assert group_differences(values, groups).max() < 0.1


def test_a_lock_box_counts_its_openings(tmp_path: Path) -> None:
    inside = np.array([True, False, True])
    box = close_box(["b", "x", "a"], np.array([1.0, 2.0, 3.0]), inside)
    assert box.ids == ("a", "b")
    assert (
        box.sha256
        == close_box(["a", "b", "x"], np.array([3.0, 1.0, 5.0]), np.array([True, True, False])).sha256
    )
    record = tmp_path / "r.json"
    assert [open_box(box, record).openings for _ in range(2)] == [1, 2]


def test_intervals_hold_their_rate() -> None:
    rng = torch.Generator().manual_seed(1)
    predicted = 10 * torch.rand(2000, generator=rng, dtype=torch.float64).numpy()
    noise = torch.randn(2000, generator=rng, dtype=torch.float64).numpy()
    target = predicted + noise * (0.2 + 0.3 * predicted)
    interval = Conformal.fit(predicted[:1000], target[:1000], rate=0.9)
    low, high = interval.interval(predicted[1000:])
    held = (low <= target[1000:]) & (target[1000:] <= high)
    assert 0.87 < held.mean() < 0.93
    small = predicted[1000:] < 3
    assert 0.84 < held[small].mean() < 0.97
    assert (high - low)[small].mean() < 0.5 * (high - low)[~small].mean()


def test_a_temperature_lowers_the_calibration_error() -> None:
    rng = torch.Generator().manual_seed(1)
    logits = 1.5 * torch.randn(4000, generator=rng, dtype=torch.float64).numpy()
    drawn = torch.rand(4000, generator=rng, dtype=torch.float64).numpy()
    positive = drawn < smoothed(logits, 1.0)
    sure = 4 * logits
    temperature = fit_temperature(sure[:2000], positive[:2000].astype(float))
    assert temperature == pytest.approx(4, rel=0.2)
    before = calibration_error(smoothed(sure[2000:], 1.0), positive[2000:])
    after = calibration_error(smoothed(sure[2000:], temperature), positive[2000:])
    assert after < 0.5 * before


def test_explanations_find_what_was_planted(cohort: OutcomeCohort) -> None:
    planted = replace(cohort, target=(cohort.columns[:, 0] > 4).astype(float))
    study = Study(planted, Target(name="y", kind="two_classes", classes=("0", "1")), (), Files())
    trained = train_outcome(study, "default", "toy", validation=FoldSettings(folds=2, repeats=1))
    found = explain_model(trained.model, planted, patients=2)
    assert found.importance[0][0] == "severity"
    assert found.saliency is None
    painted = region_map({"insula left": 2.0})
    assert painted.max() == 2
    assert painted[46:].max() == 0


def test_networks_need_patients(cohort: OutcomeCohort) -> None:
    small = Study(
        cohort.rows(range(39)), Target(name="y", kind="two_classes", classes=("0", "1")), (), Files()
    )
    with pytest.raises(OutcomeError, match="at least 40 patients, got 39"):
        check_model(find_model_spec("resnet18"), small)


@pytest.mark.slow
def test_exchanged_regions_find_the_planted_ones() -> None:
    large = simulated_cohort(600)
    trained, seen = large.rows(range(450)), large.rows(range(450, 600))
    both, table = (
        fit_model(find_model_spec(name), trained, "two_classes")
        for name in ("loads:support-vectors", "table:ridge")
    )
    reached = [scores(model.raw(seen), seen.target, "two_classes")["auc"] for model in (both, table)]
    assert reached[0] > reached[1] + 0.1
    predicted = one_number(both, both.raw(seen))
    total: dict[str, float] = {}
    for k in range(40):
        for name, value in region_importance(both, seen, k, predicted).items():
            total[name] = total.get(name, 0.0) + value
    lowered = sorted(total, key=lambda name: total[name])[:2]
    assert set(lowered) == {f"{name.replace('_', ' ')} left" for name in PLANTED}
    assert all(total[name] < 0 for name in lowered)
