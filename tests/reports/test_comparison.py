import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from anystroke.commands.main import main
from anystroke.core.tables import read_rows, write_table
from anystroke.core.volume import Volume
from anystroke.evaluation.cases import find_pairs
from anystroke.evaluation.evaluate import evaluate_pairs, write_measurements
from anystroke.evaluation.metrics.measure import METRICS, MetricSettings, load_settings
from anystroke.evaluation.results import Results, ResultsError, check_comparable, load_results
from anystroke.evaluation.summaries import (
    Stratum,
    Summary,
    compare_models,
    group_runs,
    independent_units,
    spread_of_seeds,
    strata,
    summarise_groups,
    worst_cases,
)
from anystroke.reports.comparison import CompareSettings, compare_results
from anystroke.reports.published import published_table, published_tables
from anystroke.reports.tables import TableLook, figure, paper_table

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
CASES = {f"sub-{k}": k for k in range(1, 8)}


def cube(side: int) -> torch.Tensor:
    data = torch.zeros(1, 16, 16, 16)
    data[:, 4 : 4 + side, 4:8, 4:8] = 1
    return data


def evaluated(
    root: Path,
    name: str,
    sides: Mapping[str, int],
    *,
    folder: str = "",
    settings: MetricSettings | None = None,
) -> Path:
    """Evaluate cubes of the given sides against ones of side 1, 2, ...; the last patient has no lesion."""
    settings = settings or load_settings()
    output = root / (folder or name)
    rows = []
    for case, side in sides.items():
        truth, prediction = root / f"{case}_t.nii.gz", output / f"{case}_p.nii.gz"
        output.mkdir(parents=True, exist_ok=True)
        Volume(cube(CASES[case] % 7), AFFINE).save(truth, overwrite=True)
        Volume(cube(side), AFFINE).save(prediction, overwrite=True)
        probability = output / f"{case}_q.nii.gz"
        Volume(0.8 * cube(side), AFFINE).save(probability, overwrite=True)
        rows.append({
            "id": case, "prediction": prediction.name, "truth": f"../{truth.name}",
            "probability": probability.name, "site": "A" if CASES[case] % 2 else "B",
        })  # fmt: skip
    write_table(output / "pairs.tsv", ("id", "prediction", "truth", "probability", "site"), rows)
    found = find_pairs(output / "pairs.tsv")
    write_measurements(
        output, list(evaluate_pairs(found.cases, settings=settings)), found, settings=settings, name=name
    )
    return output


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("results")
    good = {case: k % 7 for case, k in CASES.items()}
    half = {case: (k % 7 + 1) // 2 for case, k in CASES.items()}
    return {
        "good": evaluated(root, "good", good),
        "half": evaluated(root, "half", half),
        "half again": evaluated(root, "half", {**half, "sub-4": 3}, folder="half-again"),
        "blind": evaluated(root, "blind", dict.fromkeys(CASES, 0)),
        "some": evaluated(root, "some", dict.fromkeys(list(CASES)[:5], 1)),
        "other": evaluated(root, "other", good, settings=load_settings("atlas")),
    }


def load(folders: Mapping[str, Path], *names: str) -> list[Results]:
    return [load_results(folders[name]) for name in names]


def test_summaries_are_those_of_the_cases(folders: dict[str, Path]) -> None:
    models = group_runs(load(folders, "good", "half", "blind"))
    [everything, *_] = strata(models)
    table = {(one.model, one.metric): one for one in summarise_groups(models, [everything])}
    half = [2 * ((k + 1) // 2) / ((k + 1) // 2 + k) for k in range(1, 7)]
    assert table["half", "dice"].mean == pytest.approx(np.mean(half))
    assert table["half", "dice"].deviation == pytest.approx(np.std(half, ddof=1))
    assert table["half", "dice"].median == pytest.approx(np.median(half))
    for model in ("good", "half", "blind"):
        one = table[model, "dice"]
        assert (one.count, one.undefined, one.failed) == (6, 1, 0)
    assert table["good", "dice"].median == 1
    assert table["blind", "hausdorff95"].median == pytest.approx(math.sqrt(3) * 32)
    assert table["good", "volume_difference"].count == 7


def test_strata_hold_every_case_once(folders: dict[str, Path]) -> None:
    models = group_runs(load(folders, "good"))
    groups = strata(models, ["site"])
    for kind in ("lesion size", "site"):
        members = [case for group in groups if group.kind == kind for case in group.cases]
        assert sorted(members) == sorted(CASES)
    assert {group.name: len(group.cases) for group in groups if group.kind == "site"} == {"A": 4, "B": 3}
    assert {g.name: len(g.cases) for g in groups if g.kind == "lesion size"} == {"no lesion": 1, "0-1 ml": 6}
    with pytest.raises(ResultsError, match="no case has a scanner; the columns are site"):
        strata(models, ["scanner"])


def test_what_is_missing_is_counted(folders: dict[str, Path]) -> None:
    results = load(folders, "good", "some")
    [note] = check_comparable(results)
    assert "lacks 2 of 7 cases: sub-6, sub-7" in note
    models = group_runs(results)
    table = {(one.model, one.metric): one for one in summarise_groups(models, strata(models)[:1])}
    assert (table["some", "dice"].count, table["some", "dice"].failed) == (5, 2)
    [test] = [t for t in compare_models(models, strata(models)[:1]) if t.metric == "dice"]
    assert test.found.pairs == 5
    text = paper_table(list(table.values()), "markdown")
    assert "[2 failed]" in text
    assert "[1 undef.]" in text


def test_what_cannot_be_compared_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"measured differently \(both_empty, connectivity"):
        check_comparable(load(folders, "good", "other"))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("metrics.tsv", "metrics.json"):
        (copy / name).write_text((folders["good"] / name).read_text())
    rows = read_rows(copy / "metrics.tsv")
    rows[2]["truth_ml"] = "5.5"
    write_table(copy / "metrics.tsv", list(rows[0]), rows)
    with pytest.raises(ResultsError, match=r"the case sub-3 has .* are they one patient"):
        check_comparable([*load(folders, "good"), load_results(copy)])
    rows[2]["dice"] = "high"
    write_table(copy / "metrics.tsv", list(rows[0]), rows)
    with pytest.raises(ValueError, match="sub-3 has a cell that is no number"):
        load_results(copy)
    write_table(copy / "metrics.tsv", list(rows[0]), [rows[0], rows[0]])
    with pytest.raises(ResultsError, match="two cases called sub-1"):
        load_results(copy)
    (copy / "metrics.json").unlink()
    with pytest.raises(ResultsError, match="says what the numbers mean"):
        load_results(copy)


def test_runs_of_one_name_are_one_model(folders: dict[str, Path]) -> None:
    models = group_runs(load(folders, "half", "good", "half again"))
    assert [(model.name, len(model.runs)) for model in models] == [("half", 2), ("good", 1)]
    first, second = (run.cases["sub-4"].values["dice"] for run in models[0].runs)
    assert models[0].score("sub-4", "dice") == pytest.approx((first + second) / 2)
    spread = spread_of_seeds(models[0], "dice")
    assert spread.runs == 2
    assert spread.between_runs == pytest.approx(abs(first - second) / 6 / math.sqrt(2))
    assert math.isnan(spread_of_seeds(models[1], "dice").between_runs)


def test_cases_of_one_patient_count_once(folders: dict[str, Path]) -> None:
    models = group_runs(load(folders, "good", "half"))
    everything = strata(models)[:1]
    assert independent_units(models, "patient") is None
    units = independent_units(models, "site")
    assert units is not None
    assert set(units.values()) == {"site A", "site B"}
    [plain] = compare_models(models, everything, ["dice"])
    [grouped] = compare_models(models, everything, ["dice"], units=units)
    assert (plain.found.pairs, grouped.found.pairs) == (6, 2)
    assert grouped.found.wilcoxon >= 0.5
    [one] = summarise_groups(models[:1], everything, ["dice"], units=units)
    assert one.bootstrap == (1, 1)


def test_failures_are_ranked(folders: dict[str, Path]) -> None:
    [model] = group_runs(load(folders, "blind"))
    assert [case for case, _ in worst_cases(model, 3)] == ["sub-6", "sub-5", "sub-4"]
    assert len(worst_cases(model)) == 6


def summary(model: str, median: float, *, metric: str = "dice", stratum: str = "T1w") -> Summary:
    return Summary(
        Stratum("sequence", stratum, ("a", "b")), model, metric, 2, 0, 0, 0, median, median, 0.3066,
        (median, median), (median - 0.05, median + 0.05), (median - 0.04, median + 0.04),
    )  # fmt: skip


def test_best_is_bold_second_underlined_third_italic() -> None:
    cells = [summary(name, value) for name, value in (("a", 0.1), ("b", 0.4), ("c_1", 0.3), ("d", 0.2))]
    text = paper_table(cells, "markdown")
    assert "| T1w | b | 2 | **0.400** (0.350–0.450) |" in text
    assert "| T1w | c_1 | 2 | <u>0.300</u> (0.250–0.350) |" in text
    assert "| T1w | d | 2 | *0.200* (0.150–0.250) |" in text
    assert "| T1w | a | 2 | 0.100 (0.050–0.150) |" in text
    latex = paper_table(cells, "latex", TableLook(interval="bootstrap"))
    assert r"T1w & c\_1 & 2 & \underline{0.300} (0.260--0.340) \\" in latex
    assert latex.count(r"\hline") == 3
    html = paper_table([summary("<x>", 0.2), summary("y", 0.1)], "html", TableLook(interval="none"))
    assert "<td>&lt;x&gt;</td><td>2</td><td><b>0.200</b></td>" in html


def test_low_distances_are_best_and_equal_ones_share_their_rank() -> None:
    cells = [
        summary(n, v, metric="hausdorff95")
        for n, v in (("a", 5.01), ("b", 5.04), ("c", 9.0), ("d", math.inf))
    ]
    lines = paper_table(cells, "markdown", TableLook(interval="none")).splitlines()[2:]
    assert [line.split("|")[4].strip() for line in lines] == ["**5.0**", "**5.0**", "*9.0*", "Inf"]
    alone = paper_table([summary("a", 0.5)], "markdown", TableLook(interval="none"))
    assert "| 0.500 |" in alone
    assert [figure(v, "hausdorff95") for v in (math.nan, math.inf, 3.14)] == ["n/a", "Inf", "3.1"]


def test_a_comparison_of_all(folders: dict[str, Path], tmp_path: Path) -> None:
    results = load(folders, "good", "half", "half again", "blind")
    published = [published_table("qatlas-atlas")]
    settings = CompareSettings(metrics=("dice", "hausdorff95"), by=("site",), worst=2)
    made = compare_results(results, tmp_path / "o", settings, published=published)
    page = made.page.read_text(encoding="utf-8")
    for part in ("Published: qATLAS, ATLAS hold-out (N = 131)", "By site", "Spread of runs", "Worst cases"):
        assert part in page
    assert page.count("data:image/png;base64,") == 5 + 3
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert {
        "summary.tsv",
        "tests.tsv",
        "tables.md",
        "tables.tex",
        "worst_half.png",
        "reliability.png",
    } <= names
    tables = (tmp_path / "o" / "tables.html").read_text(encoding="utf-8")
    assert 'name="viewport"' in tables
    assert tables.count("<table") == tables.count('<div class="scroll"><table') == 3
    rows = read_rows(tmp_path / "o" / "summary.tsv")
    assert len(rows) == (1 + 2 + 2) * 3 * 2
    tests = read_rows(tmp_path / "o" / "tests.tsv")
    assert len(tests) == (1 + 2 + 2) * 3 * 2
    first = next(row for row in tests if (row["metric"], row["second"]) == ("dice", "blind"))
    assert float(first["wilcoxon"]) == pytest.approx(2 / 2**6)
    assert float(first["holm"]) == pytest.approx(3 * 2 / 2**6)
    again = compare_results(results, tmp_path / "p", settings)
    for name in ("summary.tsv", "tests.tsv", "tables.md", "box_dice.png"):
        assert (tmp_path / "o" / name).read_bytes() == (again.page.parent / name).read_bytes()


def test_the_command(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = [str(folders["good"]), str(folders["half"] / "metrics.tsv")]
    assert main(["compare", *both, "-o", str(tmp_path / "o"), "--metric", "dice", "--centre", "mean"]) == 0
    assert "| all | good | 7 | **1.000**" in capsys.readouterr().out
    for arguments, message in (
        ((*both, "-o", str(tmp_path / "o")), "exists already"),
        ((str(tmp_path), "-o", str(tmp_path / "p")), "expected a table"),
        ((*both, "-o", str(tmp_path / "p"), "--metric", "iou"), "'iou'"),
        ((*both, "-o", str(tmp_path / "p"), "--by", "vendor"), "no case has a vendor"),
        ((*both, "-o", str(tmp_path / "p"), "--centre", "mode"), "'mode'"),
        ((*both, "-o", str(tmp_path / "p"), "--interval", "sd"), "'sd'"),
        ((*both, "-o", str(tmp_path / "p"), "--published", "brats"), "'brats'"),
        ((str(folders["other"]), *both, "-o", str(tmp_path / "p")), "measured differently"),
    ):
        assert main(["compare", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_published_tables_are_whole() -> None:
    assert len(published_tables()) == 8
    for name in published_tables():
        table = published_table(name)
        for sequence, model, values in table.rows:
            assert 0 <= values["dice"] <= 1, (name, sequence, model)
            assert set(values) <= set(METRICS)
        assert len(table.table("markdown").splitlines()) == 2 + len(table.rows)
    hidden = published_table("synthstroke-atlas-hidden").rows[0][2]
    assert "hausdorff95" not in hidden
    assert hidden["volume_difference"] == pytest.approx(14.567)
    assert published_table("synthstroke-isles15").rows[-2][2]["hausdorff95"] == math.inf
    arc = {(s, m): v["dice"] for s, m, v in published_table("qatlas-arc").rows}
    assert (arc["Ensemble", "qSynth + r"], arc["FLAIR", "qATLAS"]) == (0.735, 0.032)
    with pytest.raises(ValueError, match="'oasis'"):
        published_table("oasis")
