import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anystroke.anatomy.lesions.bank import save_bank
from anystroke.anatomy.tissues.anatomies import save_anatomies
from anystroke.core.rng import integer, stream
from anystroke.learning.sources.simulated import SimulatedCases, SimulatedSource
from anystroke.models.model_space import normalise_intensity
from anystroke.qmri.tissue_priors import load_table
from anystroke.simulation.cohorts import Pack
from anystroke.simulation.generator import Generator
from anystroke.simulation.random_contrasts import RandomContrastGenerator, RandomContrastSettings
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

SETTINGS = SynthesisSettings(spacing=4.0, shapes=((32, 32, 32),))


def _cases(first: int = 0) -> SimulatedCases:
    generator = Generator(SETTINGS, [sphere_lesion()])
    anatomies = [ellipsoid_anatomy(), ellipsoid_anatomy(head=False)]
    return SimulatedCases.of(anatomies, generator, seed=3, first=first)


def _take(cases: SimulatedCases, number: int, *, batch: int, workers: int) -> list[tuple[Tensor, Tensor]]:
    batches = itertools.islice(cases.loader(batch=batch, workers=workers), number)
    return [(image, target) for image, target in batches]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("batch", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(batch: int) -> None:
    alone, one, three = (_take(_cases(), 4, batch=batch, workers=workers) for workers in (0, 1, 3))
    for expected, *others in zip(alone, one, three, strict=True):
        for other in others:
            assert torch.equal(expected[0], other[0])
            assert torch.equal(expected[1], other[1])
    images = torch.cat([image for image, _ in alone])
    assert images.shape == (4 * batch, 1, 32, 32, 32)
    assert len({float(image.sum()) for image in images}) == 4 * batch


def test_a_loader_of_ones_own_gives_the_numbered_cases() -> None:
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(_cases(first=5), batch_size=None)
    pack = Pack([ellipsoid_anatomy(), ellipsoid_anatomy(head=False)], [sphere_lesion()])
    source = SimulatedSource(pack, SETTINGS)
    for number, (image, target) in zip((5, 6), loader, strict=False):
        case = source.case((32, 32, 32), rng=stream(3, "case", number))
        assert torch.equal(image[0], normalise_intensity(case.image))
        assert torch.equal(target, case.target.long())
        assert _cases().record(number) == _cases().in_batches(4).record(number) == case.record


def test_objects_and_a_packed_folder_give_the_same_cases(tmp_path: Path) -> None:
    anatomies = [ellipsoid_anatomy(), ellipsoid_anatomy(head=False)]
    save_anatomies(anatomies, tmp_path / "anatomies.safetensors")
    save_bank([sphere_lesion()], tmp_path / "lesions.safetensors")
    packed = SimulatedCases(tmp_path, SETTINGS, seed=3)
    for (image, target), (other, truth) in zip(itertools.islice(packed, 2), _cases(), strict=False):
        assert torch.equal(image, other)
        assert torch.equal(target, truth)


def test_in_batches_leaves_the_original_alone() -> None:
    cases = _cases()
    assert cases.in_batches(4).batch == 4
    assert cases.batch == 1
    with pytest.raises(ValueError, match="at least 1 case, got 0"):
        cases.in_batches(0)
    with pytest.raises(ValueError, match="begins a batch of 4, got 6"):
        _cases(first=6).in_batches(4)


def test_a_batch_has_one_size_where_cases_have_several() -> None:
    settings = SETTINGS.model_copy(
        update={"shapes": ((32, 32, 32), (24, 32, 40)), "shape_weights": (0.5, 0.5)}
    )
    cases = SimulatedCases.of([ellipsoid_anatomy()], Generator(settings), seed=1)
    shapes = [tuple(image.shape[2:]) for image, _ in itertools.islice(cases.loader(batch=2, workers=0), 4)]
    assert set(shapes) == set(settings.shapes)


def test_the_tissues_of_a_generator_are_kept() -> None:
    bright = load_table("paper")
    generator = Generator(SETTINGS, [sphere_lesion()], priors=bright)
    image, _ = next(iter(SimulatedCases.of([ellipsoid_anatomy()], generator, seed=1)))
    plain, _ = next(iter(SimulatedCases.of([ellipsoid_anatomy()], Generator(SETTINGS), seed=1)))
    expected = generator(ellipsoid_anatomy(), rng=_after_anatomy(1)).image
    assert torch.equal(image[0], normalise_intensity(expected))
    assert not torch.equal(image, plain)


def _after_anatomy(seed: int) -> torch.Generator:
    rng = stream(seed, "case", 0)
    integer(rng, 0, 0)
    return rng


def test_cases_that_show_nothing_end_in_an_error() -> None:
    far = SETTINGS.deformation.model_copy(update={"translation": 1e5})
    settings = SETTINGS.model_copy(
        update={"deformation": far, "skull_strip": 1.0, "corrupted": False, "shapes": ((4, 4, 4),)}
    )
    cases = SimulatedCases.of([ellipsoid_anatomy()], Generator(settings), seed=1)
    with pytest.raises(RuntimeError, match="100 constant images in a row"):
        next(iter(cases))


def test_no_anatomy_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one anatomy"):
        SimulatedCases.of([], Generator(SETTINGS), seed=1)


def test_random_contrasts_can_be_sampled_too() -> None:
    generator = RandomContrastGenerator(RandomContrastSettings(spacing=4.0, shape=(32, 32, 32)))
    image, target = next(iter(SimulatedCases.of([ellipsoid_anatomy()], generator, seed=1)))
    assert image.shape == (1, 32, 32, 32)
    assert int(target.max()) > 0
