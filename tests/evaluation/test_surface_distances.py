import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from adversaries import (
    SPACINGS,
    Mask,
    Spacing,
    directed_distances,
    edge_voxels,
    named_masks,
    pairs_of_masks,
    percentile,
)
from anystroke.evaluation.metrics.distance_transform import distances_between
from anystroke.evaluation.metrics.surface_distances import (
    DEFINITIONS,
    HausdorffDefinition,
    distance_when_missed,
    hausdorff,
    surface_distances,
)

UNIT = SPACINGS[0]
MASKS = named_masks()
PAIRS = [(name, p, t) for name, p, t in pairs_of_masks() if p.any() and t.any()]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_voxel_surfaces_against_brute_force(spacing: Spacing) -> None:
    for name, prediction, truth in PAIRS[::3]:
        first = directed_distances(prediction, truth, spacing)
        second = directed_distances(truth, prediction, spacing)
        for percent in (50.0, 95.0, 100.0):
            directed = percentile(first, percent), percentile(second, percent)
            found = surface_distances(prediction, truth, spacing=spacing)
            assert found is not None
            assert found.directed(percent) == pytest.approx(directed), name
            assert found.percentile(percent) == pytest.approx(max(directed)), name
            pooled = hausdorff(prediction, truth, spacing=spacing, percent=percent, definition="medpy")
            assert pooled == pytest.approx(percentile(first + second, percent)), name


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(bool, arrays.array_shapes(min_dims=3, max_dims=3, max_side=9)),
    st.tuples(*[st.floats(0.2, 6.0)] * 3),
    st.integers(0, 2**31),
)
def test_the_distance_transform_is_the_nearest_source(mask: Mask, spacing: Spacing, seed: int) -> None:
    wanted = np.random.default_rng(seed).random(mask.shape) < 0.4
    found = distances_between(mask, wanted, spacing=spacing)
    sources = np.argwhere(mask) * spacing
    for voxel, distance in zip(np.argwhere(wanted) * spacing, found, strict=True):
        nearest = min((math.dist(voxel, source) for source in sources), default=math.inf)
        assert distance == pytest.approx(nearest, rel=1e-12, abs=1e-12)


def test_few_points_in_a_large_box_have_the_same_distances() -> None:
    rng = np.random.default_rng(6)
    sources, wanted = (rng.random((40, 30, 50)) < 0.002 for _ in range(2))
    whole = np.ones_like(wanted)
    everywhere = distances_between(sources, whole, spacing=(0.45, 0.45, 5.0)).reshape(whole.shape)
    some = distances_between(sources, wanted, spacing=(0.45, 0.45, 5.0))
    assert some == pytest.approx(everywhere[wanted], rel=1e-12)
    none = distances_between(np.zeros_like(sources), wanted, spacing=(1.0, 1.0, 1.0))
    assert np.isinf(none).all()


def test_threads_change_nothing(request: pytest.FixtureRequest) -> None:
    rng = np.random.default_rng(3)
    sources, wanted = (rng.random((33, 20, 41)) < 0.2 for _ in range(2))
    alone = distances_between(sources, wanted, spacing=(0.45, 0.45, 5.0))
    request.addfinalizer(lambda: torch.set_num_threads(1))
    torch.set_num_threads(2)
    assert np.array_equal(alone, distances_between(sources, wanted, spacing=(0.45, 0.45, 5.0)))


@pytest.mark.filterwarnings("ignore:.*get_mask_edges:FutureWarning")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_monai_is_met_where_it_is_defined(spacing: Spacing) -> None:
    from monai.metrics import compute_hausdorff_distance

    for name, prediction, truth in PAIRS[::4]:
        both = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
        for percent in (None, 95.0):
            theirs = compute_hausdorff_distance(
                *both, include_background=True, percentile=percent, spacing=spacing
            )
            ours = hausdorff(prediction, truth, spacing=spacing, percent=percent or 100.0)
            # MONAI computes in single precision.
            assert ours == pytest.approx(float(theirs), rel=1e-5), name


@pytest.mark.filterwarnings("ignore:.*get_mask_edges:FutureWarning")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_dice_of_monai_is_met(spacing: Spacing) -> None:
    from monai.metrics import compute_surface_dice

    for name, prediction, truth in PAIRS[::5]:
        both = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
        theirs = compute_surface_dice(
            *both, [1.0], include_background=True, spacing=spacing, use_subvoxels=True
        )
        found = surface_distances(prediction, truth, spacing=spacing, definition="surface_distance")
        assert found is not None
        assert found.surface_dice(1.0) == pytest.approx(float(theirs), abs=1e-5), name


def test_the_area_of_a_large_ball() -> None:
    axes = np.meshgrid(*[np.arange(-20, 21)] * 3, indexing="ij")
    ball = np.sum(np.square(axes), axis=0) <= 15.5**2
    found = surface_distances(ball, ball, spacing=UNIT, definition="surface_distance")
    assert found is not None
    # Elements between corners cannot follow a sphere: 4 to 8 % too much.
    assert 1.0 < found.true_areas.sum() / (4 * math.pi * 15.5**2) < 1.1


def test_definitions_differ_on_one_pair() -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[10:20, 10:20, 10:20] = True
    other = mask.copy()
    other[20:23, 10:13, 10:13] = True
    values = {d: hausdorff(other, mask, spacing=UNIT, definition=d) for d in DEFINITIONS}
    assert len(set(values.values())) > 1
    assert {hausdorff(other, mask, spacing=UNIT, percent=100, definition=d) for d in DEFINITIONS} == {3.0}


@settings(max_examples=40, deadline=None)
@given(
    arrays.arrays(bool, (5, 4, 6)),
    arrays.arrays(bool, (5, 4, 6)),
    st.sampled_from(DEFINITIONS),
    st.sampled_from(SPACINGS),
    st.integers(0, 3),
)
def test_properties(
    prediction: Mask, truth: Mask, definition: HausdorffDefinition, spacing: Spacing, padding: int
) -> None:
    found = surface_distances(prediction, truth, spacing=spacing, definition=definition)
    if found is None:
        assert not (prediction.any() and truth.any())
        return
    back = surface_distances(truth, prediction, spacing=spacing, definition=definition)
    assert back is not None
    for percent in (50, 95, 100):
        assert found.percentile(percent) == pytest.approx(back.percentile(percent))
        assert found.directed(percent) == pytest.approx(back.directed(percent)[::-1])
    assert found.percentile(95) <= found.percentile(100) + 1e-12
    assert 0 <= found.surface_dice(1.0) <= found.surface_dice(2.0) <= 1 + 1e-9
    wider = [np.pad(mask, padding) for mask in (prediction, truth)]
    padded = surface_distances(*wider, spacing=spacing, definition=definition)
    assert padded is not None
    assert padded.percentile(95) == pytest.approx(found.percentile(95))
    x, y, z = (3 * step for step in spacing)
    scaled = surface_distances(prediction, truth, spacing=(x, y, z), definition=definition)
    assert scaled is not None
    assert scaled.percentile(95) == pytest.approx(3 * found.percentile(95), rel=1e-6)


def test_what_a_missed_lesion_costs() -> None:
    truth, empty = MASKS["one voxel"], MASKS["empty"]
    spacing = (0.45, 0.45, 5.0)
    diagonal = math.sqrt((7 * 0.45) ** 2 + (6 * 0.45) ** 2 + (5 * 5.0) ** 2)
    for pair in ((truth, empty), (empty, truth)):
        assert hausdorff(*pair, spacing=spacing) == pytest.approx(diagonal)
        assert hausdorff(*pair, spacing=spacing, missed=256.0) == 256
        assert hausdorff(*pair, spacing=spacing, missed="infinite") == math.inf
        assert math.isnan(hausdorff(*pair, spacing=spacing, missed="undefined"))
    assert math.isnan(hausdorff(empty, empty, spacing=spacing))
    with pytest.raises(ValueError, match="'skip'"):
        distance_when_missed("skip", shape=(2, 2, 2), spacing=spacing)  # type: ignore[arg-type]


def test_missing_lesions_never_pays() -> None:
    shape = (24, 24, 24)
    truth = np.zeros(shape, bool)
    truth[8:16, 8:16, 8:16] = True
    half, empty = truth.copy(), np.zeros(shape, bool)
    half[12:] = False
    spacing = (1.0, 1.0, 1.0)

    def mean(missed: int) -> float:
        predictions = [empty] * missed + [half] * (10 - missed)
        return sum(hausdorff(p, truth, spacing=spacing) for p in predictions) / 10

    values = [mean(missed) for missed in range(11)]
    assert values[0] == 4.0
    assert all(later > earlier for earlier, later in itertools.pairwise(values))


def test_what_has_no_surface_is_refused() -> None:
    flat = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match=r"3-D masks, got shape \(3, 3\)"):
        surface_distances(flat, flat, spacing=UNIT)
    with pytest.raises(ValueError, match="'itk'"):
        surface_distances(MASKS["full"], MASKS["full"], spacing=UNIT, definition="itk")  # type: ignore[arg-type]


def test_the_brute_force_itself() -> None:
    assert len(edge_voxels(MASKS["full"])) == 7 * 6 * 5 - 5 * 4 * 3
    assert percentile([0.0, 1.0, 2.0], 75) == 1.5
