import math

import pytest
import torch
from torch import Tensor

from anystroke.core.volume import Volume
from anystroke.models.volume_interval import VolumeErrors
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.mask import Prediction
from anystroke.tasks.segmentation.options import SegmentOptions
from anystroke.tasks.segmentation.predict import segment
from anystroke.tasks.segmentation.signs import SIGNS, risk_of_prediction, signs_of
from stand_in import ONE_SIGN, axial_affine, phantom, stand_in_model

CONFIG = SegmentationConfig(
    name="x",
    architecture="none",
    classes=("background", "lesion"),
    spacing=4.0,
    divisor=8,
    volume_errors=VolumeErrors(rate=0.9, edges=(), low=(-0.2,), high=(0.2,), patients=100),
)
SURE = ONE_SIGN.model_copy(update={"marked": ONE_SIGN.marked.model_copy(update={"intercept": 3.0})})


def _prediction(*centres: tuple[float, float, float], spacing: float = 4.0, value: float = 0.9) -> Prediction:
    """Balls of 14 mm in a brain of 60 mm around the origin, bright in the image, on a grid of any spacing."""

    def ball(affine: Tensor, shape: tuple[int, int, int], centre: tuple[float, ...], radius: float) -> Tensor:
        index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))
        x, y, z = (float(affine[a, a]) * index[a] + float(affine[a, 3]) - centre[a] for a in range(3))
        return x**2 + y**2 + z**2 < radius**2

    def grid(size: float) -> tuple[Tensor, tuple[int, int, int]]:
        n = round(160 / size)
        return axial_affine(size, size, size, shape=(n, n, n)), (n, n, n)

    affine, shape = grid(4.0)
    brain = ball(affine, shape, (0, 0, 0), 60.0)
    noise = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    image = brain.float() + noise
    fine, fine_shape = grid(spacing)
    probability = torch.zeros(fine_shape)
    for centre in centres:
        image[ball(affine, shape, centre, 14.0)] += 2.0
        probability[ball(fine, fine_shape, centre, 14.0)] = value
    return Prediction(
        Volume(probability[None], fine),
        Volume((probability >= 0.5)[None].to(torch.uint8), fine),
        0.5,
        brain=Volume(brain[None].to(torch.uint8), affine),
        certainty=0.8,
        image=Volume(image[None], affine),
    )


def _signs(prediction: Prediction) -> dict[str, float]:
    return signs_of(prediction, CONFIG, scan=prediction.probability)


def test_each_sign_is_there_and_finite() -> None:
    for prediction in (_prediction((30, 0, 0)), _prediction()):
        found = _signs(prediction)
        assert set(found) == set(SIGNS)
        assert all(map(math.isfinite, found.values()))


def test_what_is_alike_on_both_sides_is_told_from_what_is_not() -> None:
    one, both = _signs(_prediction((30, 10, 5))), _signs(_prediction((30, 10, 5), (-30, 10, 5)))
    assert one["mirrored"] == pytest.approx(0, abs=0.02)
    assert both["mirrored"] > 0.8
    assert one["against_mirror"] > 2 > 0.3 > both["against_mirror"]
    assert one["against_around"] > 2
    assert one["largest_share"] == 1.0
    assert both["parts"] == pytest.approx(math.log(3))
    assert both["largest_share"] == pytest.approx(0.5, abs=0.02)


def test_a_part_across_the_middle_is_not_its_own_mirror_image() -> None:
    assert _signs(_prediction((3, 10, 5)))["mirrored"] == 0


def test_a_stroke_that_leaves_little_of_one_side_does_not_move_the_middle() -> None:
    plain = _prediction()
    assert plain.brain is not None
    brain, affine = plain.brain.data, plain.brain.affine
    left = torch.arange(brain.shape[1]) < brain.shape[1] // 2
    half, lost = brain * left[:, None, None], brain * ~left[:, None, None]
    stroke = Prediction(
        Volume(0.9 * lost.float(), affine),
        Volume(lost, affine),
        0.5,
        brain=Volume(half, affine),
        certainty=0.8,
        image=plain.image,
    )
    assert _signs(stroke)["against_mirror"] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_the_voxels_of_the_scan_hardly_matter(spacing: float) -> None:
    coarse, fine = _signs(_prediction((30, 10, 5))), _signs(_prediction((30, 10, 5), spacing=spacing))
    for name, value in coarse.items():
        assert fine[name] == pytest.approx(value, abs=0.12, rel=0.1), name


def test_an_empty_mask_says_so() -> None:
    found = _signs(_prediction())
    assert (found["volume"], found["expected"], found["parts"], found["part_peaks"]) == (0, 0, 0, 0)
    faint = _signs(_prediction((30, 0, 0), value=0.3))
    assert faint["volume"] == 0 < faint["faint"]
    assert faint["peak"] == pytest.approx(math.log(0.3 / 0.7), abs=0.01)
    assert faint["against_around"] > 2  # of what is most probable


def test_a_mask_at_the_border_of_the_brain_shows_it() -> None:
    inside, outside = _signs(_prediction((20, 0, 0))), _signs(_prediction((58, 0, 0)))
    assert inside["at_border"] < 0.05
    assert outside["at_border"] > 0.3


def test_a_risk_is_given_for_masks_made_as_those_it_was_measured_on() -> None:
    prediction = _prediction((30, 0, 0))
    config = CONFIG.model_copy(update={"risk": SURE})
    scan = prediction.probability
    assert risk_of_prediction(prediction, CONFIG, SegmentOptions(), scan) is None
    found = risk_of_prediction(prediction, config, SegmentOptions(), scan)
    assert found is not None
    assert found.high
    for other in (SegmentOptions(preset="paper"), SegmentOptions(min_volume=1.0)):
        assert risk_of_prediction(prediction, config, other, scan) is None
    lower = config.model_copy(update={"threshold": 0.2})
    assert risk_of_prediction(prediction, lower, SegmentOptions(), scan) is None


def test_a_high_risk_is_the_first_reason() -> None:
    model = stand_in_model()
    affine = axial_affine(4.0, 4.0, 4.0, shape=(48, 56, 48))
    scan = phantom(affine, (48, 56, 48))
    assert segment(scan, model, device="cpu").risk is None
    risky = type(model)(model.network, model.config.model_copy(update={"risk": SURE}), model.sha256)
    found = segment(scan, risky, device="cpu")
    assert found.risk is not None
    assert not found.trusted
    assert "nearly all such masks miss the lesion or mark 5 ml of healthy tissue" in found.reasons[0]
