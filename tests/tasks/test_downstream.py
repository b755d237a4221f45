"""Tasks that start from an encoder: tissues, noise, classes of patients."""

import math
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from anystroke.commands.main import main
from anystroke.core.config import ConfigError
from anystroke.core.rng import stream
from anystroke.core.volume import Volume, VolumeError
from anystroke.evaluation.representations import peak_signal_to_noise
from anystroke.io.participants import labelled_participants
from anystroke.learning.cases import IGNORED
from anystroke.learning.recipe import DataSettings
from anystroke.learning.run import train
from anystroke.learning.run_log import read_validation
from anystroke.learning.sources.packing import sources_of
from anystroke.learning.sources.patient_packs import first_of
from anystroke.learning.stream import CaseStream
from anystroke.learning.supply import stream_settings
from anystroke.learning.trainer import Trainer
from anystroke.models.encoders import load_encoder
from anystroke.simulation.cohorts import Pack
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.classification.files import write_classes
from anystroke.tasks.classification.predict import ClassModel
from anystroke.tasks.classification.recipe import ClassificationSettings
from anystroke.tasks.classification.sources import read_head, split_participants
from anystroke.tasks.denoising.config import NoiseConfig
from anystroke.tasks.denoising.files import write_denoised
from anystroke.tasks.denoising.predict import NoiseModel
from anystroke.tasks.denoising.recipe import DenoisingSettings
from anystroke.tasks.denoising.validate import judge_denoising
from anystroke.tasks.tissues.files import write_tissues
from anystroke.tasks.tissues.predict import TissueModel
from anystroke.tasks.tissues.recipe import TissueSettings
from anystroke.tasks.tissues.sources import LEARNT_TISSUES, without_lesion
from anystroke.tasks.tissues.validate import Head, simulated_heads, tissue_scores
from participants import PEOPLE, write_participants
from phantoms import ellipsoid_anatomy

SMALL: dict[str, Any] = {
    "name": "toy",
    "architecture": "tiny_unet",
    "grid": {"spacing": 8.0, "shapes": [[32, 32, 32]], "normalisation": "whole"},
    "optimiser": {
        "steps": 12,
        "batch": 2,
        "workers": 0,
        "precision": "float32",
        "warm_up": 3,
        "ema": 0.8,
        "learning_rate": 5e-3,
        "checkpoint_every": 12,
    },
    "validation": {"every": 12, "patients": 2},
}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    values = torch.rand(1, 40, 40, 40, generator=stream(1, "scan"))
    path = tmp_path / "sub-77_T1w.nii.gz"
    Volume(values, torch.diag(torch.tensor([6.0, 6, 6, 1]))).save(path)
    return path


def test_tissues_end_to_end(run: Path, scan: Path) -> None:
    settings = TissueSettings.model_validate(SMALL | {"task": "tissues", "sources": [{"kind": "simulated"}]})
    model = TissueModel.load(train(settings, run))
    assert model.config.classes == LEARNT_TISSUES
    rows = read_validation(run)
    assert {row["group"] for row in rows} >= {"all", "T1w", "T2w"}
    assert 0 < float(rows[0]["mean_dice"]) < 1
    table = write_tissues([scan], model, run / "out")
    assert len(table.read_text().splitlines()) == 2
    found = Volume.load(run / "out" / "sub-77_T1w_tissues.nii.gz")
    assert found.shape == (40, 40, 40)
    assert float(found.data.max()) < len(LEARNT_TISSUES)


def test_lesions_are_no_tissue() -> None:
    shares = torch.zeros(5, 2, 1, 1)
    shares[1, 0], shares[4, 0] = 0.6, 0.4
    shares[2, 1], shares[4, 1] = 0.3, 0.7
    soft = without_lesion(shares)
    assert soft[:, 0].flatten().tolist() == pytest.approx([0, 1, 0, 0])
    assert soft[:, 1].flatten().tolist() == [0, 0, 0, 0]


def test_scores_leave_out_what_is_ignored_and_count_what_is_missed() -> None:
    tissues = torch.zeros(8, 8, 8, dtype=torch.uint8)
    tissues[2:6], tissues[6] = 1, IGNORED
    head = Head(torch.zeros(8, 8, 8), tissues, {"weighting": "T1w"})
    found = tissues.clone()
    found[6] = 1
    scores = tissue_scores(found, head, spacing=2.0)
    assert (scores["grey_matter_dice"], scores["grey_matter_hausdorff95"]) == (1.0, 0.0)
    assert math.isnan(scores["csf_dice"])
    missed = tissue_scores(torch.zeros_like(found), head, spacing=2.0)
    assert missed["grey_matter_dice"] == 0
    assert missed["grey_matter_hausdorff95"] > 16


def _denoising(**changes: Any) -> DenoisingSettings:
    recipe = SMALL | {
        "task": "denoising",
        "sources": [{"kind": "simulated", "synthesis": {"corrupted": False}}],
    }
    recipe["grid"] = SMALL["grid"] | {"shapes": [[16, 16, 16]]}
    return DenoisingSettings.model_validate(recipe | changes)


def test_denoising_end_to_end(run: Path, scan: Path) -> None:
    settings = _denoising(
        optimiser=SMALL["optimiser"] | {"steps": 2, "checkpoint_every": 2},
        validation={"every": 2, "patients": 2},
    )
    model = NoiseModel.load(train(settings, run))
    row = read_validation(run)[0]
    assert float(row["noisy_psnr"]) == pytest.approx(peak_signal_to_noise(0.04), abs=0.3)
    write_denoised([scan], model, run / "out")
    path = run / "out" / "sub-77_T1w_denoised.nii.gz"
    assert bool(Volume.load(path).data.isfinite().all())
    with pytest.raises(ValueError, match="'whole'"):
        _denoising(grid={"normalisation": "foreground"})


def test_learning_to_denoise_improves_the_signal_to_noise(run: Path) -> None:
    settings = _denoising(optimiser=SMALL["optimiser"] | {"steps": 400, "batch": 4, "ema": 0.9})
    trainer = Trainer(settings, run)
    cases = CaseStream(sources_of(settings, run / "data"), stream_settings(settings))
    seen = list(islice(cases, 3))
    for step in range(200):
        trainer.train_step(seen[step % len(seen)])
    later = CaseStream(sources_of(settings, run / "data"), stream_settings(settings), first=9)
    unseen = next(iter(later))
    config = trainer.model_config()
    assert isinstance(config, NoiseConfig)
    pairs = zip(unseen.image[:, 0], unseen.target[:, 0], strict=True)
    row = judge_denoising(
        NoiseModel(trainer.averaged(), config), [(image, noise, "any") for image, noise in pairs]
    )[0]
    assert float(row["psnr"]) > float(row["noisy_psnr"])


def _classes(folder: Path, **changes: Any) -> ClassificationSettings:
    table = write_participants(folder)
    source = {"kind": "participants", "scans": [folder], "table": table, "column": "sex", "test": 0.4}
    return ClassificationSettings.model_validate(
        SMALL
        | {"task": "classification", "sources": [source | changes.pop("source", {})]}
        | {"validation": {"every": 12, "patients": 10}}
        | changes
    )


def test_classes_of_patients_are_learnt_and_patients_are_on_one_side(tmp_path: Path) -> None:
    settings = _classes(tmp_path / "scans")
    split = split_participants(settings)
    training, test = ({person.name for person in side} for side in (split.training, split.test))
    assert not training & test
    assert (len(training), len(test)) == (6, 4)
    model = ClassModel.load(train(settings, tmp_path / "run"))
    assert model.config.classes == ("F", "M")
    [row] = read_validation(tmp_path / "run")
    assert 0 <= float(row["balanced_accuracy"]) <= 1
    table = write_classes(sorted((tmp_path / "scans").glob("*.nii.gz"))[:2], model, tmp_path / "out")
    assert table.read_text().splitlines()[0].split("\t") == ["scan", "class", "F", "M"]


def test_classes_start_from_the_encoder_of_a_model_that_segments(tmp_path: Path) -> None:
    changes = {"architecture": "small_unet", "start_from": "small", "freeze_encoder": True}
    own = Trainer(_classes(tmp_path / "scans", **changes), tmp_path / "run").module.state_dict()
    shipped = load_encoder("small").state_dict()
    assert shipped.keys() == {key.removeprefix("network.encoder.") for key in own if ".head." not in key}
    for key, value in shipped.items():
        assert torch.equal(own[f"network.encoder.{key}"], value)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("handedness", "expected a column 'handedness'"),
        ("site", "at least two classes in the column 'site'"),
    ],
)
def test_columns_that_tell_nothing(
    column: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_participants(tmp_path / "scans")
    with pytest.raises(ConfigError, match=message):
        labelled_participants(table, column, [tmp_path / "scans"])
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'task = "classification"\nname = "toy"\narchitecture = "tiny_unet"\n[grid]\nshapes = [[32, 32, 32]]\n'
        f'[[sources]]\nkind = "participants"\nscans = ["{tmp_path / "scans"}"]\ntable = "{table}"\n'
        f'column = "{column}"\n'
    )
    assert main(["train", str(recipe), "-o", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_masks_and_derivatives_are_no_scans(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = write_participants(tmp_path / "scans")
    before = labelled_participants(table, "sex", [tmp_path / "scans"])
    scan = before[0].scans[0]
    for answer in (
        "derivatives/truth/sub-00_T1w.nii.gz",
        "sub-00_label-L_mask.nii.gz",
        "sub-00_T1map.nii.gz",
    ):
        place = tmp_path / "scans" / answer
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(scan, place)
    assert labelled_participants(table, "sex", [tmp_path / "scans"]) == before
    assert sorted(record.getMessage() for record in caplog.records) == [
        "left out 1 files: it is a mask or a label map",
        "left out 1 files: it is a quantitative map",
        "left out 1 files: they are derivatives",
    ]


def test_a_scan_without_a_head_is_named(tmp_path: Path) -> None:
    write_participants(tmp_path / "scans")
    empty = tmp_path / "scans" / "sub-00_T1w.nii.gz"
    Volume(torch.zeros(1, 64, 64, 64), torch.eye(4)).save(empty, overwrite=True)
    with pytest.raises(VolumeError, match=r"sub-00_T1w.nii.gz is all zeros"):
        read_head(empty, 2.0, 16)


def test_scans_that_are_nobodys_and_patients_that_are_too_few(tmp_path: Path) -> None:
    table = write_participants(tmp_path / "scans")
    other = tmp_path / "others"
    other.mkdir()
    (tmp_path / "scans" / "sub-00_T1w.nii.gz").rename(other / "patient.nii.gz")
    with pytest.raises(ConfigError, match="no path among those given has such an id"):
        labelled_participants(table, "sex", [other])
    with pytest.raises(ConfigError, match="there is none"):
        labelled_participants(table, "sex", [tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="participants of every class to learn from"):
        split_participants(_classes(tmp_path / "again", data={"share": 0.01}))
    many = [f"sub-{number}\t{number}\tx\ty" for number in range(30)]
    table.write_text("participant_id\tsex\tage\tsite\n" + "\n".join(many) + "\n")
    for number in range(30):
        (other / f"sub-{number}_T1w.nii.gz").write_bytes(b"")
    with pytest.raises(ConfigError, match="at most 20 classes"):
        labelled_participants(table, "sex", [other])


def test_folders_and_names_tell_whose_a_scan_is(tmp_path: Path) -> None:
    table = write_participants(tmp_path / "scans")
    deep = tmp_path / "bids" / "sub-03" / "anat"
    deep.mkdir(parents=True)
    (tmp_path / "scans" / "sub-03_T1w.nii.gz").rename(deep / "scan.nii.gz")
    found = labelled_participants(table, "sex", [tmp_path / "scans", tmp_path / "bids"])
    assert {person.name: person.label for person in found} == PEOPLE
    assert found[3].scans == (deep / "scan.nii.gz",)


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.1, 4), (1.0, 40)])
def test_shares_of_patients_are_nested_and_at_least_one(share: float, count: int) -> None:
    people = _named(40)
    chosen = first_of(people, DataSettings(share=share))
    assert len(chosen) == count
    more = first_of(people, DataSettings(share=min(2 * share, 1.0)))
    assert set(chosen) <= set(more)
    if share == 0.1:
        assert first_of(people, DataSettings(share=share, split="another")) != chosen


def _named(count: int) -> list[Any]:
    from anystroke.io.participants import Participant

    return [Participant(f"sub-{number}", "x", ()) for number in range(count)]


def test_heads_are_judged_whole_wherever_parts_were() -> None:
    def brains(anywhere: float) -> list[int]:
        looks = SynthesisSettings(anywhere=anywhere, skull_strip=0.0)
        heads = simulated_heads(Pack([ellipsoid_anatomy()], []), looks, count=4, spacing=8.0, seed=1)
        return [int(((head.tissues > 0) & (head.tissues != IGNORED)).sum()) for head in heads]

    assert brains(1.0) == brains(0.0)
