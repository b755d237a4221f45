import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from anystroke.core.staging import staged, staging_prefix
from anystroke.io.results import Outcome, ResultError, ResultFolder, describe_dataset

FINGERPRINT = {"Model": {"Name": "a", "SHA256": "0" * 64}, "Settings": {"threshold": 0.5, "tissues": ()}}


def publish(results: ResultFolder, name: str = "one", **facts: Any) -> None:
    with results.staging(f"sub/{name}.json", {"SourceSHA256": "1", **facts}) as staging:
        (staging / f"{name}.txt").write_text("result")
        (staging / f"{name}_more.txt").write_text("more")


def test_what_is_published_is_kept(tmp_path: Path) -> None:
    results = ResultFolder(tmp_path / "out", FINGERPRINT)
    assert results.kept("sub/one.json", {"SourceSHA256": "1"}) is None
    publish(results, Volume=1.5)
    again = ResultFolder(tmp_path / "out", FINGERPRINT)
    facts = again.kept("sub/one.json", {"SourceSHA256": "1"})
    assert facts is not None
    assert (facts["Volume"], facts["Files"]) == (1.5, ["one.txt", "one_more.txt"])
    assert sorted(path.name for path in (tmp_path / "out" / "sub").iterdir()) == [
        "one.json",
        "one.txt",
        "one_more.txt",
    ]


@pytest.mark.parametrize(
    ("fingerprint", "source", "words"),
    [
        (FINGERPRINT, "2", "of another scan"),
        (FINGERPRINT | {"Settings": {"threshold": 0.4, "tissues": ()}}, "1", "of another setting"),
        (FINGERPRINT | {"Model": {"Name": "a", "SHA256": "2" * 64}}, "1", "of another model"),
    ],
)
def test_what_depends_on_other_things_is_refused(
    fingerprint: dict[str, Any], source: str, words: str, tmp_path: Path
) -> None:
    publish(ResultFolder(tmp_path, FINGERPRINT))
    other = ResultFolder(tmp_path, fingerprint)
    with pytest.raises(ResultError, match=f"{words}.*--overwrite"):
        other.kept("sub/one.json", {"SourceSHA256": source})
    assert other.kept("sub/one.json", {"SourceSHA256": source}, replace=True) is None


@pytest.mark.parametrize("lost", ["one.txt", "one_more.txt", "one.json"])
def test_half_a_result_is_none(lost: str, tmp_path: Path) -> None:
    results = ResultFolder(tmp_path, FINGERPRINT)
    publish(results)
    (tmp_path / "sub" / lost).unlink()
    if lost == "one.json":
        assert results.kept("sub/one.json") is None
        with pytest.raises(ResultError, match="is not of anystroke"):
            results.kept("sub/one.json", main="sub/one.txt")
    else:
        with pytest.raises(ResultError, match="lack some of their files"):
            results.kept("sub/one.json")


def test_a_damaged_sidecar_keeps_nothing(tmp_path: Path) -> None:
    results = ResultFolder(tmp_path, FINGERPRINT)
    publish(results)
    (tmp_path / "sub" / "one.json").write_text("{")
    with pytest.raises(ResultError, match="--overwrite"):
        results.kept("sub/one.json")


def test_a_failure_publishes_nothing_and_the_sidecar_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ResultFolder(tmp_path, FINGERPRINT)
    publish(results)
    moved: list[str] = []
    replace = Path.replace

    def counted(self: Path, target: Path) -> Path:
        if self.parent.name.startswith(".anystroke-") and Path(target).parent == tmp_path / "sub":
            moved.append(Path(target).name)
            if len(moved) == 2:
                raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    with pytest.raises(OSError, match="No space"):
        publish(results)
    assert not (tmp_path / "sub" / "one.json").exists()
    assert not list((tmp_path / "sub").glob(".*"))
    moved.clear()
    monkeypatch.setattr(Path, "replace", replace)
    publish(results)
    assert results.kept("sub/one.json") is not None


def test_hidden_folders_of_processes_that_are_no_more_go(tmp_path: Path) -> None:
    left = tmp_path / f".anystroke-{socket.gethostname()}-{2**22 + 7}-x"
    own = tmp_path / f"{staging_prefix()}y"
    other = tmp_path / ".anystroke-another_machine-1-z"
    for folder in (left, own, other):
        folder.mkdir()
    ResultFolder(tmp_path)
    assert [folder.exists() for folder in (left, own, other)] == [False, True, True]


def test_a_manifest_makes_the_folder_one_of_a_run(tmp_path: Path) -> None:
    cleared: list[dict[str, Any]] = []
    first = ResultFolder(tmp_path, {"Seed": 1}, manifest="run.json")
    assert not first.claim(cleared.append)
    assert first.claim(cleared.append)
    other = ResultFolder(tmp_path, {"Seed": 2}, manifest="run.json")
    with pytest.raises(ResultError, match="Seed differ"):
        other.claim(cleared.append)
    assert cleared == [{}]
    assert not other.claim(cleared.append, overwrite=True)
    assert cleared == [{}, {"Seed": 1}]
    assert (first.is_same_run, other.is_same_run) == (False, True)


def test_the_log_is_written_even_if_the_run_is_cut_short(tmp_path: Path) -> None:
    results = ResultFolder(tmp_path)
    outcomes = (Outcome(name, "done", (f"{name}.txt",), details={"seconds": 1.0}) for name in "abc")
    for outcome in results.logged(outcomes, {"Model": "m"}):
        if outcome.name == "b":
            break
    del outcome
    [log] = (tmp_path / "logs").iterdir()
    content = json.loads(log.read_text())
    assert content["Model"] == "m"
    assert [(scan["Name"], scan["Status"]) for scan in content["Scans"]] == [("a", "done"), ("b", "done")]


def test_a_failure_is_one_sentence_that_names_the_input() -> None:
    try:
        raise KeyError("some\nthing")
    except KeyError as error:
        outcome = Outcome.of_failure("scan", "/in/a.nii", error)
    assert outcome.message.startswith("scan: failed unexpectedly (KeyError")
    assert "\n" not in outcome.message
    assert "Traceback" in outcome.traceback


def test_files_are_flushed_and_move_to_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with staged(tmp_path / "new") as staging:
        (staging / "deep").mkdir()
        (staging / "deep" / "a.txt").write_text("a")
        (staging / "b.txt").write_text("b")
    assert len(synced) == 2
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")) == [
        "new/b.txt",
        "new/deep/a.txt",
    ]


def test_a_description_is_written_once(tmp_path: Path) -> None:
    describe_dataset(tmp_path, name="Results", description="Made here", ignored=("*.png",))
    describe_dataset(tmp_path, name="Other")
    content = json.loads((tmp_path / "dataset_description.json").read_text())
    assert (content["Name"], content["DatasetType"]) == ("Results", "derivative")
    assert content["GeneratedBy"][0]["Description"] == "Made here"
    assert (tmp_path / ".bidsignore").read_text() == "*.png\n"
