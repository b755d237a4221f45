import pytest
import torch

from anystroke.acquisition.sequences.diffusion import AdcMap
from anystroke.acquisition.sequences.flair import Flair
from anystroke.acquisition.sequences.turbo_spin_echo import TurboSpinEcho
from anystroke.anatomy.lookalikes.fluid_flow import inflow_share, void_share
from anystroke.anatomy.lookalikes.normal_structures import bright_shares
from anystroke.anatomy.lookalikes.places import Place, place_weights
from anystroke.anatomy.tissues.deformation import DeformationSettings, sampling_grid
from anystroke.anatomy.tissues.labels import TISSUES, tissue_groups
from anystroke.anatomy.tissues.mixing import mix
from anystroke.core.rng import stream
from anystroke.corruption.coils import slice_gains, surface_coil_field
from anystroke.qmri.patient_maps import Exchange, PatientMaps
from anystroke.qmri.tissue_priors import load_table
from anystroke.simulation.generator import Generator
from anystroke.simulation.healthy import NOTHING, HealthySettings, Where, draw_structures, replaced_fluid
from anystroke.simulation.replay import regenerate
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

STILL = DeformationSettings(rotation=0, scaling=0, shear=0, translation=0, elastic=0, mirror=0)
SHAPE = (40, 48, 40)
FLUIDS = ("ventricular_csf", "sulcal_csf")
FLAIR = Flair(repetition_time=9.0, inversion_time=2.4, echo_time=0.1, echo_spacing=0.01, echo_train_length=16)
ALWAYS = HealthySettings(
    inflow_slices=1,
    inflow_volume=1,
    flow_voids=1,
    bright_structures=1,
    fluid_pouches=1,
    missed_fat=1,
    fresh_blood=1,
)


def _where() -> Where:
    anatomy = ellipsoid_anatomy()
    grid = sampling_grid(SHAPE, 4.0, centre=anatomy.centre, settings=STILL, rng=stream(1, "grid"))
    return Where(anatomy, anatomy.tissues, grid, 4.0, 1)


def _maps(where: Where) -> PatientMaps:
    draw = load_table("literature").sample(stream(1), TISSUES[1:], field_strength=3.0, spread=0.0)
    return PatientMaps(where.tissues, where.grid, draw, key=1, texture=0.0)


def _points() -> torch.Tensor:
    axes = (torch.arange(-80.0, 81, 4), torch.arange(-110.0, 81, 4), torch.arange(-70.0, 71, 4))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


@pytest.mark.parametrize("with_field", [False, True])
def test_fluid_that_was_not_inverted_has_the_signal_of_a_turbo_spin_echo(with_field: bool) -> None:
    where = _where()
    maps, other = _maps(where), replaced_fluid(FLAIR)
    b1_plus = torch.linspace(0.8, 1.2, SHAPE[1])[:, None].expand(SHAPE).contiguous() if with_field else None
    exchange = Exchange(FLUIDS, torch.full(SHAPE, 0.3), other)
    plain = maps.signal(FLAIR, b1_plus=b1_plus).image
    flowing = maps.signal(FLAIR, b1_plus=b1_plus, exchanges=[exchange]).image
    middle = (20, 24, 20)
    assert other is not None
    own = {name: maps[name] for name in FLAIR.needs}
    inverted = FLAIR.signal(own, b1_plus=b1_plus, signed=True)[middle]
    fresh = other.signal(own, b1_plus=b1_plus)[middle]
    # Sulcal and ventricular fluid differ a little, and the exchange takes their mean.
    assert float(flowing[middle]) == pytest.approx(float((0.7 * inverted + 0.3 * fresh).abs()), rel=0.05)
    assert float(flowing[middle]) > 5 * float(plain[middle])


def test_what_was_not_inverted_has_relaxed_since_the_last_train() -> None:
    """A FLAIR whose inversion time is that of fluid at rest: without it the signal is PD (1 - left) decay."""
    other = replaced_fluid(FLAIR)
    assert isinstance(other, TurboSpinEcho)
    maps = {
        "proton_density": torch.full((1,), 100.0),
        "r1": torch.full((1,), 1 / 4.2),
        "r2": torch.full((1,), 0.6),
    }
    train = 0.16
    expected = 100 * torch.exp(torch.tensor(-0.06)) * (1 - torch.exp(torch.tensor(-(9.0 - train) / 4.2)))
    assert float(other.signal(maps)) == pytest.approx(float(expected), rel=0.02)


def test_flow_changes_nothing_outside_fluid() -> None:
    where = _where()
    maps = _maps(where)
    amount = torch.full(SHAPE, 0.5)
    for protocol in (replaced_fluid(FLAIR), None):
        plain = maps.signal(FLAIR)
        flowing = maps.signal(FLAIR, exchanges=[Exchange(FLUIDS, amount, protocol)]).image
        deep = _fluid_share(where) == 0
        assert int(deep.sum()) > 1000
        assert torch.equal(plain.image[deep], flowing[deep])
        assert not torch.equal(plain.image, flowing)


def _fluid_share(where: Where) -> torch.Tensor:
    return mix(where.tissues, where.grid, tissue_groups(FLUIDS))[0][0]


def test_maps_that_do_not_add_up_are_not_exchanged() -> None:
    protocol = AdcMap(repetition_time=4.0, echo_time=0.08, b_value=1000.0)
    with pytest.raises(ValueError, match="signals add up"):
        _maps(_where()).signal(protocol, exchanges=[Exchange(FLUIDS, torch.ones(SHAPE), None)])


def test_places_are_gaussians_and_the_highest_counts() -> None:
    points = _points()
    places = [Place("a", (20.0, 0.0, 0.0), (6.0, 8.0, 10.0)), Place("b", (0.0, -40.0, 8.0), (9.0, 9.0, 9.0))]
    weights = place_weights(points, places, [0.5, 0.9])
    x, y, z = points
    first = 0.5 * torch.exp(-0.5 * (((x.abs() - 20) / 6) ** 2 + (y / 8) ** 2 + (z / 10) ** 2))
    second = 0.9 * torch.exp(-0.5 * ((x / 9) ** 2 + ((y + 40) / 9) ** 2 + ((z - 8) / 9) ** 2))
    assert torch.allclose(weights, torch.maximum(first, second), atol=1e-4)
    assert torch.equal(weights, weights.flip(0))
    with pytest.raises(ValueError, match="expected 2 amounts"):
        place_weights(points, places, [1.0])


def test_bright_structures_are_about_the_same_on_both_sides() -> None:
    points = _points()
    for key in range(10):
        for share in bright_shares(points, spacing=4.0, rng=stream(key)):
            assert 0 <= float(share.min()) <= float(share.max()) <= 0.8
            left, right = float(share[points[0] < 0].sum()), float(share[points[0] > 0].sum())
            assert 0.5 < left / right < 2.0


def test_structures_have_a_plausible_volume_and_stay_in_the_brain() -> None:
    where = _where()
    for key in range(8):
        (inclusion,) = draw_structures(where, ALWAYS, stream(key))
        (share,) = inclusion.shares.values()
        assert 0 <= float(share.min()) <= float(share.max()) <= 1
        assert 0.3 < float(share.sum()) * 0.064 < 80.0
        brain = where.shares[:2].sum(0)[inclusion.box]
        assert bool((share <= brain + 1e-5).all())
    assert draw_structures(where, NOTHING, stream(1)) == []


@pytest.mark.parametrize("draw", [inflow_share, void_share])
def test_flow_is_a_share_and_repeats(draw: object) -> None:
    assert callable(draw)
    first, again = (draw(_points(), spacing=4.0, rng=stream(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert 0 <= float(first.min()) <= float(first.max()) <= 0.95


@pytest.mark.parametrize("weighting", ["FLAIR", "T2w", "T1w", "DWI", "ADC"])
def test_nothing_of_it_is_a_lesion(weighting: str) -> None:
    quiet = SynthesisSettings(
        spacing=4.0, shapes=(SHAPE,), cut=0.0, healthy=NOTHING, surface_coils=0.0, uneven_slices=0.0
    )
    quiet = quiet.model_copy(update={"weighting": weighting})
    loud = quiet.model_copy(update={"healthy": ALWAYS, "surface_coils": 1.0, "uneven_slices": 1.0})
    masks = [sphere_lesion()]
    for key in range(3):
        without = Generator(quiet, masks).generate(ellipsoid_anatomy(), key=key)
        sample = Generator(loud, masks).generate(ellipsoid_anatomy(), key=key)
        assert torch.equal(sample.target, without.target)
        assert not torch.equal(sample.image, without.image)
        again = regenerate(sample.record, [ellipsoid_anatomy()], masks)
        assert torch.equal(again.image, sample.image)


def test_surface_coils_are_bright_outside() -> None:
    field = surface_coil_field((48, 56, 48), spacing=4.0, strength=0.0, rng=stream(1))
    assert torch.allclose(field, torch.ones_like(field), atol=1e-5)
    ratios = []
    for key in range(12):
        field = surface_coil_field((48, 56, 48), spacing=4.0, strength=1.0, rng=stream(key))
        assert float(field.min()) > 0
        assert float(field.mean()) == pytest.approx(1.0, abs=0.05)
        edge = torch.stack([field[6, 28, 24], field[41, 28, 24], field[24, 5, 24], field[24, 50, 24]]).mean()
        ratios.append(float(edge / field[24, 28, 24]))
    assert 1.3 < sum(ratios) / len(ratios) < 5.0


def test_slices_of_one_interleaf_are_alike() -> None:
    gains = slice_gains(60, interleaves=2, strength=0.06, rng=stream(4))
    assert float(gains.mean()) == pytest.approx(1.0, abs=1e-5)
    between = float((gains[::2].mean() - gains[1::2].mean()).abs())
    assert float(gains[::2].std()) < 0.05
    assert between > 0
    assert torch.equal(slice_gains(60, interleaves=2, strength=0.0, rng=stream(4)), torch.ones(60))
