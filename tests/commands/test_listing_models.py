import pytest

from anystroke.commands.main import main
from anystroke.models.checkpoints import shipped_models


def test_each_model_has_a_line_with_its_task_and_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["name", "task", "version", "MB"]
    assert [line.split()[0] for line in lines] == shipped_models(None)
    told = {line.split()[0]: line for line in lines}
    assert "qmri" in told["estimator"]
    assert all("median Dice 0." in told[name] for name in shipped_models())


def test_the_shell_can_complete_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "--install-completion" in capsys.readouterr().out
