"""Prior tables from folders of NIfTI maps: a simulated study, with everything that goes wrong in one."""

import json
from pathlib import Path

import pytest
import torch

from anystroke.commands.main import main
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.qmri.fit_files import (
    FitSettings,
    PriorFittingError,
    SubjectFiles,
    find_subjects,
    fit_priors,
)
from anystroke.qmri.measured_maps import MAP_SUFFIXES
from anystroke.qmri.tissue_priors import MAPS, load_table

NAMES = ("cortical_grey_matter", "white_matter", "ventricular_csf")
LABELS = {"3": NAMES[0], "2": NAMES[1], "4": NAMES[2]}
AFFINE = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
SUFFIX = {name: suffix for suffix, name in MAP_SUFFIXES.items()}
SIDE = 12
_SLAB = (torch.arange(SIDE) * 3 // SIDE)[:, None, None].expand(SIDE, SIDE, SIDE)


def _write(
    folder: Path, name: str, seed: int, *, maps: tuple[str, ...] = MAPS, scale: dict[str, float] | None = None
) -> Path:
    anat = folder / name / "anat"
    anat.mkdir(parents=True)
    draw = load_table().sample(stream(seed, "subject"), NAMES)
    rng = stream(seed, "voxels")
    for column, key in enumerate(MAPS):
        noise = torch.randn(SIDE, SIDE, SIDE, generator=rng)
        values = draw.mean[_SLAB, column] + draw.sd[_SLAB, column] * noise
        if key in maps:
            values = values * (scale or {}).get(key, 1.0)
            Volume(values[None], AFFINE).save(anat / f"{name}_{SUFFIX[key]}.nii.gz")
    labels = torch.tensor([int(label) for label in LABELS], dtype=torch.int32)[_SLAB]
    Volume(labels[None], AFFINE).save(anat / f"{name}_dseg.nii.gz")
    return anat


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "dseg.json").write_text(json.dumps(LABELS))
    for seed in range(4):
        _write(tmp_path, f"sub-{seed + 1:02d}", seed)
    return tmp_path


def test_recovers_a_simulated_study(tmp_path: Path) -> None:
    (tmp_path / "dseg.json").write_text(json.dumps({"tissues": LABELS}))
    n = 24
    for seed in range(n):
        # Two sites store R1 in other units.
        _write(tmp_path, f"sub-{seed:02d}", seed, scale={"r1": 1e3 if seed % 2 else 1.0})
    seen: list[str] = []
    subjects = find_subjects(tmp_path)
    fitted = fit_priors(subjects, field_strength=3.0, source="Simulated.", on_subject=seen.append)
    assert seen == list(fitted.subjects) == [subject.name for subject in subjects]
    assert fitted.skipped == {}
    truth = load_table()
    rows = truth.rows(NAMES)
    own = fitted.priors.rows(NAMES)
    error = truth.sd_of_means[rows] / n**0.5
    assert bool(
        ((fitted.priors.mean[own] - truth.mean[rows]).abs() < 4 * error + 0.01 * truth.mean[rows]).all()
    )
    ratio = fitted.priors.sd_of_means[own] / truth.sd_of_means[rows]
    assert float(ratio.log().abs().max()) < 0.7
    units = {name: findings[1].unit for name, findings in fitted.units.items()}
    assert units["sub-00"] == "1/s"
    assert units["sub-01"] == "10^-3/s"
    fitted.save(tmp_path / "priors.toml")
    again = load_table(tmp_path / "priors.toml")
    assert torch.allclose(again.mean, fitted.priors.mean, rtol=1e-5)
    assert again.subjects["white_matter"] == (n,) * 6
    assert again.tag("white_matter", "r1", spread=True) == "V"
    assert bool((again.sample(stream(1), NAMES, 7.0).mean > 0).all())


def test_bad_subjects_are_named_and_the_rest_is_used(study: Path) -> None:
    (study / "sub-11" / "anat").mkdir(parents=True)
    (study / "sub-11" / "anat" / "sub-11_R1map.nii.gz").write_bytes(b"no image")
    _write(study, "sub-12", 12, scale={"r1": 30.0})
    (_write(study, "sub-13", 13) / "sub-13_dseg.nii.gz").unlink()
    Volume(torch.rand(1, 4, 4, 4), AFFINE).save(study / "sub-13" / "anat" / "sub-13_run-2_R1map.nii.gz")
    (_write(study, "sub-14", 14) / "sub-14_R1map.nii.gz").write_bytes(b"no image")
    (_write(study, "sub-15", 15) / "sub-15_dseg.json").write_text("{")
    other = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    other[:3, 3] = 500.0
    anat = _write(study, "sub-16", 16)
    Volume(torch.full((1, SIDE, SIDE, SIDE), 2), other).save(anat / "sub-16_dseg.nii.gz", overwrite=True)
    fitted = fit_priors(find_subjects(study), field_strength=3.0, source="x")
    assert fitted.subjects == ("sub-01", "sub-02", "sub-03", "sub-04")
    assert set(fitted.skipped) == {f"sub-{i}" for i in range(11, 17)}
    for name, reason in {
        "sub-11": "no segmentation",
        "sub-12": "r1: the median in the brain is",
        "sub-13": "expected one r1 map",
        "sub-14": "not a readable image",
        "sub-15": "is not valid JSON",
        "sub-16": "the segmentation holds none of cortical_grey_matter, white_matter",
    }.items():
        assert reason in fitted.skipped[name]


def test_too_few_subjects_are_an_error_with_every_reason(study: Path) -> None:
    subjects = find_subjects(study)
    bad = SubjectFiles(name="sub-99", maps=subjects[0].maps)
    with pytest.raises(PriorFittingError, match=r"at least 2 .* got 1 of 2; sub-99: no segmentation"):
        fit_priors([subjects[0], bad], field_strength=3.0, source="x")
    with pytest.raises(PriorFittingError, match="sub-01 comes more than once"):
        fit_priors([subjects[0]] * 2, field_strength=3.0, source="x")


def test_missing_maps_stand_in_and_r2_is_estimated(tmp_path: Path) -> None:
    (tmp_path / "dseg.json").write_text(json.dumps(LABELS))
    for seed in range(3):
        _write(tmp_path, f"sub-{seed}", seed, maps=("proton_density", "r1", "r2star", "mt_saturation"))
    subjects = find_subjects(tmp_path)
    fitted = fit_priors(subjects, field_strength=3.0, source="x")
    priors = fitted.priors
    white = priors.names.index("white_matter")
    assert priors.mean[white, 2].item() == pytest.approx(0.65 * priors.mean[white, 3].item(), rel=0.01)
    assert priors.tag("white_matter", "r2") == "E"
    assert priors.sources["white_matter"].endswith("R2 is estimated from R2*.")
    assert "r2 is estimated from r2star and r1 in 3 of 3 subjects" in fitted.notes
    assert "white_matter: adc from the stand-in table" in fitted.notes
    without = fit_priors(subjects, field_strength=3.0, source="x", settings=FitSettings(r2_from_r2star=False))
    assert without.priors.mean[white, 2].item() == 14.0
    assert without.priors.tag("white_matter", "r2") == "M"


def test_labels_can_be_named_in_several_ways(study: Path) -> None:
    subjects = find_subjects(study)
    by_file = fit_priors(subjects, field_strength=3.0, source="x")
    numbers = {int(label): tissue for label, tissue in LABELS.items()}
    by_dict = fit_priors(subjects, field_strength=3.0, source="x", tissues=numbers)
    by_scheme = fit_priors(subjects, field_strength=3.0, source="x", tissues="synthseg")
    assert torch.equal(by_file.priors.mean, by_dict.priors.mean)
    rows = by_scheme.priors.rows(by_dict.priors.names)
    assert torch.equal(by_scheme.priors.mean[rows], by_dict.priors.mean)
    (study / "dseg.json").unlink()
    with pytest.raises(PriorFittingError, match="nothing says what the labels mean"):
        fit_priors(find_subjects(study), field_strength=3.0, source="x")


def test_soft_segmentations_and_missing_voxels(study: Path) -> None:
    shares = torch.stack([_SLAB.eq(tissue).float() for tissue in range(3)])
    subjects = find_subjects(study)
    hard = fit_priors(subjects, field_strength=3.0, source="x")
    for subject in subjects:
        assert subject.segmentation is not None
        Volume(shares, AFFINE).save(subject.segmentation.with_name(f"{subject.name}_probseg.nii.gz"))
        subject.segmentation.unlink()
    (study / "probseg.json").write_text(json.dumps(dict(enumerate(NAMES))))
    soft = fit_priors(find_subjects(study), field_strength=3.0, source="x")
    assert torch.allclose(soft.priors.mean, hard.priors.mean)
    path = subjects[0].maps["r1"]
    holed = Volume.load(path)
    holed.data[0, 0, 0, :5] = torch.nan
    holed.save(path, overwrite=True)
    noted = fit_priors(find_subjects(study), field_strength=3.0, source="x")
    assert "sub-01: 5 voxels of cortical_grey_matter have no finite r1 and are left out" in noted.notes


def test_sessions_and_folders(tmp_path: Path) -> None:
    for session in ("a", "b"):
        folder = tmp_path / "sub-1" / f"ses-{session}" / "anat"
        folder.mkdir(parents=True)
        for suffix in ("R1map", "dseg"):
            Volume(torch.ones(1, 3, 3, 3), AFFINE).save(folder / f"sub-1_ses-{session}_{suffix}.nii.gz")
    (both,) = find_subjects(tmp_path)
    assert both.problem is not None
    assert "name a session" in both.problem
    (one,) = find_subjects(tmp_path, session="b")
    assert one.problem is None
    assert one.maps["r1"].name == "sub-1_ses-b_R1map.nii.gz"
    with pytest.raises(PriorFittingError, match=r"no map; expected .* with ses-c"):
        find_subjects(tmp_path, session="c")
    with pytest.raises(PriorFittingError, match="expected a folder of maps at"):
        find_subjects(tmp_path / "nowhere")
    flat = tmp_path / "patient_7"
    flat.mkdir()
    Volume(torch.ones(1, 3, 3, 3), AFFINE).save(flat / "R1map.nii.gz")
    assert find_subjects(flat)[0].name == "patient_7"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"two": "white_matter"}, "with whole numbers as labels"),
        ({"tissues": {"2": 5}}, "with whole numbers as labels"),
        ({"tissues": {"0": "background"}}, "the tissue of at least one label"),
    ],
)
def test_bad_names_of_labels(study: Path, content: dict[str, object], message: str) -> None:
    path = study / "names.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PriorFittingError, match=message):
        fit_priors(find_subjects(study), field_strength=3.0, source="x", tissues=path)


def test_the_command_writes_a_table_and_names_who_was_left_out(
    study: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path_factory.mktemp("tables") / "priors.toml"
    arguments = ["fit-priors", str(study), "-o", str(table), "--source", "A simulated study"]
    assert main(arguments) == 0
    assert "4 subjects" in capsys.readouterr().out
    assert load_table(table).sources["white_matter"] == "A simulated study"
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    (study / "sub-02" / "anat" / "sub-02_dseg.nii.gz").unlink()
    assert main([*arguments, "--overwrite"]) == 1
    assert "error: sub-02: " in capsys.readouterr().err
    assert main(["fit-priors", str(study / "nowhere"), "-o", str(table) + "x", "--source", "x"]) == 2
    assert main(["fit-priors", str(study), "-o", str(study / "no" / "t.toml"), "--source", "x"]) == 2


def test_the_look_up_table_of_bids_names_labels(study: Path) -> None:
    (study / "dseg.json").unlink()
    table = "index\tname\n0\tbackground\n2\tWhite Matter\n3\tgray_matter\n4\tCSF\n9\tlesion\n"
    (study / "dseg.tsv").write_text(table)
    fitted = fit_priors(find_subjects(study), field_strength=3.0, source="x")
    assert fitted.skipped == {}
    (study / "dseg.tsv").write_text(table.replace("CSF", "jelly"))
    with pytest.raises(PriorFittingError, match="calls the label 4 'jelly', expected one of grey_matter"):
        fit_priors(find_subjects(study), field_strength=3.0, source="x")
