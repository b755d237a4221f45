from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anystroke.commands.main import main
from anystroke.models.passes import DeviceError, best_device, use_device


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    use_device("auto")


def test_a_choice_holds_where_nothing_else_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_device().type == "cuda"
    use_device("cpu")
    assert best_device().type == "cpu"
    assert best_device("cuda").type == "cuda"
    use_device("auto")
    assert best_device().type == "cuda"


def test_a_device_that_is_not_there_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    use_device("cpu")
    with pytest.raises(DeviceError, match="sees none here; use 'cpu' or 'auto', or check the driver"):
        use_device("cuda")
    assert best_device().type == "cpu"


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "scan.nii.gz", "-o", "out"],
        ["pseudo-label", "scan.nii.gz", "-o", "out"],
        ["benchmark", "default", "-o", "out"],
        ["calibrate", "model", "--data", "data"],
        ["bids", "scan.nii.gz", "out", "participant"],
    ],
)
def test_verbs_say_that_there_is_no_gpu(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if arguments[0] == "bids":
        arguments = ["bids", str(tmp_path), "out", "participant"]
        (tmp_path / "sub-01" / "anat").mkdir(parents=True)
    else:
        (tmp_path / "scan.nii.gz").touch()
    assert main([*arguments, "--device", "cuda"]) == 2
    assert "expected a GPU for 'cuda'" in capsys.readouterr().err
