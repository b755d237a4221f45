"""A recipe's data give way to those of one's own."""

from pathlib import Path

import pytest

from anystroke.commands.main import main
from anystroke.learning.own_data import PACKAGE_LESIONS, OwnData, own_overrides

_INSTEAD = ["data.anatomies=[]", "data.lesions=[]", f"data.package={PACKAGE_LESIONS}"]


@pytest.mark.parametrize(
    ("recipe", "own", "place"),
    [
        ("qatlas-small", OwnData(maps=(Path("mine"),)), "sources.0.maps.data"),
        ("qsynth+real-small", OwnData(scans=(Path("mine"),)), "sources.1.scans.data"),
    ],
)
def test_the_packages_brain_takes_the_place_of_folders_that_are_not_there(
    recipe: str, own: OwnData, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert own_overrides(recipe, own, tmp_path) == [f'{place}=["mine"]', *_INSTEAD]
    (tmp_path / "data" / "anatomies").mkdir(parents=True)
    assert own_overrides(recipe, own, tmp_path) == [f'{place}=["mine"]']


def test_label_maps_of_ones_own_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = OwnData(anatomies=(Path("heads"),), scans=(Path("mine"),))
    assert own_overrides("qsynth+real-small", own, tmp_path) == [
        'data.anatomies=["heads"]',
        'sources.1.scans.data=["mine"]',
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "flag"), [("qatlas-small", "--maps"), ("qsynth+real-small", "--scans")])
def test_what_was_simulated_is_learnt_from(
    recipe: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulated = [
        "simulate",
        "-o",
        "own",
        "--weighting",
        "T1w,FLAIR",
        "--count",
        "2",
        "--spacing",
        "4",
        "--maps",
    ]
    assert main(simulated) == 0
    few = (
        "data.package=8",
        "optimiser.steps=3",
        "validation.every=3",
        "validation.patients=2",
        "validation.healthy=1",
    )
    changes = [part for each in few for part in ("--override", each)]
    assert main(["train", recipe, "-o", "run", flag, "own", *changes]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
