"""What every sequence must do. A new one takes part as soon as a preset of the package has an entry of it."""

import json
import math

import pytest
import torch
from torch import Tensor

from anystroke.acquisition import sequences
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.catalogue import BIDS_NAMES, SEQUENCES, WEIGHTINGS, from_dict
from anystroke.acquisition.fast import tabulated
from anystroke.acquisition.presets.preset import load_preset
from anystroke.acquisition.sequences.inversion_recovery import InversionRecoverySpinEcho
from anystroke.acquisition.sidecars.reading import read_sidecar
from anystroke.acquisition.sidecars.writing import acquisition_fields, image_suffix
from anystroke.acquisition.weightings import preset_weightings
from anystroke.core.rng import stream
from anystroke.qmri.tissue_priors import MAPS

PRESETS = ("realistic", "typical", "estimator", "paper", "paper_code", "qatlas")
HIGHEST = {"proton_density": 100.0, "r1": 4.0, "r2": 40.0, "r2star": 90.0, "mt_saturation": 2.0, "adc": 3e-3}
EXTREMES = {
    "proton_density": (0.0, 100.0),
    "r1": (0.0, 1e-6, 0.24, 20.0),
    "r2": (0.0, 10.0, 3000.0),
    "r2star": (0.0, 10.0, 3000.0),
    "mt_saturation": (0.0, 2.0),
    "adc": (0.0, 3e-3),
    "b1_plus": (0.0, 1.0, 2.0),
}


OF_NO_PRESET = {
    "ir_se": InversionRecoverySpinEcho(repetition_time=3.0, inversion_time=0.6, echo_time=0.015),
}


def _examples() -> dict[str, Protocol]:
    """Draw each entry of each preset once."""
    entries = [(preset, entry) for preset in PRESETS for entry in load_preset(preset).entries]
    drawn = {
        f"{preset}-{number}-{entry.sequence}": entry.draw(stream(number, preset))
        for number, (preset, entry) in enumerate(entries)
    }
    return {**drawn, **OF_NO_PRESET}


EXAMPLES = _examples()
# One of each sequence, and of each image that it can give, is enough for what takes longer.
KINDS = {(one.sequence, *(str(getattr(one, name)) for name in one.choices)): one for one in EXAMPLES.values()}
PUBLISHED = "published_"


def maps(*shape: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    rng = stream(3, "maps")
    return {
        name: (HIGHEST[name] * (0.1 + 0.9 * torch.rand(*shape, generator=rng, dtype=torch.float64))).to(dtype)
        for name in MAPS
    }


@pytest.fixture(params=list(EXAMPLES))
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return EXAMPLES[request.param]


@pytest.fixture(params=list(KINDS), ids=lambda key: "-".join(key))
def kind(request: pytest.FixtureRequest) -> Protocol:
    return KINDS[request.param]


def test_every_sequence_has_an_example() -> None:
    assert {one.sequence for one in EXAMPLES.values()} == set(SEQUENCES)


def test_every_sequence_has_a_file_of_its_own() -> None:
    assert all(cls.__module__.startswith(f"{sequences.__name__}.") for cls in SEQUENCES.values())
    homes = {cls.__module__ for cls in SEQUENCES.values() if cls.__mro__[1] not in SEQUENCES.values()}
    # The map of the diffusion coefficient is made of diffusion-weighted images.
    assert len(homes) == len({*SEQUENCES} - {"adc", "published_spgr"})


def test_every_contrast_has_one_name_in_bids_and_can_be_drawn() -> None:
    assert set(WEIGHTINGS) == {weighting for name in PRESETS for weighting in preset_weightings(name)}
    for weighting, name in BIDS_NAMES.items():
        assert name == weighting or name == weighting.lower() or name.startswith("acq-"), weighting


def test_it_gives_the_contrast_that_its_class_says(protocol: Protocol) -> None:
    assert protocol.weighting in protocol.contrasts


def test_it_is_plain_data_and_one_line(protocol: Protocol) -> None:
    assert from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol
    assert "\n" not in protocol.describe()
    assert "TR" in protocol.describe()


def test_its_sidecar_is_json_and_says_what_bids_asks_for(protocol: Protocol) -> None:
    fields = acquisition_fields(protocol)
    assert json.loads(json.dumps(fields)) == fields
    wanted = {"MagneticFieldStrength", "RepetitionTime", "EchoTime", "FlipAngle", "ScanningSequence"}
    assert wanted <= set(fields)
    assert image_suffix(protocol).rpartition("_")[2].isalnum()


def test_it_knows_its_own_sidecar(protocol: Protocol) -> None:
    if protocol.impossible or protocol.sequence.startswith(PUBLISHED):
        pytest.skip("what no scanner plays has no sidecar of its own")
    suffix = image_suffix(protocol)
    known = protocol.weighting if "_" in suffix else suffix
    read = read_sidecar(acquisition_fields(protocol), suffix=known)
    assert read.protocol.sequence == protocol.sequence
    assert read.protocol.weighting == protocol.weighting
    for name, value in protocol.to_dict().items():
        if name in read.used and name not in read.assumed and isinstance(value, float):
            assert read.protocol.to_dict()[name] == pytest.approx(value, rel=0.3), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_type_are_kept_and_the_image_is_finite(protocol: Protocol, dtype: torch.dtype) -> None:
    image = protocol.signal(maps(2, 3, 4, dtype=dtype))
    assert image.shape == (2, 3, 4)
    assert image.dtype == dtype
    assert bool(image.isfinite().all())
    assert float(image.abs().max()) > 0


def test_voxels_do_not_know_of_each_other_and_nothing_is_changed(kind: Protocol) -> None:
    given = maps(5, 4)
    b1 = torch.linspace(0.7, 1.3, 4).expand(5, 4).contiguous()
    before = {name: one.clone() for name, one in given.items()}
    image = kind.signal(given, b1_plus=b1)
    for row in range(5):
        alone = kind.signal({name: one[row] for name, one in given.items()}, b1_plus=b1[row])
        torch.testing.assert_close(image[row], alone, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(before[name], given[name]) for name in given)
    assert torch.equal(kind.signal(given, b1_plus=b1), image)


def test_only_the_maps_that_it_needs_matter(kind: Protocol) -> None:
    given = maps(20)
    others = {name: one if name in kind.needs else one * math.nan for name, one in given.items()}
    assert torch.equal(kind.signal(others), kind.signal(given))
    missing = kind.needs[-1]
    with pytest.raises(ValueError, match=f"missing: {missing}"):
        kind.signal({name: one for name, one in given.items() if name != missing})


def test_proton_density_is_a_factor_or_does_not_matter(kind: Protocol) -> None:
    given = maps(50, dtype=torch.float64)
    # So bright that what regularises a ratio is nothing beside it.
    full, half = ({**given, "proton_density": scale * given["proton_density"]} for scale in (1e4, 5e3))
    factor = 0.5 if kind.additive and kind.sequence != f"{PUBLISHED}mp2rage" else 1.0
    image = kind.signal(full, signed=True)
    torch.testing.assert_close(kind.signal(half, signed=True), image * factor, rtol=1e-4, atol=1e-4)


def test_the_magnitude_is_that_of_the_signed_signal(kind: Protocol) -> None:
    if kind.sequence.startswith(PUBLISHED) or not kind.additive:
        pytest.skip("keeps what its program keeps, or is computed")
    given = maps(50)
    assert torch.equal(kind.signal(given), kind.signal(given, signed=True).abs())


def test_extremes_give_no_nan_and_no_infinity(kind: Protocol) -> None:
    if kind.sequence.startswith(PUBLISHED):
        pytest.skip("repeats its program")
    names = [*kind.needs, "b1_plus"]
    grids = torch.meshgrid(*(torch.tensor(EXTREMES[name]) for name in names), indexing="ij")
    given = {name: grid.flatten() for name, grid in zip(names, grids, strict=True)}
    b1 = given.pop("b1_plus")
    assert bool(kind.signal(given).isfinite().all())
    assert bool(kind.signal(given, b1_plus=b1).isfinite().all())


def test_gradients_are_finite(kind: Protocol) -> None:
    given = {name: one.requires_grad_() for name, one in maps(30).items() if name in kind.needs}
    total = kind.signal(given).sum()
    found = torch.autograd.grad(total, list(given.values()), allow_unused=True)
    assert any(one is not None for one in found)
    assert all(one is None or bool(one.isfinite().all()) for one in found)


def test_the_table_gives_what_the_equation_gives(kind: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    given = maps(20, 30, 10)
    b1 = torch.linspace(0.7, 1.3, 10).expand(20, 30, 10).contiguous()
    for transmit in (None, b1):
        exact = kind.signal(given, b1_plus=transmit)
        with monkeypatch.context() as patch:
            patch.setattr(tabulated, "WORTHWHILE", 1)
            read = kind.signal(given, b1_plus=transmit)
        assert float((read - exact).abs().max()) < 1e-4 * float(exact.abs().max())


def test_two_classes_of_one_name_or_two_names_of_one_contrast_are_refused() -> None:
    with pytest.raises(TypeError, match="two protocols are called 'flair'"):
        type("Again", (Protocol,), {"sequence": "flair", "contrasts": {"FLAIR": "FLAIR"}})
    with pytest.raises(TypeError, match="names images of STIR 'STIR', others 'acq-STIR_T2w'"):
        type("Other", (Protocol,), {"sequence": "other", "contrasts": {"STIR": "STIR"}})
    assert "other" not in SEQUENCES
