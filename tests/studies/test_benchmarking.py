import json
import math
from pathlib import Path

import pytest
import torch

from anystroke.anatomy.tissues.anatomies import Anatomy
from anystroke.commands.main import main
from anystroke.core.tables import read_rows
from anystroke.core.volume import Volume
from anystroke.evaluation.results import CaseResult, Results
from anystroke.io.results import ResultError
from anystroke.simulation.generator import CLASSES
from anystroke.studies.benchmark import patients as benchmark_patients
from anystroke.studies.benchmark import run as benchmarking
from anystroke.studies.benchmark.effects import measure_effects
from anystroke.studies.benchmark.patients import (
    BenchmarkError,
    Condition,
    Design,
    conditions,
    simulate_scan,
    simulate_scans,
)
from anystroke.studies.benchmark.run import Segmenter, run_benchmark, threshold_baseline
from phantoms import ellipsoid_anatomy

SHAPE = (48, 56, 48)
DESIGN = Design(patients=1, sequences=("FLAIR",), shape=SHAPE)
LESION = CLASSES.index("lesion")


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return ellipsoid_anatomy(spacing=4.0)


def test_one_factor_at_a_time() -> None:
    for sequence in ("T1w", "FLAIR"):
        own = [one for one in conditions(("T1w", "FLAIR")) if one.sequence == sequence]
        [standard] = [one for one in own if not one.factor]
        for one in own:
            fields = ("stage", "size_ml", "slice_mm", "snr", "head")
            changed = [name for name in fields if getattr(one, name) != getattr(standard, name)]
            assert len(changed) == bool(one.factor), one
        assert {one.factor for one in own} == {"", "size", "stage", "resolution", "noise", "head"}
    names = [one.name for one in conditions()]
    assert len(set(names)) == len(names)


def test_only_what_is_changed_differs(anatomy: Anatomy) -> None:
    standard = simulate_scan(anatomy, Condition("FLAIR"), DESIGN, 1)
    again = simulate_scan(anatomy, Condition("FLAIR"), DESIGN, 1)
    assert torch.equal(standard.image, again.image)
    noisy = simulate_scan(anatomy, Condition("FLAIR", snr=15.0), DESIGN, 1)
    thick = simulate_scan(anatomy, Condition("FLAIR", slice_mm=6.0), DESIGN, 1)
    acute = simulate_scan(anatomy, Condition("FLAIR", stage="acute"), DESIGN, 1)
    t1w = simulate_scan(anatomy, Condition("T1w"), DESIGN, 1)
    for other in (noisy, thick, acute, t1w):
        assert torch.equal(other.target, standard.target)
        assert not torch.equal(other.image, standard.image)
    clean = simulate_scan(anatomy, Condition("FLAIR", snr=1e5), DESIGN, 1).image
    white = standard.target == CLASSES.index("white_matter")
    noise = [float((one.image - clean)[white].std()) for one in (noisy, standard)]
    assert noise[0] / noise[1] == pytest.approx(40 / 15, rel=0.05)
    assert float(thick.image.diff(dim=2).abs().mean()) < float(standard.image.diff(dim=2).abs().mean())
    brain = simulate_scan(anatomy, Condition("FLAIR", head="brain"), DESIGN, 1)
    assert int((brain.image == 0).sum()) > 100
    assert int((standard.image == 0).sum()) == 0
    sizes = [
        int((simulate_scan(anatomy, Condition("FLAIR", size_ml=ml), DESIGN, 1).target == LESION).sum())
        for ml in (0.0, 5.0, 20.0, 60.0)
    ]
    assert sizes[0] == 0
    assert sizes == sorted(set(sizes))
    ratios = [one.record["visibility"][0]["contrast_to_noise"] for one in (noisy, standard)]
    assert 0 < ratios[0] < ratios[1]
    other = simulate_scan(anatomy, Condition("FLAIR"), DESIGN, 2)
    assert not torch.equal(other.target, standard.target)


def test_the_baseline_finds_what_is_unusual() -> None:
    scan = torch.zeros(1, 40, 40, 40)
    scan[:, 4:36, 4:36, 4:36] = 100 + torch.rand(1, 32, 32, 32)
    scan[:, 18:24, 18:24, 18:24] = 160
    mask, probability = threshold_baseline(Volume(scan, torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0]))))
    assert probability is None
    assert bool(mask.data[:, 20:22, 20:22, 20:22].all())
    assert float(mask.data.float().mean()) < 0.02
    flat, _ = threshold_baseline(Volume(torch.zeros(1, 8, 8, 8), torch.eye(4)))
    assert not bool(flat.data.any())


def result(patient: str, factor: str, level: str, dice: float, ml: float = 1.0) -> CaseResult:
    facts = {"patient": patient, "factor": factor, "level": level, "sequence": "T1w"}
    return CaseResult(f"{patient}{level}", {"dice": dice, "predicted_ml": ml, "truth_ml": 1.0}, facts, {})


def test_effects_are_differences_within_patients(tmp_path: Path) -> None:
    cases = [
        result("a", "standard", "standard", 0.8), result("b", "standard", "standard", 0.4),
        result("a", "noise", "SNR 15", 0.7), result("b", "noise", "SNR 15", 0.2),
        result("a", "size", "0 ml", math.nan, 3.0), result("b", "size", "0 ml", 0.0, 5.0),
        result("a", "head", "stripped", math.nan),
    ]  # fmt: skip
    results = Results("m", tmp_path, {case.id: case for case in cases}, {}, "", None)
    found = {(e.factor, e.sequence): e for e in measure_effects(results)}
    noise = found["noise", "T1w"]
    assert noise.pairs == 2
    assert [noise.difference, noise.low, noise.high] == pytest.approx([-0.15, -0.2, -0.1])
    assert (found["size", "all"].metric, found["size", "all"].changed) == ("predicted_ml", 4.0)
    assert found["head", "all"].pairs == 0
    assert math.isnan(found["head", "all"].difference)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, anatomy: Anatomy) -> None:
    """The benchmark on a phantom, with two scans a sequence."""
    monkeypatch.setattr(benchmark_patients, "open_anatomy", lambda _: (anatomy, ""))
    two = [one for one in conditions(("FLAIR",)) if one.factor in ("", "noise")]
    monkeypatch.setattr(benchmark_patients, "conditions", lambda _: two)


def seeing(threshold: float) -> Segmenter:
    def run(scan: Volume) -> tuple[Volume, Volume | None]:
        probability = (scan.data / scan.data.max()).clamp(0, 1)
        return Volume(probability > threshold, scan.affine), Volume(probability, scan.affine)

    return run


def test_the_whole_benchmark(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(scan: Volume) -> tuple[Volume, Volume | None]:
        raise RuntimeError("out of memory")

    known = {"good": seeing(0.6), "models/other": seeing(0.8), "broken": fail}
    monkeypatch.setattr(benchmarking, "open_segmenter", known.__getitem__)
    steps: list[str] = []
    made = run_benchmark(list(known), tmp_path, DESIGN, on_step=steps.append)
    assert set(made.means) == {"good", "other", "broken"}
    assert math.isnan(made.means["broken"])
    assert len(made.failed) == 4
    assert sum("out of memory" in text for text in made.failed) == 2
    rows = read_rows(made.table)
    assert len(rows) == 2 * 3
    assert {row["factor"] for row in rows} == {"standard", "noise"}
    page = made.page.read_text(encoding="utf-8")
    assert "What each change costs" in page
    assert "out of memory" in page
    assert (tmp_path / "comparison" / "report.html").exists()
    images = {path: path.stat().st_mtime_ns for path in (tmp_path / "scans").glob("*.nii.gz")}
    assert len(images) == 4
    assert len(list(simulate_scans(DESIGN, tmp_path / "scans"))) == 2
    assert images == {path: path.stat().st_mtime_ns for path in images}
    with pytest.raises(ResultError, match="another run"):
        run_benchmark(["good"], tmp_path, Design(patients=1, sequences=("FLAIR",), shape=SHAPE, seed=7))
    with pytest.raises(BenchmarkError, match="good twice"):
        run_benchmark(["good", "a/good"], tmp_path, DESIGN)
    assert json.loads((tmp_path / "scans" / "scans.json").read_text())["seed"] == DESIGN.seed


def test_the_command_names_what_it_cannot_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels").mkdir()
    for arguments, message in (
        (("default", "--sequence", "CT"), "got 'CT'"),
        (("default", "--published", "x"), "got 'x'"),
        (("default", "--labels", str(tmp_path / "labels")), "expected label maps"),
        (("nowhere",), "nowhere"),
    ):
        assert main(["benchmark", *arguments, "-o", str(tmp_path / "o")]) == 2
        assert message in capsys.readouterr().err
