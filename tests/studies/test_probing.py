from pathlib import Path

import pytest
import torch

from anystroke.anatomy.lesions.bank import save_bank
from anystroke.anatomy.tissues.anatomies import save_anatomies
from anystroke.commands.main import main
from anystroke.core.tables import read_rows
from anystroke.core.volume import Volume
from anystroke.models.architectures.catalogue import build_twins
from anystroke.models.checkpoints import save_model
from anystroke.studies.probing import ProbeSettings, probe
from anystroke.tasks.pretraining.config import EncoderConfig
from phantoms import ellipsoid_anatomy, sphere_lesion


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    save_anatomies([ellipsoid_anatomy()], folder / "held_out_anatomies.safetensors")
    save_bank([sphere_lesion()], folder / "held_out_lesions.safetensors")
    return folder


def _encoder(folder: Path, **training: object) -> Path:
    config = EncoderConfig(
        name="toy", architecture="tiny_unet", spacing=8.0, divisor=8, normalisation="whole", training=training
    )
    save_model(folder, build_twins("tiny_unet", reconstructs=False, seed=1), config)
    return folder


def test_a_page_shows_what_features_hold(data: Path, tmp_path: Path) -> None:
    scan = tmp_path / "sub-01_T1w.nii.gz"
    Volume(torch.rand(1, 40, 40, 40), torch.diag(torch.tensor([5.0, 5, 5, 1]))).save(scan)
    settings = ProbeSettings(patients=6, weightings=("T1w", "FLAIR"))
    page = probe([_encoder(tmp_path / "m")], tmp_path / "out", settings=settings, data=data, scans=[scan])
    text = page.read_text()
    assert "data:image/png;base64" in text
    assert "T1w, FLAIR" in text
    rows = read_rows(tmp_path / "out" / "retrieval.tsv")
    assert [row["contrasts"] for row in rows] == ["all pairs", "T1w, FLAIR"]
    read = {row["read"]: row for row in read_rows(tmp_path / "out" / "probes.tsv")}
    assert set(read) == {"weighting", "field"}
    assert 0 <= float(read["weighting"]["balanced accuracy"]) <= 1
    features = read_rows(tmp_path / "out" / "features_toy.tsv")
    assert len(features) == 6 * 2 + 1
    assert len({row["patient"] for row in features[:-1]}) == 6


def test_patients_that_were_learnt_from_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _encoder(tmp_path / "m", anatomies=["ellipsoids", "others"])
    arguments = ["probe", str(model), "-o", str(tmp_path / "out"), "--data", str(data)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "ellipsoids is in both" in error
    assert len(error.splitlines()) == 1
