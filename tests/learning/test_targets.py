import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anystroke.learning.cases import IGNORED
from anystroke.learning.targets import TARGET_SCHEMES, Scheme, make_target, needs_shares
from anystroke.simulation.generator import CLASSES


def _shares(seed: int, n: int = 200) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    shares = torch.rand((5, n), generator=rng) ** 3 + 1e-3
    return (shares / shares.sum(0)).reshape(5, n, 1, 1)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_soft_targets_sum_to_one_and_are_never_negative(seed: int) -> None:
    shares = _shares(seed)
    target = shares.argmax(0).to(torch.uint8)
    for scheme, names in TARGET_SCHEMES.items():
        soft = make_target(target, shares, scheme, soft=True)
        assert soft.shape == (len(names), 200, 1, 1)
        assert float(soft.min()) >= 0
        assert torch.allclose(soft.sum(0), torch.ones(200, 1, 1), atol=1e-5)
        assert torch.equal(soft[-1], shares[-1])


def test_hard_targets_against_a_loop() -> None:
    shares = _shares(3)
    target = shares.argmax(0).to(torch.uint8)
    published = make_target(target, shares, "published")
    lesion = make_target(target, None, "lesion")
    assert make_target(target, None, "tissues") is target
    for k, number in enumerate(target.flatten().tolist()):
        grey, white = float(shares[1, k]), float(shares[2, k])
        name = CLASSES[number]
        if name != "lesion" and min(grey, white) >= 0.25:
            name = "partial_volume"
        assert TARGET_SCHEMES["published"][int(published[k])] == name
        assert int(lesion[k]) == int(CLASSES[number] == "lesion")
    assert bool((published == TARGET_SCHEMES["published"].index("partial_volume")).any())


def test_partial_volume_has_half_a_voxel_where_both_have_a_quarter() -> None:
    grey = torch.linspace(0, 1, 101)
    shares = torch.zeros(5, 101, 1, 1)
    shares[1, :, 0, 0], shares[2, :, 0, 0] = grey, 1 - grey
    soft = make_target(shares.argmax(0).to(torch.uint8), shares, "published", soft=True)
    hard = make_target(shares.argmax(0).to(torch.uint8), shares, "published")
    most = soft[2, :, 0, 0] >= 0.5
    assert torch.equal(most, (hard == 2).flatten())


def test_bad_input_is_refused() -> None:
    target = torch.zeros((2, 2, 2), dtype=torch.uint8)
    for scheme, soft in (("published", False), ("lesion", True), ("tissues", True)):
        known: Scheme = scheme  # type: ignore[assignment]
        assert needs_shares(known, soft=soft)
        with pytest.raises(ValueError, match=r"the sample has none; simulate with soft_target = true"):
            make_target(target, None, known, soft=soft)
    with pytest.raises(ValueError, match="among tissues, lesion, published, got 'brain'"):
        make_target(target, None, "brain")  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", list(TARGET_SCHEMES))
def test_what_nobody_could_see_is_ignored(scheme: Scheme) -> None:
    shares = torch.rand((5, 4, 4, 4), generator=torch.Generator().manual_seed(1)).softmax(0)
    target = shares.argmax(0).to(torch.uint8)
    unseen = torch.zeros(4, 4, 4, dtype=torch.bool)
    unseen[1, 2] = True
    before = target.clone()
    hard = make_target(target, shares, scheme, unseen=unseen)
    soft = make_target(target, shares, scheme, soft=True, unseen=unseen)
    assert torch.equal(hard == IGNORED, unseen)
    assert torch.equal(hard[~unseen], make_target(target, shares, scheme)[~unseen])
    assert torch.equal(soft.sum(0) == 0, unseen)
    assert torch.equal(target, before)
