import pytest
import torch
from torch.nn.functional import avg_pool3d, max_pool3d, pad

from anystroke.anatomy.lesions.edges import SoftEdge, fade, soft_copy_paste
from anystroke.core.rng import stream


def _cube(side: int) -> torch.Tensor:
    mask = torch.zeros(21, 21, 21)
    low = 10 - side // 2
    mask[low : low + side, low : low + side, low : low + side] = 1
    return mask


def test_the_reference_gives_the_measured_edges_of_the_published_code() -> None:
    soft = soft_copy_paste(_cube(7), mode="reference")
    assert int((soft > 0.5).sum()) == 1015
    assert int((soft > 0.2).sum()) == 1215
    assert soft[10, 10, 4:8].tolist() == pytest.approx([0, 0.533, 0.867, 1], abs=1e-3)
    assert int((soft_copy_paste(_cube(1), mode="reference") > 0.5).sum()) == 25


def test_morphological_rings_have_the_weights_of_the_paper() -> None:
    soft = soft_copy_paste(_cube(7), erosions=1, dilations=3, alpha=0.5)
    assert soft[10, 10, 10:16].tolist() == pytest.approx([1, 1, 1, 0.5, 0.25, 0.125], abs=1e-6)
    assert torch.equal(soft_copy_paste(_cube(7), erosions=0, dilations=0), _cube(7))
    assert float(soft_copy_paste(_cube(5), erosions=2, dilations=0).sum()) == 1
    assert float(soft_copy_paste(_cube(5), erosions=3, dilations=2).sum()) == 0


def test_what_lies_beyond_the_border_of_the_grid_is_no_lesion() -> None:
    whole = torch.ones(6, 7, 8)
    assert float(soft_copy_paste(whole, erosions=1, dilations=0).sum()) == 4 * 5 * 6
    assert float(soft_copy_paste(whole, mode="reference")[0, 0, 0]) < 0.6


@pytest.mark.parametrize("mode", ["reference", "morphological"])
def test_edges_equal_those_of_pooling(mode: SoftEdge) -> None:
    mask = (torch.rand((12, 13, 14), generator=stream(3, "voxels")) > 0.8).float()
    padded = mask[None]
    if mode == "reference":
        support = (avg_pool3d(padded, 3, 1, padding=1) > 1e-5).float()
        wide = avg_pool3d(support, 3, 1, padding=1)
        expected = wide + 0.9 * wide * (1 - wide)
    else:
        eroded = 1 - max_pool3d(1 - pad(padded, (1,) * 6), 3, 1)
        expected = eroded + 0.9 * (max_pool3d(eroded, 3, 1, padding=1) - eroded)
    assert torch.allclose(soft_copy_paste(mask, mode=mode), expected[0], atol=1e-5)


def test_reference_fading_saturates_where_the_published_code_does() -> None:
    whole = torch.ones(64, 64, 64)
    fields = torch.stack([fade(whole, mode="reference", rng=stream(k)) for k in range(12)])
    assert float((fields >= 1).float().mean()) == pytest.approx(0.805, abs=0.04)
    assert float((fields < 0.2).float().mean()) == pytest.approx(0.04, abs=0.02)


def test_smooth_fading_stays_between_its_limits_and_outside_stays_zero() -> None:
    mask = _cube(9)
    for seed in range(10):
        faded = fade(mask, lowest=0.4, rng=stream(seed))
        assert 0.4 <= float(faded[mask > 0].min()) <= float(faded.max()) <= 1
        assert float(faded[mask == 0].abs().sum()) == 0


@pytest.mark.parametrize("arguments", [{"erosions": -1}, {"dilations": -1}, {"alpha": 0.0}, {"alpha": 1.5}])
def test_impossible_edges_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected erosions and dilations of 0 or more"):
        soft_copy_paste(_cube(3), **arguments)  # type: ignore[arg-type]


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the mode"):
        soft_copy_paste(_cube(3), mode="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected the mode"):
        fade(_cube(3), mode="other", rng=stream(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 2"):
        fade(_cube(3), lowest=2, rng=stream(1))
