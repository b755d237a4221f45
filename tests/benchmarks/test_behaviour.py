import base64
import gzip
import io
import json
from pathlib import Path
from typing import Any

import behaviour
import nibabel as nib
import numpy as np
import pytest
import torch
from behaviour import COMMANDS, FAILED, Command, chosen, differences, hashed, main, run
from fingerprints import fingerprint, settled_text
from PIL import Image
from safetensors.torch import save_file


def _nifti(path: Path, *, value: float = 1.0, shift: float = 0.0, level: int = 9) -> str:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0, 3] = shift
    image = nib.Nifti1Image(np.full((4, 5, 6), value, np.float32), affine)
    path.write_bytes(gzip.compress(image.to_bytes(), level, mtime=level))
    return fingerprint(path)


def test_images_count_by_voxels_and_affine_not_by_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    first = _nifti(path)
    assert _nifti(path, level=1) == first
    assert len({first, _nifti(path, value=1.0000001), _nifti(path, shift=1e-6)}) == 3


@pytest.mark.parametrize(
    ("name", "first", "same", "other"),
    [
        (
            "a.json",
            '{"Date": "2024-01-02T03:04:05Z", "EchoTime": 0.1, "Path": "/a/b/c.nii"}',
            '{"EchoTime": 0.1, "Date": "2025-01-02T03:04:05Z", "Path": "/d/c.nii"}',
            '{"EchoTime": 0.2, "Path": "/a/b/c.nii"}',
        ),
        (
            "a.tsv",
            "id\tseconds\tdice\n1\t2.5\t0.1\n",
            "id\tseconds\tdice\n1\t3.5\t0.1\n",
            "id\tdice\n1\t0.2\n",
        ),
        (
            "a.html",
            "anystroke 1.0.0 <b>in 3 s</b>",
            "anystroke 1.1.0 <b>in 12.5 s</b>",
            "anystroke 1.0.0 <b>3 ml",
        ),
        ("a.other", "3 s", "3 s", "4 s"),
    ],
)
def test_what_differs_from_run_to_run_is_left_out(
    tmp_path: Path, name: str, first: str, same: str, other: str
) -> None:
    found = []
    for text in (first, same, other):
        (tmp_path / name).write_text(text)
        found.append(fingerprint(tmp_path / name))
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize(
    "text", ["TE 3 ms, TR 2490 ms", "volume 12.5 ml at 3 T", "a/b/c.nii", "https://example.org/a/b", "</b>"]
)
def test_other_figures_and_relative_paths_stay(text: str) -> None:
    assert settled_text(text) == text


def test_pictures_count_by_pixels_also_within_a_page(tmp_path: Path) -> None:
    def page(value: int, level: int) -> str:
        stream = io.BytesIO()
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "PNG", compress_level=level)
        path = tmp_path / "a.html"
        path.write_text(f'<img src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">')
        return fingerprint(path)

    assert page(3, 0) == page(3, 9)
    assert page(3, 0) != page(4, 0)


def test_networks_count_by_tensors(tmp_path: Path) -> None:
    def saved(value: float, note: str) -> str:
        tensors = {"a": torch.full((2,), value, dtype=torch.bfloat16)}
        save_file(tensors, tmp_path / "a.safetensors", {"note": note})
        return fingerprint(tmp_path / "a.safetensors")

    assert saved(1.0, "one") == saved(1.0, "two")
    assert saved(1.0, "one") != saved(2.0, "one")


def test_a_folder_is_hashed_without_times_in_names(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "run-20240102T030405-17.json").write_text("{}")
    (tmp_path / "events.out.tfevents.1.host").write_text("x")
    assert list(hashed(tmp_path, "segment")) == ["segment/logs/run-....json"]


def test_a_command_brings_those_that_it_reads() -> None:
    assert [one.name for one in chosen(["evaluate"])] == ["simulate", "segment", "segment-small", "evaluate"]
    with pytest.raises(ValueError, match="got nothing"):
        chosen(["nothing"])
    names = [one.name for one in COMMANDS]
    assert all(names.index(before) < names.index(one.name) for one in COMMANDS for before in one.after)


def test_a_command_that_fails_is_said_and_does_not_stop_others(tmp_path: Path) -> None:
    commands = [
        Command("no", "no-such-verb", files={"a.txt": "x"}),
        Command("next", "models", after=("no",), copies={"b": "no/a"}),
    ]
    found = run(commands, tmp_path, behaviour.SOURCE)
    assert list(found) == [f"no/{FAILED}", f"next/{FAILED}"]
    assert "what no writes" in found[f"next/{FAILED}"]
    assert "no-such-verb" in found[f"no/{FAILED}"]


def test_what_differs_is_missing_or_new_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stand_in(*_: Any) -> dict[str, str]:
        return {"simulate/a": "1", "simulate/b": "2"}

    monkeypatch.setattr(behaviour, "run", stand_in)
    output, other = tmp_path / "out.json", tmp_path / "other.json"
    assert main([str(output), "--only", "simulate"]) == 0
    assert main([str(output), "--only", "simulate", "--against", str(output)]) == 0
    other.write_text(json.dumps({"simulate/a": "3", "simulate/c": "4", "train/d": "5"}))
    capsys.readouterr()
    assert main([str(output), "--only", "simulate", "--against", str(other)]) == 1
    assert capsys.readouterr().out.splitlines()[:3] == [
        "differs: simulate/a", "new: simulate/b", "missing: simulate/c"
    ]  # fmt: skip
    assert differences(json.loads(output.read_text()), {}) == ["new: simulate/a", "new: simulate/b"]
