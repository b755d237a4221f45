"""The infarct's way through time: published anchors, the table's stages, limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anystroke.core.rng import stream
from anystroke.qmri.time_course import LAST_HOUR, InfarctCourse, with_infarct
from anystroke.qmri.tissue_priors import PriorError, TissueDraw, load_table

PD, R1, R2, R2STAR, MT, ADC = range(6)


def _population() -> TissueDraw:
    table = load_table()
    return TissueDraw(names=table.names, field_strength=3.0, mean=table.mean.float(), sd=table.sd.float())


def _infarct(hours: float, course: InfarctCourse | None = None) -> torch.Tensor:
    draw = with_infarct(_population(), hours, course=course)
    return draw.mean[draw.names.index("acute_infarct")]


def test_published_anchors() -> None:
    course = InfarctCourse()
    assert course.t2_gain(9.0) == pytest.approx(9 * 1.94e-3)
    assert course.adc_ratio(3.0) == pytest.approx(0.74)
    assert course.adc_ratio(240.0) == 1.0
    assert course.adc_ratio(LAST_HOUR) == pytest.approx(1.07)
    core = InfarctCourse(adc_minimum=0.5)
    assert min(core.adc_ratio(float(h)) for h in range(600)) == pytest.approx(0.5)
    assert core.adc_ratio(6.0) == core.adc_ratio(48.0) == pytest.approx(0.5)
    white = torch.tensor([69.0, 0.98, 14.0, 20.5, 1.6, 0.7e-3], dtype=torch.float64)
    gains = [1 / course.apply(white, h)[R2].item() - 1 / 14.0 for h in (1.0, 5.0, 9.0)]
    assert gains == pytest.approx([1.94e-3, 9.7e-3, 17.46e-3])
    assert [course.apply(white, h)[R1].item() / 0.98 for h in (3.0, 24.0, 300.0)] == pytest.approx(
        [0.95, 0.85, 0.78]
    )


def test_the_beginning_is_healthy_tissue() -> None:
    draw = _population()
    rows = [draw.names.index(name) for name in ("cortical_grey_matter", "white_matter")]
    assert torch.allclose(_infarct(0.0), draw.mean[rows].mean(0))


@pytest.mark.parametrize(("stage", "hours"), [("acute_infarct", 36.0), ("subacute_infarct", 204.0)])
def test_agrees_with_the_stages_of_the_table(stage: str, hours: float) -> None:
    row = load_table().mean[load_table().names.index(stage)].float()
    ratio = _infarct(hours) / row
    # R1 apart: the factors of the time course and the rows of the table are separate estimates.
    assert torch.allclose(ratio[[PD, R2, R2STAR, MT, ADC]], torch.ones(5), atol=0.06)
    assert ratio[R1].item() == pytest.approx(1.0, abs=0.2)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, LAST_HOUR), st.floats(0, 24), st.integers(0, 1000))
def test_never_leaves_what_tissue_can_be(hours: float, step: float, seed: int) -> None:
    draw = load_table().sample(stream(seed), ["cortical_grey_matter", "white_matter"])
    course = InfarctCourse.sample(stream(seed, "course"))
    now = with_infarct(draw, hours, course=course)
    assert bool(torch.isfinite(now.mean).all())
    assert bool((now.mean > 0).all())
    assert bool((now.sd >= 0).all())
    assert bool((now.mean[:, R2STAR] >= now.mean[:, R2]).all())
    later = with_infarct(draw, min(hours + step, LAST_HOUR), course=course)
    assert float(later.mean[2, R2]) <= float(now.mean[2, R2]) * (1 + 1e-6)
    assert float(later.mean[2, R1]) <= float(now.mean[2, R1]) * (1 + 1e-6)


def test_courses_vary_as_stated() -> None:
    courses = [InfarctCourse.sample(stream(seed)) for seed in range(1500)]
    rates = torch.tensor([1e3 * course.t2_rate for course in courses])
    minima = torch.tensor([course.adc_minimum for course in courses])
    assert rates.mean().item() == pytest.approx(1.94, rel=0.03)
    assert rates.std().item() == pytest.approx(0.61, rel=0.08)
    assert minima.mean().item() == pytest.approx(0.65, rel=0.02)
    assert 0 < float(minima.min()) < float(minima.max()) <= 1


def test_a_row_is_replaced_or_added_and_the_draw_stays() -> None:
    draw = load_table().sample(stream(1), ["white_matter", "acute_infarct"])
    before = draw.mean.clone()
    replaced = with_infarct(draw, 5.0, tissues=("white_matter",))
    assert replaced.names == draw.names
    assert torch.equal(draw.mean, before)
    assert not torch.equal(replaced.mean[1], draw.mean[1])
    assert torch.equal(replaced.mean[0], draw.mean[0])
    added = with_infarct(draw, 5.0, tissues=("white_matter",), name="infarct")
    assert added.names[-1] == "infarct"
    assert torch.equal(added.mean[-1], replaced.mean[1])


def test_errors_name_what_is_wrong() -> None:
    draw = load_table().sample(stream(1), ["white_matter", "background"])
    with pytest.raises(PriorError, match=r"from 0 to 672 hours, got 700\.0; older lesions"):
        with_infarct(draw, 700.0, tissues=("white_matter",))
    with pytest.raises(PriorError, match="from 0 to 672 hours, got nan"):
        InfarctCourse().t2_gain(float("nan"))
    with pytest.raises(PriorError, match=r"got \['cortical_grey_matter', 'white_matter'\]"):
        with_infarct(draw, 5.0)
    with pytest.raises(PriorError, match="needs tissue with an R2 above 0"):
        with_infarct(draw, 5.0, tissues=("background",))
    with pytest.raises(PriorError, match=r"at most 1, got 1\.5"):
        InfarctCourse(adc_minimum=1.5)
    with pytest.raises(PriorError, match=r"at least 0 s/h, got -1\.0"):
        InfarctCourse(t2_rate=-1.0)
