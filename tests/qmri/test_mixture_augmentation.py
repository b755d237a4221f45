"""Maps whose tissue is moved: order and range are kept, and the same stream gives the same maps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anystroke.core.rng import stream
from anystroke.qmri.mixture import Mixture, fit_mixture, move_values, moved_mixture, posteriors

CENTRES = torch.tensor([[70.0, 1.0, 1.5], [80.0, 0.65, 0.8], [95.0, 0.3, 0.1]])
SPREAD = torch.tensor([1.5, 0.03, 0.05])


def _voxels(seed: int = 1, n: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (3, 3n) maps of three tissues far apart, and the tissue of each voxel."""
    noise = torch.randn((3, n, 3), generator=stream(seed, "voxels")) * SPREAD
    values = (CENTRES[:, None] + noise).reshape(-1, 3).T.contiguous()
    return values, torch.arange(3).repeat_interleave(n)


def _by_loop(values: torch.Tensor, mixture: Mixture, moved: Mixture) -> torch.Tensor:
    scaled = ((values - mixture.low[:, None]) / (mixture.high - mixture.low)[:, None]).clamp(0, 1)
    result = torch.zeros_like(values)
    for n in range(values.shape[1]):
        x = scaled[:, n].double()
        place = (x - mixture.means.double()) / mixture.sds.double()
        log = mixture.weights.double().log() - (0.5 * place.square() + mixture.sds.double().log()).sum(1)
        result[:, n] = (log.softmax(0)[:, None] * (moved.means + moved.sds * place)).sum(0).clamp(0, 1)
    return result * (mixture.high - mixture.low)[:, None] + mixture.low[:, None]


def test_a_fit_finds_the_tissues() -> None:
    values, tissue = _voxels()
    mixture = fit_mixture(values, components=3, rng=stream(1, "fit"))
    found = mixture.means * (mixture.high - mixture.low) + mixture.low
    found = found[found[:, 0].argsort()]
    assert torch.allclose(found, CENTRES, rtol=0.02, atol=0.03)
    assert float(mixture.weights.sum()) == pytest.approx(1, abs=1e-5)
    scaled = ((values - mixture.low[:, None]) / (mixture.high - mixture.low)[:, None]).clamp(0, 1)
    share = posteriors(scaled, mixture)
    assert torch.allclose(share.sum(1), torch.ones(len(share)), atol=1e-5)
    order = mixture.means[:, 0].argsort()
    assert torch.equal(share[:, order].argmax(1), tissue)


def test_values_equal_those_of_a_loop_over_voxels() -> None:
    values, _ = _voxels(n=40)
    mixture = fit_mixture(values, components=4, rng=stream(2, "fit"))
    moved = moved_mixture(mixture, rng=stream(2, "move"))
    assert torch.allclose(
        move_values(values, mixture, moved), _by_loop(values, mixture, moved), rtol=1e-4, atol=1e-3
    )


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_order_within_a_component_and_the_range_are_kept(seed: int) -> None:
    values, _ = _voxels()
    mixture = fit_mixture(values, components=3, rng=stream(1, "fit"))
    moved = moved_mixture(mixture, rng=stream(seed, "move"))
    assert bool((moved.sds > 0).all())
    result = move_values(values, mixture, moved)
    assert bool((result >= mixture.low[:, None] - 1e-4).all())
    assert bool((result <= mixture.high[:, None] + 1e-4).all())
    span = (mixture.high - mixture.low)[:, None]
    scaled = ((values - mixture.low[:, None]) / span).clamp(0, 1)
    share = posteriors(scaled, mixture)
    for component in range(3):
        sure = share[:, component] > 1 - 1e-7
        assert int(sure.sum()) > 300
        for before, after in zip(scaled[:, sure], (result / span)[:, sure], strict=True):
            assert float(after[before.argsort()].diff().min()) > -1e-5


def test_without_changes_maps_stay_and_with_them_tissues_move() -> None:
    values, tissue = _voxels()
    mixture = fit_mixture(values, components=3, rng=stream(1, "fit"))
    still = moved_mixture(mixture, mean=0.0, sd=0.0, rng=stream(1, "move"))
    inside = torch.maximum(torch.minimum(values, mixture.high[:, None]), mixture.low[:, None])
    assert torch.allclose(move_values(values, mixture, still), inside, rtol=1e-4)
    shifts = []
    for seed in range(20):
        moved = move_values(values, mixture, moved_mixture(mixture, rng=stream(seed, "move")))
        shift = (moved - inside)[0, tissue == 1].mean() / (mixture.high - mixture.low)[0]
        shifts.append(round(float(shift), 4))
    assert -0.51 < min(shifts) < -0.1
    assert 0.1 < max(shifts) < 0.51


def test_the_same_stream_gives_the_same_mixture() -> None:
    values, _ = _voxels()
    first, again = (fit_mixture(values, rng=stream(5, "fit")) for _ in range(2))
    assert torch.allclose(first.means, again.means, atol=1e-6)
    moved = [moved_mixture(first, rng=stream(6, "move")) for _ in range(2)]
    assert torch.equal(moved[0].means, moved[1].means)
    assert torch.equal(moved[0].sds, moved[1].sds)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 80 voxels for 8 components, got 5"):
        fit_mixture(torch.rand(2, 5), rng=stream(1))
    with pytest.raises(ValueError, match="maps that vary"):
        fit_mixture(torch.ones(2, 500), rng=stream(1))
    mixture = fit_mixture(_voxels()[0], components=3, rng=stream(1))
    with pytest.raises(ValueError, match="0 or more, got -1"):
        moved_mixture(mixture, mean=-1.0, rng=stream(1))
