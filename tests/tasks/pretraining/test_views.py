"""Pairs of views: which scans they are of, and what happens to them."""

import math
from pathlib import Path

import pytest
import torch

from anystroke.acquisition.presets.preset import load_preset
from anystroke.core.rng import stream
from anystroke.learning.augmentation.apply import NONE
from anystroke.learning.cases import Case
from anystroke.learning.sources.maps import MapCases, MapSettings, pack_data
from anystroke.learning.sources.simulated import SimulatedSource
from anystroke.models.model_space import normalise_intensity
from anystroke.simulation.cohorts import Pack
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.pretraining.sources import ViewSource
from anystroke.tasks.pretraining.views import ViewKind, ViewSettings, make_view, prepared_scan
from map_phantoms import SPACING, write_map_subject
from phantoms import ellipsoid_anatomy, sphere_lesion

SHAPE = (16, 16, 16)


def _source(kind: ViewKind, **changes: object) -> ViewSource:
    preset = {"mprage": "qatlas"}.get(kind, "six_sequences")
    looks = SynthesisSettings(spacing=8.0, preset=preset, corrupted=False)
    scans = SimulatedSource(
        Pack([ellipsoid_anatomy()], [sphere_lesion()]), looks, weightings_follow_age=False
    )
    settings = ViewSettings.model_validate({"kind": kind, "hole_side": 2} | changes)
    return ViewSource(scans, settings, spacing=8.0, normalisation="whole")


def _protocols(case: Case) -> list[dict[str, object]]:
    return [scan["protocol"] for scan in case.record["scans"]]


def test_the_three_kinds_of_pairs() -> None:
    """One MPRAGE; one sequence for both views; two sequences, mostly other ones."""
    cases = {kind: [_source(kind).case(SHAPE, rng=stream(n, "c")) for n in range(30)] for kind in _KINDS}
    for kind in ("mprage", "one_sequence"):
        assert all(len(_protocols(case)) == 1 for case in cases[kind])
    assert {_protocols(case)[0]["sequence"] for case in cases["mprage"]} == {"published_mprage"}
    assert len({_protocols(case)[0]["sequence"] for case in cases["one_sequence"]}) >= 5
    pairs = [_protocols(case) for case in cases["two_sequences"]]
    assert all(len(pair) == 2 for pair in pairs)
    assert sum(one["sequence"] != two["sequence"] for one, two in pairs) >= 0.7 * len(pairs)
    assert all(one != two for one, two in pairs)


_KINDS: tuple[ViewKind, ...] = ("mprage", "one_sequence", "two_sequences")


def test_five_of_six_pairs_of_the_preset_differ() -> None:
    preset = load_preset("six_sequences")
    names = [preset.sample(stream(n, "protocol")).sequence for n in range(1200)]
    differ = [one != two for one, two in zip(names[::2], names[1::2], strict=True)]
    assert sum(differ) / len(differ) > 0.8
    assert len(set(names)) == 6


def test_the_preset_has_no_slip() -> None:
    preset = load_preset("six_sequences")
    for n in range(200):
        protocol = preset.sample(stream(n, "protocol")).to_dict()
        if protocol["sequence"] == "published_flair":
            assert protocol["magnitude"]
            assert protocol["inversion_time"] < protocol["repetition_time"]
        if protocol["sequence"] == "published_tse":
            assert 0.02 <= protocol["echo_time"] <= 0.15
            assert 2 <= protocol["repetition_time"] <= 8


def test_both_scans_are_of_one_patient_and_the_same_stream_gives_the_same_views() -> None:
    for n in range(8):
        case, again = (_source("two_sequences").case(SHAPE, rng=stream(n, "c")) for _ in range(2))
        assert torch.equal(case.image, again.image)
        assert torch.equal(case.target, again.target)
        one, two = case.record["scans"]
        assert one["key"] == two["key"]
        assert one["anatomy"] == two["anatomy"]
        assert one["scan"] != two["scan"]
        assert case.image.shape == case.target.shape == (2, *SHAPE)
        for view in case.target:
            assert abs(float(view.mean())) < 1e-4
            assert float(view.std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_views_of_measured_maps(tmp_path: Path) -> None:
    write_map_subject(tmp_path / "maps", "sub-01")
    settings = MapSettings(spacing=SPACING, data=(tmp_path / "maps",), preset="paper_code")
    pack_data(settings, tmp_path / "pack")
    scans = MapCases(tmp_path / "pack", settings, lesion=4)
    assert torch.equal(
        scans.scan((24, 24, 24), 0, rng=stream(1, "c")).image,
        scans.case((24, 24, 24), rng=stream(1, "c")).image,
    )
    source = ViewSource(scans, ViewSettings(hole_side=2), spacing=SPACING, normalisation=None)
    sequences = []
    for n in range(20):
        case = source.case((20, 20, 20), rng=stream(n, "c"))
        assert case.target.numel() == 2
        one, two = _protocols(case)
        assert case.record["scans"][0]["subject"] == case.record["scans"][1]["subject"]
        sequences.append((one["sequence"], two["sequence"]))
    assert sum(one != two for one, two in sequences) >= 14


def test_without_changes_a_view_is_a_part_of_the_scan() -> None:
    settings = ViewSettings(spatial=NONE, bias=0, ringing=0, noise=0, holes=0)
    scan = torch.rand(24, 24, 24)
    view = make_view(scan, settings, SHAPE, spacing=2.0, rng=stream(3, "v"))
    x, y, z = (c - 8 for c in view.record["centre"])
    assert torch.equal(view.image, view.clean)
    assert torch.equal(view.image, scan[x : x + 16, y : y + 16, z : z + 16])


def test_each_change_leaves_the_clean_view_alone_and_stays_in_its_range() -> None:
    scan = prepared_scan(torch.rand(20, 20, 20), ViewSettings())
    off = {"bias": 0, "ringing": 0, "noise": 0, "holes": 0}
    plain = ViewSettings.model_validate({"spatial": NONE, "hole_side": 2, **off})
    for name in off:
        settings = plain.model_copy(update={name: 1.0})
        for n in range(5):
            view = make_view(scan, settings, SHAPE, spacing=2.0, rng=stream(n, "v"))
            assert name in view.record
            cuts = name != "ringing" or math.sqrt(2) * (1 - view.record["ringing"]) < 1
            assert torch.equal(view.image, view.clean) != cuts
    for n in range(60):
        view = make_view(scan, ViewSettings(hole_side=2), SHAPE, spacing=2.0, rng=stream(n, "v"))
        assert 0 <= view.record["ringing"] <= 0.8
        assert 0 <= view.record["noise"] <= 0.2
        assert all(0 <= c <= 0.3 for c in view.record["bias"])
        assert 1 <= len(view.record["holes"]) <= 10
        assert all(2 <= side <= 4 for box in view.record["holes"] for side in box[3:])
        rotation = view.record["spatial"]["deformation"]
        assert rotation is None or all(abs(angle) <= 15 for angle in rotation["rotation"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_sd": [0.2, 0.1]}, "views.noise_sd"),
        ({"bias_coefficient": [-0.1, 0.1]}, "views.bias_coefficient"),
        ({"ringing_strength": [0.0, 1.0]}, "below 1"),
    ],
)
def test_ranges_that_are_none(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewSettings.model_validate(change)


def test_grey_values_of_a_scan_are_ranks_or_shares_of_its_range() -> None:
    scan = torch.rand(20, 20, 20, generator=stream(1, "s")).exp()
    ranks = prepared_scan(scan, ViewSettings())
    assert math.isclose(float(ranks.flatten().quantile(0.5)), 0.5, abs_tol=0.06)
    plain = prepared_scan(scan, ViewSettings(equalised=False))
    assert (float(plain.min()), float(plain.max())) == (0.0, 1.0)
    assert float((plain == 1).float().mean()) == pytest.approx(0.05, abs=0.01)
    mprage = prepared_scan(scan, ViewSettings(kind="mprage", equalised=False))
    assert float((mprage == 1).float().mean()) == pytest.approx(0.005, abs=0.003)
    assert bool(normalise_intensity(plain, "whole").isfinite().all())
