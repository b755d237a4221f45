import pytest
import torch

from anystroke.core.rng import chance, choice, integer, log_uniform, normal, stream, uniform


def test_stream_depends_on_seed_and_every_name() -> None:
    draws = [
        torch.rand(4, generator=rng)
        for rng in (stream(1, "a"), stream(2, "a"), stream(1, "b"), stream(1, "a", 0), stream(1, "a", "0"))
    ]
    for i, first in enumerate(draws):
        for second in draws[i + 1 :]:
            assert not torch.equal(first, second)
    assert torch.equal(torch.rand(4, generator=stream(1, "a")), draws[0])


def test_streams_leave_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    uniform(stream(1, "a"), 0, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_have_their_distribution() -> None:
    rng = stream(3, "draws")
    numbers = torch.tensor([uniform(rng, 2.0, 4.0) for _ in range(2000)])
    assert float(numbers.min()) >= 2
    assert float(numbers.max()) < 4
    assert float(numbers.mean()) == pytest.approx(3, abs=0.06)
    gaussian = torch.tensor([normal(rng, 1.0, 2.0) for _ in range(2000)])
    assert float(gaussian.mean()) == pytest.approx(1, abs=0.2)
    assert float(gaussian.std()) == pytest.approx(2, rel=0.08)
    logs = torch.tensor([log_uniform(rng, 0.01, 1.0) for _ in range(2000)]).log10()
    assert float(logs.mean()) == pytest.approx(-1, abs=0.06)
    assert {integer(rng, 1, 3) for _ in range(100)} == {1, 2, 3}
    assert sum(chance(rng, 0.3) for _ in range(2000)) == pytest.approx(600, abs=90)
    counts = [0, 0, 0]
    for _ in range(2000):
        counts[choice(rng, [1.0, 0.0, 3.0])] += 1
    assert counts[1] == 0
    assert counts[2] == pytest.approx(1500, abs=90)
