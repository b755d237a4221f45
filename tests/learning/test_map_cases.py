"""Cases of measured maps: lesions stay where they are, signals are those of the protocol."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anystroke.acquisition.catalogue import from_dict
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.corruption.scanner import ScannerSettings
from anystroke.learning.cases import HEALTHY, CaseSource
from anystroke.learning.sources.map_packs import open_maps
from anystroke.learning.sources.maps import MapCases, MapSettings, pack_data
from anystroke.qmri.map_files import MapDataError
from anystroke.qmri.tissue_priors import MAPS
from anystroke.simulation.files import Request, simulate_files
from anystroke.simulation.settings import SynthesisSettings
from map_phantoms import SPACING, load, write_map_subject

SHAPE = (48, 56, 44)
SETTINGS = MapSettings(spacing=SPACING)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("pack")
    write_map_subject(data, "sub-01")
    write_map_subject(data, "sub-02", key=2, brain=False, r2=True)
    write_map_subject(data, "sub-03", key=3, lesion=False)
    assert len(pack_data(SETTINGS.model_copy(update={"data": (data,)}), folder).names) == 3
    return folder


def _cases(pack: Path, *names: str, **changes: object) -> MapCases:
    return MapCases(pack, SETTINGS.model_copy(update=changes), lesion=4, names=names or None)


def test_the_same_stream_gives_the_same_case_and_a_key_gives_it_back(pack: Path) -> None:
    cases: CaseSource = _cases(pack, mixture=0.5, scanner=ScannerSettings())
    assert isinstance(cases, MapCases)
    for number in range(6):
        case = cases.case((32, 36, 40), rng=stream(number, "case"))
        again = cases.case((32, 36, 40), rng=stream(number, "case"))
        assert torch.equal(case.image, again.image)
        assert torch.equal(case.target, again.target)
        record = json.loads(json.dumps(case.record))
        x, y, z = record["shape"]
        made = _cases(pack, mixture=0.5, scanner=ScannerSettings()).generate((x, y, z), key=record["key"])
        assert torch.equal(made.image, case.image)
        assert from_dict(record["protocol"]).to_dict() == case.record["protocol"]
        other = cases.case((32, 36, 40), rng=stream(100 + number, "case"))
        assert not torch.equal(other.image, case.image)


@pytest.mark.parametrize("preset", ["paper", "paper_code", "qatlas", "realistic"])
def test_cases_are_finite_and_their_targets_hold_lesion_and_healthy_alone(pack: Path, preset: str) -> None:
    cases = _cases(pack, preset=preset, lesion_centred=1.0, scanner=ScannerSettings(), mixture=0.3)
    sequences = set()
    for number in range(8):
        case = cases.case((32, 32, 32), rng=stream(number, preset))
        assert case.image.shape == case.target.shape == (32, 32, 32)
        assert (case.image.dtype, case.target.dtype) == (torch.float32, torch.uint8)
        assert bool(torch.isfinite(case.image).all())
        assert float(case.image.min()) >= 0
        with_lesion = case.record["subject"] != "sub-03"
        assert set(case.target.flatten().tolist()) == ({4, HEALTHY} if with_lesion else {HEALTHY})
        sequences.add(case.record["protocol"]["sequence"])
    assert (len(sequences) == 1) == (preset == "qatlas")


def test_undeformed_cases_have_the_signal_of_the_maps(pack: Path) -> None:
    cases = _cases(pack, "sub-01", deformed=0.0, brain_only=0.0, preset="realistic", transmit_field=False)
    [subject] = [each for each in open_maps(pack) if each.name == "sub-01"]
    x, y, z = subject.shape
    maps, masks = subject.read((slice(0, x), slice(0, y), slice(0, z)))
    named = dict(zip(subject.names, maps, strict=True))
    for number in range(6):
        # Of the very shape of the pack, so that there is but one place for the grid.
        case = cases.generate(subject.shape, key=number)
        protocol = from_dict(case.record["protocol"])
        if "r2" in protocol.needs:
            continue
        expected = protocol.signal(named) * masks[0]
        inside = masks[0] > 0
        scale = float(expected[inside].max())
        assert torch.allclose(case.image[inside], expected[inside], atol=2e-3 * scale)
        assert torch.equal(case.target == 4, masks[2] > 0)


def test_image_and_target_move_together(tmp_path: Path) -> None:
    write_map_subject(tmp_path / "data", "sub-01")
    path = tmp_path / "data" / "sub-01_R1map.nii.gz"
    r1, lesion = Volume.load(path), load(tmp_path / "data" / "sub-01_label-L_mask.nii.gz")
    Volume(torch.where(lesion > 0, 4.5, r1.data.clamp(max=0.9)), r1.affine).save(path, overwrite=True)
    settings = SETTINGS.model_copy(
        update={"data": (tmp_path / "data",), "preset": "qatlas", "lesion_centred": 1.0, "deformed": 1.0}
    )
    pack_data(settings, tmp_path / "pack")
    cases = MapCases(tmp_path / "pack", settings, lesion=1)
    volumes = []
    for number in range(8):
        case = cases.case(SHAPE, rng=stream(number, "case"))
        marked = case.target == 1
        volumes.append(int(marked.sum()))
        # As many voxels as are marked have the longitudinal rate that only the lesion has.
        level = case.image.flatten().kthvalue(case.image.numel() - volumes[-1]).values
        both = float((marked & (case.image > level)).sum())
        assert 2 * both / (volumes[-1] + float((case.image > level).sum())) > 0.95
        assert bool(marked[20:28, 24:32, 18:26].any())
    assert max(volumes) > 1.05 * min(volumes)


def test_what_is_outside_the_brain_goes_where_there_is_a_mask(pack: Path) -> None:
    for name, expected in (("sub-01", True), ("sub-02", False)):
        case = _cases(pack, name, deformed=0.0).case(SHAPE, rng=stream(1, "case"))
        assert case.record["brain_only"] is expected
        whole = _cases(pack, name, deformed=0.0, brain_only=0.0).case(SHAPE, rng=stream(1, "case"))
        filled = [int((each.image.abs() > 1e-6).sum()) for each in (case, whole)]
        assert (filled[0] < 0.8 * filled[1]) is expected


def test_moved_tissues_keep_the_target_and_change_the_image(pack: Path) -> None:
    plain, moved = (
        _cases(pack, "sub-01", mixture=share).case(SHAPE, rng=stream(3, "case")) for share in (0, 1)
    )
    assert torch.equal(plain.target, moved.target)
    assert not torch.allclose(plain.image, moved.image, rtol=0.05)
    assert moved.record["mixture"] is True
    assert plain.record["protocol"] == moved.record["protocol"]


def test_protocols_that_need_what_was_not_measured_are_not_drawn(pack: Path) -> None:
    with pytest.raises(ValueError, match=r"'realistic' needs adc, which sub-01 does not have"):
        _cases(pack, preset="realistic", weighting="DWI")
    cases = _cases(pack, preset="realistic")
    for number in range(20):
        protocol = from_dict(cases.case((16, 16, 16), rng=stream(number, "case")).record["protocol"])
        assert "adc" not in protocol.needs
        assert set(protocol.needs) <= set(MAPS)
        assert protocol.field_strength == 3.0 or protocol.weighting == "UNIT1"


def _flip(image: Tensor, target: Tensor, *, amount: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    noise = amount * torch.randn(image.shape, generator=rng)
    return image.flip(0) + noise, target.flip(0)


def test_an_augmentation_follows(pack: Path) -> None:
    settings = SETTINGS.model_copy(update={"lesion_centred": 1.0})
    plain = MapCases(pack, settings, lesion=1).generate(SHAPE, key=5)
    flipped = MapCases(pack, settings, lesion=1, augment=partial(_flip, amount=0.0)).generate(SHAPE, key=5)
    assert torch.equal(flipped.image, plain.image.flip(0))
    assert torch.equal(flipped.target, plain.target.flip(0))
    noisy = [
        MapCases(pack, settings, lesion=1, augment=partial(_flip, amount=1.0)).generate(SHAPE, key=5)
        for _ in range(2)
    ]
    assert torch.equal(noisy[0].image, noisy[1].image)

    def cut(image: Tensor, target: Tensor, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return image[1:], target[1:]

    with pytest.raises(ValueError, match=r"keeps \(48, 56, 44\) voxels"):
        MapCases(pack, settings, lesion=1, augment=cut).generate(SHAPE, key=5)


def test_bad_input_is_refused(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(MapDataError, match="at least one folder of maps under 'data'"):
        pack_data(MapSettings(), tmp_path)
    with pytest.raises(MapDataError, match="pack them first"):
        MapCases(tmp_path, SETTINGS, lesion=1)
    with pytest.raises(MapDataError, match="expected a subject called sub-09"):
        _cases(pack, "sub-01", "sub-09")
    with pytest.raises(MapDataError, match="packed with voxels of 4 mm, but the settings say 1 mm"):
        MapCases(pack, MapSettings(), lesion=1)
    with pytest.raises(MapDataError, match="at least one subject"):
        MapCases(pack, SETTINGS, lesion=1, names=[])


@pytest.mark.real_data
def test_simulated_maps_of_a_real_head_give_cases(data_dir: Path, tmp_path: Path) -> None:
    labels = data_dir / "anatomies" / "synthseg" / "training_seg_05.nii.gz"
    synthesis = SynthesisSettings(spacing=SPACING, shapes=((48, 56, 48),))
    request = Request(
        label_maps=(labels,), maps=True, synthesis=synthesis, weightings=("T1w",), stage="acute"
    )
    assert [each.status for each in simulate_files(request, tmp_path / "data")] == ["done"]
    settings = SETTINGS.model_copy(update={"data": (tmp_path / "data",), "preset": "realistic"})
    assert pack_data(settings, tmp_path / "pack").names == ("sub-0001",)
    for number in range(3):
        case = MapCases(tmp_path / "pack", settings, lesion=1).case(SHAPE, rng=stream(number, "case"))
        assert bool(torch.isfinite(case.image).all())
