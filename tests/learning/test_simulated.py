import json
from pathlib import Path

import pytest
import torch

from anystroke.anatomy.lesions.bank import LesionSettings, save_bank
from anystroke.anatomy.tissues.anatomies import save_anatomies
from anystroke.core.rng import stream
from anystroke.learning.cases import Case, CaseSource, first_that_shows_something
from anystroke.learning.sources.simulated import SimulatedSource, TargetForm
from anystroke.learning.targets import TARGET_SCHEMES, Scheme
from anystroke.simulation import random_contrasts
from anystroke.simulation.cohorts import Pack
from anystroke.simulation.random_contrasts import RandomContrastSettings
from anystroke.simulation.replay import regenerate
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

PHYSICS = SynthesisSettings(spacing=5.0, lesions=LesionSettings(absent=0.0))
CONTRASTS = RandomContrastSettings(spacing=5.0)
PACK = Pack([ellipsoid_anatomy(), ellipsoid_anatomy(head=False)][:1], [sphere_lesion()])


@pytest.mark.parametrize("settings", [PHYSICS, CONTRASTS])
@pytest.mark.parametrize("scheme", list(TARGET_SCHEMES))
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_case_has_the_shape_asked_for_and_its_record_gives_it_back(
    settings: SynthesisSettings | RandomContrastSettings, scheme: Scheme, kind: TargetForm
) -> None:
    source: CaseSource = SimulatedSource(PACK, settings, scheme=scheme, target=kind)
    assert isinstance(source, SimulatedSource)
    for shape in ((32, 40, 32), (24, 24, 28)):
        case = source.case(shape, rng=stream(2, "case"))
        assert case.image.shape == shape
        assert case.image.dtype == torch.float32
        if kind == "hard":
            assert case.target.shape == shape
            assert case.target.dtype == torch.uint8
            assert int(case.target.max()) <= len(TARGET_SCHEMES[scheme]) - 1
        else:
            assert case.target.shape == (len(TARGET_SCHEMES[scheme]), *shape)
            assert torch.allclose(case.target.sum(0), torch.ones(shape), atol=1e-5)
        record = json.loads(json.dumps(case.record))
        replayed = (
            regenerate if isinstance(settings, SynthesisSettings) else random_contrasts.regenerate_random
        )
        again = replayed(record, PACK.anatomies, PACK.masks)
        assert torch.equal(again.image, case.image)
        assert torch.equal(source.regenerate(record).target, again.target)


def test_soft_targets_do_not_change_the_image() -> None:
    for settings in (PHYSICS, CONTRASTS):
        soft = SimulatedSource(PACK, settings, target="soft").case((32, 40, 32), rng=stream(4, "case"))
        hard = SimulatedSource(PACK, settings).case((32, 40, 32), rng=stream(4, "case"))
        assert torch.equal(soft.image, hard.image)
        lesion = SimulatedSource(PACK, settings, scheme="lesion").case((32, 40, 32), rng=stream(4, "case"))
        assert torch.equal(lesion.target == 1, hard.target == 4)
        assert bool(lesion.target.any())
        assert torch.equal(soft.target[-1] > 0.5, hard.target == 4)


def test_a_folder_is_read_once_for_all_sources(tmp_path: Path) -> None:
    save_anatomies(PACK.anatomies, tmp_path / "anatomies.safetensors")
    save_bank(PACK.masks, tmp_path / "lesions.safetensors")
    physics, contrasts = SimulatedSource(tmp_path, PHYSICS), SimulatedSource(tmp_path, CONTRASTS)
    assert physics.pack is contrasts.pack
    for source, settings in ((physics, PHYSICS), (contrasts, CONTRASTS)):
        given = SimulatedSource(PACK, settings).case((24, 24, 24), rng=stream(1, "case"))
        assert torch.equal(source.case((24, 24, 24), rng=stream(1, "case")).image, given.image)


def test_constant_images_are_drawn_anew_and_never_forever() -> None:
    settings = PHYSICS.model_copy(update={"spacing": 1.0, "skull_strip": 1.0, "corrupted": False})
    far = settings.deformation.model_copy(update={"translation": 130.0})
    source = SimulatedSource(PACK, settings.model_copy(update={"deformation": far}))
    for number in range(4):
        image = source.case((8, 8, 8), rng=stream(number, "case")).image
        assert float(image.max()) > float(image.min())
    nowhere = far.model_copy(update={"translation": 1e5})
    source = SimulatedSource(
        PACK, settings.model_copy(update={"deformation": nowhere, "lesion_centred": 0.0})
    )
    with pytest.raises(RuntimeError, match=r"100 constant images in a row of \(4, 4, 4\)"):
        source.case((4, 4, 4), rng=stream(1, "case"))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one anatomy"):
        SimulatedSource(Pack([], []), PHYSICS)
    with pytest.raises(ValueError, match="hard or soft, got 'fuzzy'"):
        SimulatedSource(PACK, PHYSICS, target="fuzzy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 'brain'"):
        SimulatedSource(PACK, PHYSICS, scheme="brain")  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [SynthesisSettings(spacing=4.0), RandomContrastSettings(spacing=4.0)])
def test_a_scan_is_the_same_whichever_others_are_made(
    settings: SynthesisSettings | RandomContrastSettings,
) -> None:
    together, alone = SimulatedSource(PACK, settings), SimulatedSource(PACK, settings)
    scans = [together.scan((32, 32, 32), k, rng=stream(5, "patient")) for k in range(4)]
    for k in (2, 0, 3, 1):
        alone.scan((32, 32, 32), 0, rng=stream(6, "someone else"))
        other = alone.scan((32, 32, 32), k, rng=stream(5, "patient"))
        assert torch.equal(other.image, scans[k].image)
        assert torch.equal(other.target, scans[k].target)
        assert other.record == scans[k].record
        assert torch.equal(alone.regenerate(other.record).image, other.image)
    assert torch.equal(scans[0].image, alone.case((32, 32, 32), rng=stream(5, "patient")).image)
    assert len({float(case.image.sum()) for case in scans}) == 4


def test_scans_of_a_patient_show_one_patient_with_several_protocols() -> None:
    source = SimulatedSource(PACK, SynthesisSettings(spacing=4.0, cut=0.0))
    records = [source.scan((32, 32, 32), k, rng=stream(5, "patient")).record for k in range(6)]
    for name in ("key", "anatomy", "lesions", "stage", "shown_on"):
        assert len({str(record[name]) for record in records}) == 1
    assert len({str(record["protocol"]) for record in records}) == 6


def test_a_part_of_a_few_saturated_voxels_is_drawn_anew() -> None:
    saturated, grey = torch.zeros(8, 8, 8), torch.zeros(8, 8, 8)
    saturated[0, 0] = 1.0
    grey[0] = torch.arange(64.0).reshape(8, 8)
    drawn = iter([torch.zeros(8, 8, 8), saturated, grey])
    made = first_that_shows_something(
        lambda: Case(next(drawn), torch.zeros(8, 8, 8), {}), (8, 8, 8), "look at it"
    )
    assert torch.equal(made.image, grey)
    with pytest.raises(RuntimeError, match="shows something"):
        first_that_shows_something(lambda: Case(saturated, saturated, {}), (8, 8, 8), "look at it")
