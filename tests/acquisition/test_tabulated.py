import pytest
import torch
from torch import Tensor

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.fast import tabulated
from anystroke.acquisition.presets.preset import load_preset
from anystroke.core.rng import stream

SHAPE = (40, 50, 60)


def _maps(*, spread: float = 1.0) -> dict[str, Tensor]:
    rng = stream(3, "maps")

    def between(low: float, high: float) -> Tensor:
        return low + spread * (high - low) * torch.rand(SHAPE, generator=rng)

    maps = {
        "proton_density": between(0.0, 100.0),
        "r1": between(0.0, 5.0),
        "r2": between(2.5, 40.0),
        "mt_saturation": between(0.0, 3.0),
        "adc": between(0.0, 3e-3),
    }
    return maps | {"r2star": maps["r2"] + between(0.0, 60.0)}


def _each_protocol() -> list[Protocol]:
    entries = load_preset("realistic").entries
    return [entry.draw(stream(number, entry.name)) for entry in entries for number in range(3)]


@pytest.mark.parametrize("transmit", [False, True])
@pytest.mark.parametrize("protocol", _each_protocol(), ids=lambda protocol: protocol.name)
def test_the_table_gives_the_signal_of_the_equation(
    protocol: Protocol, transmit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = _maps()
    b1_plus = torch.linspace(0.6, 1.3, SHAPE[2]).expand(SHAPE).contiguous() if transmit else None
    for signed in (True, False):
        exact = protocol.signal(maps, b1_plus=b1_plus, signed=signed)
        with monkeypatch.context() as patch:
            patch.setattr(tabulated, "WORTHWHILE", 1)
            read = protocol.signal(maps, b1_plus=b1_plus, signed=signed)
        assert float((read - exact).abs().max()) < 1e-4 * float(exact.abs().max())
        if protocol.decay_times:
            assert not torch.equal(read, exact)


@pytest.mark.parametrize("value", [0.0, 1e-3, 50.0, 3000.0, float("nan")])
@pytest.mark.parametrize("name", ["r1", "r2"])
def test_extremes_are_as_in_the_equation(name: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = load_preset("realistic").sample(stream(1), weighting="FLAIR")
    maps = _maps()
    maps[name] = torch.full(SHAPE, value)
    exact = protocol.signal(maps, signed=True)
    monkeypatch.setattr(tabulated, "WORTHWHILE", 1)
    torch.testing.assert_close(
        protocol.signal(maps, signed=True), exact, rtol=1e-4, atol=1e-4, equal_nan=True
    )


def test_gradients_other_types_and_broadcast_maps_go_the_exact_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabulated, "WORTHWHILE", 1)
    maps = _maps()
    assert tabulated.can_tabulate(maps)
    assert not tabulated.can_tabulate(maps | {"r1": maps["r1"].double()})
    assert not tabulated.can_tabulate(maps | {"r1": maps["r1"][:1]})
    wanted = maps["r1"].clone().requires_grad_()
    assert not tabulated.can_tabulate(maps | {"r1": wanted})
    with torch.no_grad():
        assert tabulated.can_tabulate(maps | {"r1": wanted})


def test_one_value_of_b1_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = load_preset("realistic").sample(stream(1), weighting="T1w")
    maps = _maps()
    plain = protocol.signal(maps)
    monkeypatch.setattr(tabulated, "WORTHWHILE", 1)
    same = protocol.signal(maps, b1_plus=torch.ones(SHAPE))
    assert float((same - plain).abs().max()) < 1e-4 * float(plain.max())
