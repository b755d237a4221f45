"""ADC maps are looked at as their exponential too."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anystroke.core.volume import Volume
from anystroke.models.passes import PRESETS
from anystroke.tasks.segmentation.adc_exponential import BRIGHT, exponential, lesion_in_both
from anystroke.tasks.segmentation.config import TISSUES, SegmentationConfig
from anystroke.tasks.segmentation.files import segment_files
from anystroke.tasks.segmentation.mask import predict
from anystroke.tasks.segmentation.options import WriteOptions
from anystroke.tasks.segmentation.predict import Model, segment

CONFIG = SegmentationConfig(
    name="toy",
    architecture="none",
    classes=("background", *TISSUES, "lesion"),
    brain=TISSUES,
    spacing=2.0,
    divisor=8,
    adc_exponential=0.5,
)
GREY, WHITE, FLUID, LESION, AIR = 0.9, 0.8, 3.0, 0.5, 0.05
AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))


def _head(fluid: float = FLUID) -> tuple[Tensor, Tensor]:
    """An ADC map of layers (40, 40, 40) and its classes."""
    classes = torch.zeros(40, 40, 40, dtype=torch.long)
    classes[6:34, 6:34, 6:34] = 1
    classes[10:30, 10:30, 10:30] = 2
    classes[16:24, 16:24, 16:24] = 3
    classes[10:16, 10:16, 10:16] = 4
    image = torch.tensor([AIR, GREY, WHITE, fluid, LESION])[classes]
    return image, classes


def _tissues(classes: Tensor) -> Tensor:
    return torch.stack([(classes == number).float() for number in (1, 2, 3)])


def test_a_fresh_stroke_is_bright_in_the_exponential() -> None:
    image, classes = _head()
    lesion = torch.zeros(image.shape)
    shown = exponential(Volume(image[None], AFFINE), _tissues(classes), lesion)
    assert shown is not None
    tissue = GREY  # of more voxels than white matter
    for number, value in ((1, GREY), (2, WHITE), (3, FLUID), (4, LESION)):
        expected = math.exp(-1.2 * value / tissue)
        assert shown[0][classes == number].tolist() == pytest.approx(
            [expected] * int((classes == number).sum())
        )
    assert float(shown[0][classes == 0].abs().max()) == 0


def test_fluid_must_be_bright_and_there() -> None:
    nothing = torch.zeros(40, 40, 40)
    for fluid, bright in ((0.3, False), (WHITE * BRIGHT * 0.99, False), (WHITE * BRIGHT * 1.01, True)):
        image, classes = _head(fluid)
        shown = exponential(Volume(image[None], AFFINE), _tissues(classes), nothing)
        assert (shown is not None) is bright
    image, classes = _head()
    without = classes.masked_fill(classes == 3, 2)
    assert exponential(Volume(image[None], AFFINE), _tissues(without), nothing) is None


class Brightest(nn.Module):
    """Calls the brightest tissue a lesion: fluid on an ADC map, a fresh stroke on its exponential."""

    def __init__(self, classes: Tensor) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        known = torch.nn.functional.one_hot(classes.masked_fill(classes == 4, 2), 4).movedim(-1, 0).float()
        self.register_buffer("known", 4 * known[None] - 2)

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        assert isinstance(self.known, Tensor)
        lesion = torch.where(image > image.max() - 0.1, 1.5, -4.0)
        return torch.cat([self.known, lesion], 1)


def test_log_odds_of_both_are_averaged() -> None:
    image, classes = _head()
    network = Brightest(classes)
    values = torch.cat([torch.full((1, 40, 40, 40), 0.2), _tissues(classes)])
    head = Volume(image[None], AFFINE)
    arguments = (AFFINE, network, CONFIG, PRESETS["default"], torch.device("cpu"))
    both = lesion_in_both(values, head, *arguments)
    assert both is not None
    [other] = network.seen
    assert float(other[0, 0][classes == 4].mean()) > float(other[0, 0][classes == 2].mean())
    again = torch.softmax(network(other), 1)[0, 4]
    expected = torch.sigmoid((torch.logit(torch.tensor(0.2)) + torch.logit(again)) / 2)
    assert torch.allclose(both, expected, atol=1e-5)
    assert lesion_in_both(values, Volume(_head(0.3)[0][None], AFFINE), *arguments) is None


@pytest.mark.parametrize(("fluid", "times"), [(FLUID, 2), (0.3, 1)])
def test_a_prediction_says_whether_it_took_place(fluid: float, times: int) -> None:
    image, classes = _head(fluid)
    network = Brightest(classes)
    config = CONFIG.model_copy(update={"divisor": 40})
    found = predict(Volume(image[None], AFFINE), network, config, device="cpu", adc=True)
    assert len(network.seen) == times
    assert ("adc_exponential" in found.seconds) is (times == 2)
    plain = predict(Volume(image[None], AFFINE), network, config, device="cpu")
    stroke = classes == 4
    gain = found.probability.data[0][stroke].mean() - plain.probability.data[0][stroke].mean()
    assert (float(gain) > 0.01) is (times == 2)


def test_a_model_must_know_fluid() -> None:
    with pytest.raises(ValueError, match="adc_exponential needs"):
        SegmentationConfig(**(CONFIG.model_dump() | {"brain": ()}))


@pytest.mark.parametrize(("name", "known"), [("sub-01_adc.nii.gz", True), ("sub-01_T2w.nii.gz", False)])
def test_a_file_is_known_by_its_name(name: str, known: bool, tmp_path: Path) -> None:
    image, classes = _head()
    Volume(image[None], AFFINE).save(tmp_path / name)
    network = Brightest(classes)
    model = Model(network, CONFIG.model_copy(update={"divisor": 40}), "")
    found = segment(tmp_path / name, model, device="cpu")
    assert found.options.adc is known
    assert len(network.seen) == (2 if known else 1)


def test_many_files_are_known_by_their_names(tmp_path: Path) -> None:
    image, classes = _head()
    for name in ("sub-01_ADC.nii.gz", "sub-01_T2w.nii.gz"):
        Volume(image[None], AFFINE).save(tmp_path / name)
    model = Model(Brightest(classes), CONFIG.model_copy(update={"divisor": 40}), "0" * 64)
    done = segment_files(
        [tmp_path / "sub-01_ADC.nii.gz", tmp_path / "sub-01_T2w.nii.gz"],
        tmp_path / "out",
        model,
        write=WriteOptions(report=False),
    )
    assert len(list(done)) == 2
    sidecars = (tmp_path / "out").rglob("*_mask.json")
    seconds = {path: json.loads(path.read_text(encoding="utf-8"))["Seconds"] for path in sidecars}
    looked = {"ADC" in path.name: "adc_exponential" in each for path, each in seconds.items()}
    assert looked == {True: True, False: False}
