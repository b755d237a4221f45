from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from anystroke.core.fields import GridShape
from anystroke.learning.cases import Case, CaseSource
from anystroke.learning.stream import (
    Batch,
    CaseStream,
    StreamSettings,
    rotation,
    stack_targets,
    stream_loader,
)

SETTINGS = StreamSettings(
    shares=(1, 1), shapes=((4, 4, 4), (8, 4, 4)), shape_weights=(0.5, 0.5), seed=3, batch=1
)


class Noise:
    """Random images whose target is the number of the source."""

    def __init__(self, number: int) -> None:
        self.number = number

    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        image = torch.rand(shape, generator=rng)
        return Case(image, torch.full(shape, self.number, dtype=torch.uint8), {"source": self.number})


class Flat:
    def case(self, shape: GridShape, *, rng: torch.Generator) -> Case:
        return Case(torch.ones(shape), torch.zeros(shape, dtype=torch.uint8), {"source": "flat"})


class Patients(Noise):
    """A source whose scans of one patient differ by a constant; it counts the patients that it made."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.made: list[int] = []

    def scan(self, shape: GridShape, number: int, *, rng: torch.Generator) -> Case:
        if self.made[-1:] != [rng.initial_seed()]:
            self.made.append(rng.initial_seed())
        image = number + torch.rand(shape, generator=rng)
        return Case(image, torch.zeros(shape, dtype=torch.uint8), {"patient": rng.initial_seed()})


def _sources(count: int = 2) -> list[CaseSource]:
    return [Noise(k) for k in range(count)]


def _batches(
    count: int, *, first: int = 0, workers: int = 0, rank: int = 0, ranks: int = 1, contrasts: int = 1
) -> list[Batch]:
    settings = replace(SETTINGS, contrasts=contrasts)
    cases = CaseStream(_sources, settings, first=first, rank=rank, ranks=ranks)
    return list(islice(stream_loader(cases, workers=workers), count))


def _same(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    return all(
        torch.equal(one.image, other.image) and torch.equal(one.target, other.target)
        for one, other in zip(first, second, strict=True)
    )


def test_processes_that_share_nothing_make_the_same_batches() -> None:
    """As where cases are made on a GPU: started anew, so all must be sent to them."""
    stream = CaseStream(_sources, SETTINGS, device="cpu")
    spawned = islice(stream_loader(stream, workers=2, forked=False), 4)
    assert _same(list(spawned), _batches(4))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_each_source_has_its_share_and_is_spread_evenly(shares: list[int]) -> None:
    order = rotation(shares)
    assert [order.count(k) for k in range(len(shares))] == shares
    for length in range(1, len(order) + 1):
        for k, share in enumerate(shares):
            assert abs(order[:length].count(k) - length * share / sum(shares)) <= len(shares) / 2


def test_two_equal_sources_alternate() -> None:
    assert [int(batch.target.flatten()[0]) for batch in _batches(20)] == [0, 1] * 10


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("contrasts", [1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(contrasts: int) -> None:
    alone = _batches(9, contrasts=contrasts)
    assert _same(alone, _batches(9, workers=1, contrasts=contrasts))
    assert _same(alone, _batches(9, workers=3, contrasts=contrasts))
    assert len({float(image.sum()) for image, _, _ in alone}) == 9
    assert len({image.shape for image, _, _ in alone}) == 2


@pytest.mark.parametrize("contrasts", [1, 2, 3])
def test_a_stream_goes_on_where_another_broke_off(contrasts: int) -> None:
    for first in (1, 4, 7):
        whole = _batches(first + 5, contrasts=contrasts)
        assert _same(whole[first:], _batches(5, first=first, contrasts=contrasts))


def test_scans_of_a_patient_are_spread_and_made_in_one_go() -> None:
    opened: list[Patients] = [Patients(0)]
    settings = replace(SETTINGS, shares=(1,), shapes=((4, 4, 4),), shape_weights=(1.0,), batch=3, contrasts=4)
    batches = list(islice(CaseStream(lambda: opened, settings), 16))
    assert len(opened[0].made) == len(set(opened[0].made)) == 12
    records = CaseStream(lambda: opened, settings)
    who = [tuple(record["patient"] for record in records.records(number)) for number in range(16)]
    for start in (0, 8):
        assert who[start : start + 8] == [who[start], who[start + 1]] * 4
    assert len({patient for batch in who for patient in batch}) == 12
    plain = CaseStream(_sources, replace(settings, contrasts=1))
    assert plain.together == 1
    for number, batch in enumerate(batches):
        again = records.cases(number)
        assert {int(case.image.amin()) for case in again} == {number % 8 // 2}
        assert torch.equal(batch.target, stack_targets([case.target for case in again]))


def test_sources_without_patients_give_a_case_of_its_own_for_each_scan() -> None:
    cases = [CaseStream(_sources, replace(SETTINGS, contrasts=c)).cases(n)[0] for c, n in ((1, 0), (3, 0))]
    assert torch.equal(cases[0].image, cases[1].image)
    several = CaseStream(_sources, replace(SETTINGS, contrasts=3))
    images = [several.cases(number)[0].image for number in (0, 2, 4)]
    assert len({float(image.sum()) for image in images}) == 3
    assert len({image.shape for image in images}) == 1


def test_two_processes_see_what_one_with_twice_the_batch_sees() -> None:
    both = [_batches(3, rank=rank, ranks=2) for rank in (0, 1)]
    wide = CaseStream(_sources, StreamSettings(**{**SETTINGS.__dict__, "batch": 2}))
    for first, second, whole in zip(*both, wide, strict=False):
        assert torch.equal(torch.cat([first[0], second[0]]), whole[0])
        assert torch.equal(torch.cat([first[1], second[1]]), whole[1])


def test_records_say_what_a_batch_was_made_of() -> None:
    cases = CaseStream(partial(_sources, 2), SETTINGS)
    assert cases.records(4) == [{"source": 0}]
    assert cases.records(5) == [{"source": 1}]


def test_a_constant_image_is_refused_with_its_record() -> None:
    def flat() -> list[CaseSource]:
        return [Flat(), Flat()]

    with pytest.raises(ValueError, match=r"case 0 is constant.*'flat'"):
        next(iter(CaseStream(flat, SETTINGS)))


def test_hard_and_soft_targets_cannot_share_a_batch() -> None:
    hard: Tensor = torch.zeros(2, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="some are hard and some soft"):
        stack_targets([hard, torch.zeros(3, 2, 2, 2)])


@pytest.mark.parametrize("contrasts", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_cases_made_at_once_are_those_made_one_at_a_time(contrasts: int, batch: int) -> None:
    settings = replace(SETTINGS, batch=batch, contrasts=contrasts)
    single = CaseStream(_patients, settings)
    expected = list(islice(single, 14))
    for at_once in (2, 5):
        stream = CaseStream(_patients, replace(settings, at_once=at_once))
        assert stream.together % single.together == 0
        for one, other in zip(islice(stream, 14), expected, strict=True):
            assert torch.equal(one.image, other.image)
            assert torch.equal(one.target, other.target)
        resumed = CaseStream(_patients, replace(settings, at_once=at_once), first=5)
        for one, other in zip(islice(resumed, 9), expected[5:], strict=True):
            assert torch.equal(one.image, other.image)


def _patients() -> list[CaseSource]:
    return [Patients(0), Patients(1)]
