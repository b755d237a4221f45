"""Heads are shown to the network in several ways."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anystroke.core.volume import Grid, Volume
from anystroke.models.model_space import to_model_space
from anystroke.models.passes import ALL_FLIPS, PRESETS, Processing
from anystroke.tasks.segmentation.calibrate import _choose_temperature
from anystroke.tasks.segmentation.config import SegmentationConfig, View
from anystroke.tasks.segmentation.files import segment_files
from anystroke.tasks.segmentation.mask import predict
from anystroke.tasks.segmentation.options import WriteOptions
from anystroke.tasks.segmentation.predict import Model
from anystroke.tasks.segmentation.validate import JudgedPatient
from anystroke.tasks.segmentation.views import (
    averaged,
    image_of_view,
    logits_of_views,
    probabilities_of_views,
)

CONFIG = SegmentationConfig(
    name="toy", architecture="none", classes=("background", "lesion"), spacing=2.0, divisor=8, threshold=0.3
)
AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
TWO = (View(gamma=1.5), View(spacing=1.6, mirrored=True))


class Seeing(nn.Module):
    """Calls bright voxels lesion, those to the image's right more so, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        right = torch.linspace(-1, 1, x.shape[2]).view(1, 1, -1, 1, 1)
        return torch.cat([torch.zeros_like(x), 0.4 * x + right - 1.5], dim=1)


@pytest.fixture(scope="module")
def head() -> Volume:
    """A bright block on the left of a dim one, with some noise."""
    image = torch.zeros(1, 48, 48, 48)
    noise = torch.rand(36, 36, 36, generator=torch.Generator().manual_seed(1))
    image[0, 6:42, 6:42, 6:42] = 1 + 0.2 * noise
    image[0, 12:20, 14:24, 14:24] += 1.5
    return Volume(image, AFFINE)


def _with(*views: View) -> SegmentationConfig:
    return CONFIG.model_copy(update={"views": views})


def test_log_odds_are_averaged_and_other_classes_as_they_are() -> None:
    one = Volume(torch.tensor([0.2, 0.7]).view(2, 1, 1, 1), AFFINE)
    other = Volume(torch.tensor([0.9, 0.1]).view(2, 1, 1, 1), AFFINE)
    lesion, rest = averaged([one, other], Grid((1, 1, 1), AFFINE)).flatten().tolist()
    odds = (math.log(0.2 / 0.8) + math.log(0.9 / 0.1)) / 2
    assert lesion == pytest.approx(1 / (1 + math.exp(-odds)))
    assert rest == pytest.approx(0.4)


def test_what_no_view_takes_to_be_possible_stays_small() -> None:
    views = [Volume(torch.full((1, 1, 1, 1), p), AFFINE) for p in (1e-5, 3e-5)]
    assert averaged(views, Grid((1, 1, 1), AFFINE)).item() == pytest.approx(2e-5)


@pytest.mark.parametrize("factor", [1.0, 250.0])
def test_gamma_changes_the_spread_of_grey_values_and_nothing_else(head: Volume, factor: float) -> None:
    scan = Volume(factor * head.data, head.affine)
    space = to_model_space(scan, spacing=2.0, divisor=8)
    image = image_of_view(View(gamma=1.5), scan, space, CONFIG)
    plain = image_of_view(View(), scan, space, CONFIG)
    assert torch.equal(plain.data, space.image)
    order = space.image.flatten().argsort()
    assert bool((image.data.flatten()[order].diff() >= -1e-5).all())
    raised = (space.image - space.image.min()).pow(1.5)
    inside = space.image > space.image.min()
    both = torch.stack([image.data[inside], raised[inside]])
    bright = space.image[inside] < 3
    assert float(torch.corrcoef(both[:, bright])[0, 1]) > 0.999
    assert abs(float(image.data[inside].std()) - 1) < 0.1


def test_a_mirrored_view_says_where_the_lesion_is(head: Volume) -> None:
    plain = predict(head, Seeing(), CONFIG, device="cpu").probability.data[0]
    mirrored = predict(head, Seeing(), _with(View(mirrored=True)), device="cpu").probability.data[0]
    block = (slice(13, 19), slice(15, 23), slice(15, 23))
    assert float(plain[block].mean()) > 0.5
    # The block lies to the left, which the mirror makes the network's right: it is more sure of it.
    assert float(mirrored[block].mean()) > float(plain[block].mean()) + 0.02
    assert float(mirrored[30:40, 15:23, 15:23].mean()) < 0.3


def test_each_view_is_one_pass_on_its_own_grid(head: Volume) -> None:
    network = Seeing()
    found = predict(head, network, _with(*TWO), device="cpu")
    first, second = network.seen
    assert second.shape[2] > first.shape[2]
    assert found.probability.shape == head.shape
    block = (slice(13, 19), slice(15, 23), slice(15, 23))
    alone = [predict(head, Seeing(), _with(view), device="cpu").probability.data[0][block] for view in TWO]
    together = found.probability.data[0][block]
    expected = torch.sigmoid(torch.logit(torch.stack(alone)).mean(0))
    assert float((alone[0] - alone[1]).abs().mean()) > 0.02
    assert torch.allclose(together, expected, atol=0.01)


def test_flips_go_over_each_view_both_ways(head: Volume) -> None:
    network = Seeing()
    found = predict(head, network, _with(*TWO), device="cpu", flip=True)
    assert len(network.seen) == 4
    assert torch.equal(network.seen[1], network.seen[0].flip(2))
    assert torch.equal(network.seen[3], network.seen[2].flip(2))
    assert found.spread is None


def test_the_spread_is_over_views_and_flips(head: Volume) -> None:
    space = to_model_space(head, spacing=2.0, divisor=8)
    cpu = torch.device("cpu")

    def found(*views: View, processing: Processing = PRESETS["default"]) -> tuple[Tensor, Tensor]:
        return probabilities_of_views(head, space, Seeing(), [1], _with(*views), processing, cpu)

    alone = [found(view)[0] for view in (View(), View(gamma=3.0), View(mirrored=True))]
    assert torch.allclose(found(View(), View(gamma=3.0))[1], (alone[0] - alone[1]).abs() / 2, atol=1e-5)
    both = PRESETS["default"].mirrored()
    assert torch.allclose(found(View(), processing=both)[1], found(View(), View(mirrored=True))[1], atol=1e-5)
    finer = View(spacing=1.7)
    assert float(found(finer, finer)[1].max()) < 1e-6
    assert float(found(View(), finer)[1].max()) > 0.02


def test_a_spread_that_is_asked_for_changes_no_mask(head: Volume) -> None:
    for views, passes in (((View(),), 2), (TWO, 2)):
        network = Seeing()
        found = predict(head, network, _with(*views), device="cpu", spread=True)
        assert len(network.seen) == passes
        assert found.spread is not None
        assert float(found.spread.data.max()) > 0.02
        plain = predict(head, Seeing(), _with(*views), device="cpu")
        assert plain.spread is None
        assert torch.equal(plain.probability.data, found.probability.data)


def test_a_view_counts_where_its_grid_reaches() -> None:
    whole = Volume(torch.full((2, 8, 8, 8), 0.8), AFFINE)
    moved = AFFINE.clone()
    moved[0, 3] = 8.0
    part = Volume(torch.full((2, 4, 8, 8), 0.2), moved)
    together = averaged([whole, part], Grid((8, 8, 8), AFFINE))
    assert torch.allclose(together[:, :4], torch.tensor(0.8))
    assert torch.allclose(together[:, 4:], torch.tensor(0.5))
    assert float(averaged([part, part], Grid((8, 8, 8), AFFINE))[:, :4].abs().max()) == 0


def test_a_scan_of_few_values_is_shown_as_it_is() -> None:
    image = torch.zeros(1, 48, 48, 48)
    image[0, 4:44, 4:44, 4:44] = 1
    image[0, 16:32, 16:32, 16:32] = 2
    scan = Volume(image, AFFINE)
    space = to_model_space(scan, spacing=2.0, divisor=8)
    assert torch.equal(image_of_view(View(gamma=1.3), scan, space, CONFIG).data, space.image)


@pytest.mark.parametrize(
    "other", [Processing(spacing=3.0), Processing(normalisation="whole"), PRESETS["paper-one-pass"]]
)
def test_other_ways_of_processing_have_one_view(other: Processing, head: Volume) -> None:
    network = Seeing()
    space = to_model_space(
        head, spacing=other.spacing or 2.0, divisor=8, normalise=other.normalisation or "foreground"
    )
    whole = replace(other, one_pass_voxels=160**3)
    probabilities_of_views(head, space, network, [1], _with(*TWO), whole, torch.device("cpu"))
    [seen] = network.seen
    assert torch.equal(seen[0], space.image)


def test_logits_of_views_are_what_is_averaged(head: Volume) -> None:
    config = _with(*TWO).model_copy(update={"temperature": 1.7})
    space = to_model_space(head, spacing=2.0, divisor=8)
    cpu = torch.device("cpu")
    values, deviation = probabilities_of_views(head, space, Seeing(), [1], config, Processing(), cpu)
    logits = logits_of_views(head, space, Seeing(), config)
    lesions = [Volume((each.data / 1.7).softmax(0)[1:], each.affine) for each in logits]
    x, y, z = space.image.shape[1:]
    assert torch.allclose(averaged(lesions, Grid((x, y, z), space.affine)), values, atol=1e-5)
    assert deviation.shape == (1, x, y, z)
    assert float(deviation.max()) > 0.01


def test_a_temperature_is_that_of_all_views(head: Volume) -> None:
    truth = torch.zeros(head.shape, dtype=torch.bool)
    truth[12:20, 14:24, 14:24] = True
    patient = JudgedPatient(head, truth, {"weighting": "T1w"})
    losses = {}
    for views in ((View(),), TWO):
        network = Seeing()
        model = Model(network, _with(*views), "")
        chosen, (own, least) = _choose_temperature(model, [patient], (0.25, 1.0, 4.0), lambda *_: None)
        assert len(network.seen) == len(views)
        assert least <= own
        assert chosen in (0.25, 1.0, 4.0)
        losses[len(views)] = own
    assert losses[1] != losses[2]


def test_turning_a_pass_twice_changes_nothing() -> None:
    for flips in (((),), ((0,), (1, 2)), ALL_FLIPS):
        processing = Processing(flips=flips)
        assert processing.turned().turned() == processing
    assert set(Processing(flips=ALL_FLIPS).turned().flips) == set(ALL_FLIPS)
    assert Processing(flips=((0,),)).mirrored().flips == ((0,), ())
    assert Processing(flips=ALL_FLIPS).mirrored().flips == ALL_FLIPS


def test_records_of_results_know_the_views() -> None:
    one, two = (Model(Seeing(), config, "0" * 64) for config in (CONFIG, _with(*TWO)))
    trained = Model(Seeing(), CONFIG.model_copy(update={"training": {"steps": 1}}), "0" * 64)
    assert one.identity != two.identity
    assert one.identity == trained.identity


def test_a_model_has_a_view() -> None:
    with pytest.raises(ValueError, match="views"):
        SegmentationConfig(**(CONFIG.model_dump() | {"views": ()}))


def test_the_sidecar_and_the_report_say_how_often_a_head_was_shown(head: Volume, tmp_path: Path) -> None:
    head.save(tmp_path / "scan.nii.gz")
    model = Model(Seeing(), _with(*TWO), "0" * 64)
    done = segment_files([tmp_path / "scan.nii.gz"], tmp_path / "out", model, write=WriteOptions(report=True))
    assert len(list(done)) == 1
    [sidecar] = (tmp_path / "out").rglob("*_mask.json")
    facts = json.loads(sidecar.read_text(encoding="utf-8"))
    assert facts["TestTimeViews"] == [view.model_dump() for view in TWO]
    [page] = (tmp_path / "out").rglob("*.html")
    text = page.read_text(encoding="utf-8")
    assert "shown to the network in 2 ways" in text
    assert "Neurocomputing 338" in text
