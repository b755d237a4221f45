from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anystroke.anatomy.regions.grid import REGION_SHAPE
from anystroke.anatomy.regions.regions import region_labels, region_names
from anystroke.tasks.outcome.cohort import Files, OutcomeCohort
from anystroke.tasks.outcome.evaluate import FoldSettings
from anystroke.tasks.outcome.files import load_outcome, save_outcome
from anystroke.tasks.outcome.fitting import fit_model
from anystroke.tasks.outcome.models import NETWORKS, find_model_spec
from anystroke.tasks.outcome.networks import build_outcome_network
from anystroke.tasks.outcome.pictures import pictures_of, to_grid
from anystroke.tasks.outcome.representations import (
    ROI_NAMES,
    Symbols,
    canvas,
    halved,
    stitch_exactly,
    stitched,
    uncanvas,
    unstitch_exactly,
    unstitched,
    with_symbols,
)
from anystroke.tasks.outcome.show import show_representations
from anystroke.tasks.outcome.simulated import simulated_cohort
from anystroke.tasks.outcome.table import Target
from anystroke.tasks.outcome.train import Study, train_outcome

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def cohort() -> OutcomeCohort:
    return simulated_cohort(40)


def _region(name: str) -> Array:
    volume: Array = (region_labels() == region_names().index(name) + 1).astype(np.float32)
    volume[46:] = 0
    return volume


def test_stitching_has_an_exact_inverse() -> None:
    volume = torch.rand(79, 95, 64, generator=torch.Generator().manual_seed(1)).numpy()
    picture = stitch_exactly(volume)
    assert picture.shape == (760, 632)
    assert np.array_equal(unstitch_exactly(picture, (79, 95, 64)), volume)
    # Left on the left, front up, the lowest section first.
    marked = np.zeros((79, 95, 64))
    marked[0, 94, 0] = 1
    assert stitch_exactly(marked)[0, 0] == 1
    with pytest.raises(ValueError, match="whole rows of 8"):
        stitch_exactly(np.zeros((4, 4, 9)))


def test_small_pictures_go_back_to_where_they_came_from() -> None:
    volume = _region("insula")
    back = unstitched(stitched(volume))
    shared = float((back * volume).sum()) / float(volume[:, :, 12:76].sum())
    assert shared > 0.75
    assert float(back[~np.isfinite(back)].sum()) == 0
    assert float((back > 0.5)[46:].sum()) == 0


def test_pixels_keep_their_voxel() -> None:
    marker = torch.rand(256, 256, generator=torch.Generator().manual_seed(1)).numpy()
    assert set(np.unique(unstitched(marker)[:, :, 12:76])) == set(np.unique(marker.astype(np.float32)))


@pytest.mark.parametrize("name", ["stitched", "hybrid", "canvas", "hybrid-canvas", "volume"])
def test_shrunken_pictures_go_back_to_the_same_places(cohort: OutcomeCohort, name: str) -> None:
    few = cohort.rows(range(2))
    whole, small = (pictures_of(few, name, scans=False, shrink=by) for by in (1, 2))
    assert small.shape == (2, 1, *(n // 2 for n in whole.shape[2:]))
    assert small.dtype == np.float32
    if name != "volume":
        assert small.mean() == pytest.approx(whole.mean(), rel=1e-4)
    back, shrunk = to_grid(whole[0, 0], name), to_grid(small[0, 0], name, shrink=2)
    assert np.corrcoef(back.reshape(-1), shrunk.reshape(-1))[0, 1] > 0.7


def test_symbols_are_no_part_of_the_brain(cohort: OutcomeCohort) -> None:
    """What a network makes of a symbol is not said of the sections that the symbol hides."""
    ones = np.ones((256, 256), dtype=np.float32)
    plain, hybrid = to_grid(ones, "stitched"), to_grid(ones, "hybrid")
    few = cohort.rows(range(1))
    drawn = pictures_of(few, "hybrid", scans=False)[0, 0]
    hidden = plain.any(axis=(0, 1)) & ~hybrid.any(axis=(0, 1))
    assert hidden.sum() == 4
    assert (hybrid[:, :, ~hidden] == plain[:, :, ~hidden]).all()
    assert drawn[192:, 192:].sum() > 0
    assert to_grid(drawn, "hybrid")[:, :, hidden].sum() == 0


@pytest.mark.parametrize("name", ROI_NAMES[:8])
def test_a_canvas_shows_its_regions_alone(name: str) -> None:
    shown = canvas(_region(name))
    assert shown.sum() > 0
    assert canvas(_region("calcarine")).sum() < 0.05 * shown.sum()
    assert (uncanvas(shown) > 0).sum() == (shown > 0).sum()


def test_symbols_are_monotone_and_the_same_for_the_same() -> None:
    empty = np.zeros((256, 256), dtype=np.float32)
    for on_canvas in (False, True):
        for part in ("size", "severity", "time"):
            sums = [
                float(with_symbols(empty, Symbols(**{part: value}), on_canvas=on_canvas).sum())
                for value in (0.1, 0.4, 0.7, 1.0)
            ]
            assert sums == sorted(sums)
            assert sums[0] < sums[-1]
        one, two = (with_symbols(empty, Symbols(0.5, 0.3, 0.2), on_canvas=on_canvas) for _ in range(2))
        assert np.array_equal(one, two)
    assert with_symbols(empty, Symbols()).sum() < with_symbols(empty, Symbols(time=0.0)).sum()


def test_half_the_size_keeps_the_mean() -> None:
    volume = np.ones(REGION_SHAPE, dtype=np.float32)
    assert halved(volume).shape == (45, 54, 45)
    assert halved(volume).min() == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_put_out_their_heads(name: str) -> None:
    network = build_outcome_network(name, table=3, heads=2)
    spec = find_model_spec(name)
    shape = (45, 54, 45) if spec.picture == "volume" else (256, 256)
    picture = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(1))
    table = torch.zeros(2, 3)
    output = network(picture, table)
    assert output.shape == (2, 2)
    moved = network(picture, table + 1)
    sees_table = name in ("early-fusion", "early-fusion-3d", "daft")
    assert bool((moved != output).any()) == sees_table
    output.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_network_from_training_to_a_file_and_back(cohort: OutcomeCohort, tmp_path: Path) -> None:
    study = Study(cohort, Target(name="good", kind="two_classes", classes=("no", "yes")), (), Files())
    how = FoldSettings(folds=2, repeats=1, epochs=1)
    trained = train_outcome(study, "hybrid:lightweight", "toy", validation=how)
    save_outcome(tmp_path / "m", trained.model, "card")
    again = load_outcome(tmp_path / "m")
    assert np.array_equal(again.fitted.raw(cohort), trained.model.fitted.raw(cohort))
    saliency = again.fitted.network.saliency(cohort.rows([0, 1]), draws=2)
    assert saliency.shape == REGION_SHAPE
    assert saliency.max() == 1
    assert np.array_equal(saliency, again.fitted.network.saliency(cohort.rows([0, 1]), draws=2))


def test_training_is_repeatable(cohort: OutcomeCohort) -> None:
    spec = find_model_spec("canvas:lightweight")
    first, second = (fit_model(spec, cohort, "two_classes", seed=2, epochs=1).raw(cohort) for _ in range(2))
    assert np.array_equal(first, second)


def test_the_saliency_of_a_canvas_lies_in_its_regions(cohort: OutcomeCohort) -> None:
    pixels = to_grid(np.ones((256, 256), dtype=np.float32), "canvas")
    assert pixels[46:].sum() == 0
    assert 0 < (pixels > 0).mean() < 0.2


def test_numbers_come_back_in_their_unit(cohort: OutcomeCohort) -> None:
    numbers = replace(cohort, target=100 + cohort.columns[:, 1])
    model = fit_model(find_model_spec("combined"), numbers, "number", seed=1, epochs=1)
    assert 95 < model.raw(numbers).mean() < 110


def test_pictures_are_shown(cohort: OutcomeCohort, tmp_path: Path) -> None:
    show_representations(cohort, tmp_path, patients=1)
    assert {path.name for path in tmp_path.iterdir()} == {"sub-0001.png", "low-rank.png"}
    assert pictures_of(cohort.rows([0]), "volume", scans=False).shape == (1, 1, 45, 54, 45)
