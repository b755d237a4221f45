import math
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anystroke.core.volume import Volume
from anystroke.models.volume_interval import VolumeErrors
from anystroke.tasks.segmentation.findings import Findings
from anystroke.tasks.segmentation.lesions_found import (
    find_lesions,
    largest_distance,
    middle_plane,
    volumes_of_parts,
)
from anystroke.tasks.segmentation.predict import segment
from stand_in import axial_affine, lesion_truth, phantom, rotation, stand_in_model

SHAPE = (48, 56, 40)
AFFINE = axial_affine(4.0, 4.0, 4.5, shape=SHAPE)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000))
def test_largest_distance_is_that_of_all_pairs(count: int, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(count, 3)) * [30, 10, 3]
    pairs = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)).max()
    assert largest_distance(points) == pytest.approx(pairs, rel=3e-3)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR", "PIL"])
def test_lesions_do_not_depend_on_the_storage_order(orientation: str) -> None:
    turned = rotation(8.0, 20.0) @ AFFINE
    scan = phantom(turned, SHAPE)
    mask = Volume(lesion_truth(turned, SHAPE).to(torch.uint8), turned)
    extra = mask.data.clone()
    extra[0, 36, 30, 20] = 1
    head = Volume((scan.data > 50).to(torch.uint8), turned)
    mask, probability, inside = (
        volume.reorient(orientation)
        for volume in (Volume(extra, turned), Volume(extra.float(), turned), head)
    )
    numbered, lesions = find_lesions(mask, probability, inside)
    assert [lesion.number for lesion in lesions] == [1, 2]
    largest, small = lesions
    assert (largest.hemisphere, small.hemisphere) == ("left", "right")
    np.testing.assert_allclose(largest.centroid, [-25, 25, 10], atol=1.0)
    assert largest.volume == pytest.approx(4 / 3 * math.pi * 2.2 * 2.6 * 2.4, rel=0.05)
    assert largest.diameter == pytest.approx(52, abs=6)
    assert small.diameter == 0
    assert small.volume == pytest.approx(4 * 4 * 4.5 / 1000)
    assert int((numbered.data == 1).sum()) + 1 == int((numbered.data > 0).sum())
    assert largest.mean_probability == 1.0


def test_middle_plane_follows_a_turned_head() -> None:
    axes: Any = torch.meshgrid(*(torch.linspace(-n / 2, n / 2, n) for n in (60, 70, 50)), indexing="ij")
    inside = (axes[0] / 25) ** 2 + (axes[1] / 32) ** 2 + (axes[2] / 22) ** 2 < 1
    affine = rotation(0.0, 12.0)
    affine[:3, 3] = torch.tensor([5.0, 0.0, 0.0])
    plane = middle_plane(Volume(inside[None].to(torch.uint8), affine))
    across = affine[:3, 0].numpy()
    cosine = plane[:3] @ across / np.linalg.norm(plane[:3])
    # The rows run along the grid, so that the plane is that of the ellipsoid in its own axes.
    assert cosine > 0.999


def test_an_empty_mask_has_no_lesions() -> None:
    empty = Volume(torch.zeros(1, *SHAPE), AFFINE)
    numbered, lesions = find_lesions(empty, empty, empty)
    assert lesions == []
    assert int(numbered.data.max()) == 0


def test_parts_of_a_mask_know_the_lesion_that_they_belong_to() -> None:
    truth = torch.zeros(30, 30, 30, dtype=torch.bool)
    truth[2:12, 2:12, 2:12] = True
    truth[20:24, 20:24, 20:24] = True
    data = torch.zeros(1, 30, 30, 30)
    data[0, 3:5, 3:5, 3:5], data[0, 8:12, 3:5, 3:5], data[0, 26:28, 3:5, 3:5] = 0.8, 0.6, 0.9
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    found = volumes_of_parts(Volume(data > 0.5, affine), Volume(data, affine), truth)
    wanted = [(0.8, 0.8, 8 * 0.008, 8.0), (0.6, 0.6, 16 * 0.008, 8.0), (0.9, 0.9, 8 * 0.008, 0.0)]
    np.testing.assert_allclose([astuple(part) for part in found], wanted, rtol=1e-6)
    assert volumes_of_parts(Volume(data > 1, affine), Volume(data, affine), truth) == []


def test_lesions_have_intervals_of_their_own() -> None:
    errors = VolumeErrors(rate=0.9, edges=(2.0,), low=(-9.0, -0.1), high=(0.5, 0.2), patients=100)
    data = torch.zeros(1, 40, 40, 40)
    data[0, 2:22, 2:22, 2:22], data[0, 30:32, 30:32, 30:32] = 1, 1
    mask = Volume(data, torch.eye(4))
    _, (large, small) = find_lesions(mask, mask, Volume(torch.ones(1, 40, 40, 40), torch.eye(4)), errors)
    assert large.interval is not None
    assert small.interval is not None
    assert large.interval.low == pytest.approx(9 * math.exp(-0.1) - 1)
    assert large.interval.high == pytest.approx(9 * math.exp(0.2) - 1)
    assert small.interval.low == 0.0
    assert small.interval.high == pytest.approx(1.008 * math.exp(0.5) - 1)


def test_sure_lesions_have_narrower_intervals() -> None:
    errors = VolumeErrors(
        rate=0.9,
        edges=(),
        low=(-1.0,),
        high=(1.0,),
        patients=100,
        sure=(0.7,),
        sure_low=(-0.1,),
        sure_high=(0.1,),
    )
    data = torch.zeros(1, 40, 40, 40)
    data[0, 2:22, 2:22, 2:22], data[0, 30:32, 30:32, 30:32] = 0.9, 0.6
    mask, head = Volume((data > 0).float(), torch.eye(4)), Volume(torch.ones(1, 40, 40, 40), torch.eye(4))
    _, found = find_lesions(mask, Volume(data, torch.eye(4)), head, errors)
    widths = [math.log((each.interval.high + 1) / (each.interval.low + 1)) for each in found if each.interval]
    assert widths == pytest.approx([0.2, math.log(1.008) + 1.0], rel=1e-3)


def test_what_lies_on_the_left_alone_leaves_nothing_on_the_right(tmp_path: Path) -> None:
    found = Findings.of(segment(phantom(AFFINE, SHAPE), stand_in_model(), device="cpu"))
    [lesion] = found.lesions
    rounded = replace(found, lesions=[replace(lesion, left_volume=found.result.lesion_volume + 1e-12)])
    scan = tmp_path / "T2w.nii.gz"
    found.result.scan.save(scan)
    assert str(rounded.facts(scan, [], {}, None)["RightLesionVolume"]) == "0.0"
