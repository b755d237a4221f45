import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from anystroke.core.arrays import Array
from anystroke.reports.slices import PREDICTED, TRUE, Cut, Outline, Shown, for_the_eye, panel

SHAPE = (12, 16, 20)
SPACING = (1.0, 2.0, 3.0)


def drawn(
    cut: Cut, outlines: list[Outline], *, mirrored: bool | None = None, sides: bool = False
) -> tuple[Array, Figure]:
    """Return the picture, 0 to 255, of a volume of zeros."""
    figure = Figure(figsize=(3, 3), facecolor="black")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    panel(axes, Shown(np.zeros(SHAPE), SPACING), cut, outlines, mirrored=mirrored, sides=sides)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int), figure


def places(picture: Array, colour: str) -> tuple[float, float]:
    """Return the mean row and column, 0 to 1 from the top left, of pixels near a colour."""
    near = np.abs(picture - 255 * np.array(to_rgb(colour))).max(-1) < 60
    assert near.any()
    rows, columns = np.nonzero(near)
    return float(rows.mean()) / picture.shape[0], float(columns.mean()) / picture.shape[1]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_has_its_proportions_in_mm(axis: int) -> None:
    across, up = (a for a in range(3) if a != axis)
    axes = drawn(Cut(axis, 3), [])[1].axes[0]
    assert sorted(axes.get_xlim()) == [0.0, SHAPE[across] * SPACING[across]]
    assert axes.get_ylim() == (0.0, SHAPE[up] * SPACING[up])
    assert axes.get_aspect() == 1.0


@pytest.mark.parametrize(("mirrored", "right"), [(None, True), (True, True), (False, False)])
@pytest.mark.parametrize("axis", [1, 2])
def test_the_left_hemisphere_is_on_the_stated_side(axis: int, mirrored: bool | None, right: bool) -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[1:4, 4:10, 6:14] = True
    picture, figure = drawn(Cut(axis, 8), [Outline(mask, PREDICTED, width=2)], mirrored=mirrored, sides=True)
    assert (places(picture, PREDICTED)[1] > 0.5) == right
    letters = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert (letters["L"] > 0.5) == right


def test_up_is_up_and_the_last_outline_is_on_top() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:9, 2:14, 15:19] = True
    picture, _ = drawn(Cut(1, 8), [Outline(mask, TRUE, width=2), Outline(mask, PREDICTED, width=2)])
    assert places(picture, PREDICTED)[0] < 0.5
    with pytest.raises(AssertionError):
        places(picture, TRUE)


def test_a_mask_that_the_slice_does_not_cross_is_not_drawn() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:9, 2:14, 15:19] = True
    assert drawn(Cut(2, 3), [Outline(mask, PREDICTED, fill=0.5)])[0].max() == 0


def test_bounds_cut_scan_and_mask_alike() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[6:8, 8:12, 9:11] = True
    whole = places(drawn(Cut(2, 10), [Outline(mask, PREDICTED)])[0], PREDICTED)
    cut = Cut(2, 10, ((4, 10), (7, 13), (0, 20)))
    picture, figure = drawn(cut, [Outline(mask, PREDICTED)])
    assert figure.axes[0].get_ylim() == (0.0, 12.0)
    assert places(picture, PREDICTED) != whole
    assert places(picture, PREDICTED)[0] == pytest.approx(0.5, abs=0.05)


def test_intensities_for_the_eye_lie_in_0_to_1_whatever_their_unit() -> None:
    values = np.random.default_rng(1).gamma(2.0, 1.0, (20, 20, 20))
    values[:5] = 0.0
    shown = for_the_eye(values)
    assert (shown.min(), shown.max()) == (0.0, 1.0)
    np.testing.assert_allclose(for_the_eye(1000 * values - 7), shown, atol=1e-9)
    assert not for_the_eye(np.full((3, 3, 3), 5.0)).any()
