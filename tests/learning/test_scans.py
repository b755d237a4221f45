import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from anystroke.anatomy.lesions.bank import blob_lesion
from anystroke.core.config import ConfigError, validate
from anystroke.core.grids import keep_volume
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.io.labelled import LabelledScan, LabelledScanError
from anystroke.learning.augmentation.apply import BASELINE_AUGMENTATION, TAIL
from anystroke.learning.cases import HEALTHY, IGNORED
from anystroke.learning.sources.scans import PackedScans, ScanCases, ScanError, ScanSettings, pack_scans
from stand_in import axial_affine, dice, lesion_truth, phantom, rotation

SHAPE = (48, 56, 40)
AFFINE = axial_affine(4.0, 4.0, 4.5, shape=SHAPE)


def write(folder: Path, name: str, *, affine: Tensor = AFFINE, brain: bool = False) -> LabelledScan:
    """Write a phantom with the mask of its lesion."""
    image, mask = folder / f"{name}.nii.gz", folder / f"{name}_mask.nii.gz"
    phantom(affine, SHAPE).save(image)
    Volume(lesion_truth(affine, SHAPE), affine).save(mask)
    if not brain:
        return LabelledScan(name, image, mask)
    inside = folder / f"{name}_brain.nii.gz"
    Volume(phantom(affine, SHAPE).data > 50, affine).save(inside)
    return LabelledScan(name, image, mask, inside)


@pytest.fixture
def packed(tmp_path: Path) -> PackedScans:
    scans = [write(tmp_path, "a"), write(tmp_path, "b", brain=True)]
    return pack_scans(scans, tmp_path / "packed", spacing=4.0)


@pytest.mark.parametrize("spacing", [3.0, 5.0])
@pytest.mark.parametrize("turned", [False, True])
def test_packing_keeps_place_and_volume(tmp_path: Path, spacing: float, turned: bool) -> None:
    affine = rotation(12, -9) @ AFFINE if turned else AFFINE
    written = write(tmp_path, "a", affine=affine)
    drawn_ml = float(Volume.load(written.mask).data.sum()) * 0.072
    scan = pack_scans([written], tmp_path / "packed", spacing=spacing)["a"]
    assert scan.image.dtype == torch.float32
    assert float(scan.image.min()) == 0
    assert 250 < float(scan.image.max()) < 330
    sizes = scan.affine[:3, :3]
    assert torch.equal(sizes, torch.eye(3).double() * spacing)
    assert scan.lesion_ml == pytest.approx(drawn_ml, rel=1e-3)
    assert float(scan.lesion.sum()) * spacing**3 / 1000 == pytest.approx(drawn_ml, rel=0.01)
    x, y, z = scan.lesion.shape
    assert dice(scan.lesion[None], lesion_truth(scan.affine, (x, y, z))) > 0.9
    assert dice(scan.lesion[None], phantom(scan.affine, (x, y, z)).data > 200) > 0.9


@pytest.mark.parametrize(("millilitres", "left"), [(0.15, 0.85), (1.0, 0.97)])
def test_a_resampled_mask_keeps_its_volume_where_half_does_not(millilitres: float, left: float) -> None:
    ratios: dict[str, list[float]] = {"kept": [], "half": []}
    for seed in range(4):
        truth = blob_lesion(centre=(0.0, 0.0, 0.0), volume_ml=millilitres, rng=stream(seed, "blob"))
        volume = Volume(torch.nn.functional.pad(truth.mask.float(), (4,) * 6)[None], truth.affine)
        side = math.ceil((max(volume.shape) + 4) / 2)
        grid = axial_affine(2.0, 2.0, 2.0, shape=(side,) * 3)
        middle = volume.affine @ torch.tensor([*((n - 1) / 2 for n in volume.shape), 1.0]).double()
        grid[:3, 3] += middle[:3] + 0.3
        share = volume.resample_to(grid, (side,) * 3, antialias=True).data[0]
        native = float(volume.data.sum())
        for name, mask in (("kept", keep_volume(share, native / 8)), ("half", share >= 0.5)):
            ratios[name].append(float(mask.sum()) * 8 / native)
    assert all(abs(ratio - 1) < 0.04 for ratio in ratios["kept"])
    assert sum(ratios["half"]) / 4 < left


def test_what_is_packed_is_left_alone(tmp_path: Path) -> None:
    scans = [write(tmp_path, name) for name in ("a", "b")]
    folder = tmp_path / "packed"
    pack_scans(scans[:1], folder, spacing=4.0)
    path = folder / "a.safetensors"
    # A copy, as what is read is the file itself, which this test cuts off.
    written = {name: value.clone() for name, value in load_file(path).items()}
    stamp = path.stat().st_mtime_ns
    seen: list[str] = []
    both = pack_scans(scans, folder, spacing=4.0, on_scan=seen.append)
    assert seen == ["a", "b"]
    assert path.stat().st_mtime_ns == stamp
    assert both.names == ("a", "b")
    path.write_bytes(path.read_bytes()[:1000])
    assert pack_scans(scans, folder, spacing=4.0).sha256 == both.sha256
    assert all(torch.equal(value, written[name]) for name, value in load_file(path).items())
    Volume(Volume.load(scans[0].mask).data * 0, AFFINE).save(scans[0].mask, overwrite=True)
    emptied = pack_scans(scans[:1], folder, spacing=4.0)
    assert emptied.volumes_ml == {"a": 0.0}
    assert not emptied["a"].lesion.any()
    assert emptied.sha256 != both.sha256
    assert sorted(each.name for each in folder.iterdir()) == ["a.safetensors", "b.safetensors"]
    with pytest.raises(ScanError, match=r"packed at 4 mm, asked for are 2 mm"):
        pack_scans(scans, folder, spacing=2.0)


def test_one_bad_scan_does_not_hide_the_others(tmp_path: Path) -> None:
    good = write(tmp_path, "good")
    small = LabelledScan("small", tmp_path / "small.nii", tmp_path / "small.nii")
    Volume(torch.rand(1, 8, 8, 8), torch.eye(4)).save(small.image)
    small = replace(small, mask=tmp_path / "small_mask.nii")
    Volume(torch.ones(1, 8, 8, 8), torch.eye(4)).save(small.mask)
    gone = LabelledScan("gone", tmp_path / "gone.nii", good.mask)
    astray = LabelledScan("astray", good.image, tmp_path / "astray.nii.gz")
    mask = torch.zeros(1, *SHAPE)
    mask[0, 0, :9, 0] = 1
    Volume(mask, AFFINE).save(astray.mask)
    with pytest.raises(ScanError) as caught:
        pack_scans([small, gone, good, astray], tmp_path / "packed", spacing=4.0)
    text = str(caught.value)
    assert "3 of 4 scans" in text
    assert "small is too small" in text
    assert f"gone: cannot read {gone.image}" in text
    assert "astray: 9 of 9 lesion voxels" in text
    assert PackedScans(tmp_path / "packed").names == ("good",)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    scan = write(tmp_path, "a")
    monkeypatch.setattr("anystroke.learning.sources.packed_scans.save_file", full)
    with pytest.raises(ScanError, match="No space left on device"):
        pack_scans([scan], tmp_path / "packed", spacing=4.0)
    assert not list((tmp_path / "packed").iterdir())


def test_folders_that_are_refused(tmp_path: Path, packed: PackedScans) -> None:
    with pytest.raises(ScanError, match="there are none"):
        PackedScans(tmp_path)
    with pytest.raises(ScanError, match="lacks 1 scans, such as c"):
        PackedScans(packed.folder, ["a", "c"])
    with pytest.raises(LabelledScanError, match="got none"):
        pack_scans([], tmp_path, spacing=2.0)
    pack_scans([write(tmp_path, "c")], tmp_path / "other", spacing=5.0)
    (tmp_path / "other" / "c.safetensors").rename(packed.folder / "c.safetensors")
    with pytest.raises(ScanError, match="4 and 5 mm"):
        PackedScans(packed.folder)
    (packed.folder / "c.safetensors").write_bytes(b"?")
    with pytest.raises(ScanError, match=r"c\.safetensors is damaged"):
        PackedScans(packed.folder)


def test_scans_are_held_out(packed: PackedScans) -> None:
    cases = ScanCases(packed, ScanSettings(held_out=("b*",)), lesion=4)
    assert cases.scans.names == ("a",)
    with pytest.raises(ScanError, match="no scan is called 'c'"):
        packed.without(["c"])
    with pytest.raises(ScanError, match="all 2 scans are held out"):
        packed.without(["*"])


@pytest.mark.parametrize("shape", [(32, 32, 32), (64, 24, 48)])
def test_cases_are_crops_of_the_scans(packed: PackedScans, shape: tuple[int, int, int]) -> None:
    cases = ScanCases(packed, ScanSettings(lesion_centred=0.5), lesion=4)
    names, at_lesion = set(), 0
    for number in range(30):
        case = cases.case(shape, rng=stream(1, number))
        assert case.image.shape == case.target.shape == shape
        assert (case.image.dtype, case.target.dtype) == (torch.float32, torch.uint8)
        assert set(case.target.flatten().tolist()) <= {4, HEALTHY}
        if case.record["at_lesion"]:
            at_lesion += 1
            assert (case.target == 4).any()
        bright = case.image > 200
        if int(bright.sum()) > 60:
            assert dice(case.target == 4, bright) > 0.85
        names.add(case.record["scan"])
    assert names == {"a", "b"}
    assert 8 <= at_lesion <= 22


@pytest.mark.parametrize("augmentation", [BASELINE_AUGMENTATION, TAIL])
def test_the_same_stream_gives_the_same_case(packed: PackedScans, augmentation: object) -> None:
    settings = ScanSettings.model_validate({"augmentation": augmentation})
    cases = ScanCases(packed, settings, lesion=2)
    again = ScanCases(PackedScans(packed.folder), settings, lesion=2)
    for number in range(3):
        first = cases.case((32, 32, 32), rng=stream(7, number))
        second = again.case((32, 32, 32), rng=stream(7, number))
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.target, second.target)
        assert first.record == second.record
        assert bool(torch.isfinite(first.image).all())
        assert set(first.target.flatten().tolist()) <= {2, HEALTHY}


def test_a_scan_without_lesion_is_a_case_too(tmp_path: Path) -> None:
    scan = write(tmp_path, "a")
    Volume(torch.zeros(1, *SHAPE), AFFINE).save(scan.mask, overwrite=True)
    packed = pack_scans([scan], tmp_path / "packed", spacing=4.0)
    case = ScanCases(packed, ScanSettings(lesion_centred=1.0), lesion=1).case(
        (32, 32, 32), rng=stream(1, "x")
    )
    assert bool((case.target == HEALTHY).all())
    assert not case.record["at_lesion"]


def test_settings_take_the_name_of_a_preset() -> None:
    data = {"data": ["a", "b"], "augmentation": "baseline"}
    assert validate(data, ScanSettings, source="recipe.toml").augmentation == BASELINE_AUGMENTATION
    with pytest.raises(ConfigError, match="one of none, baseline, tail"):
        validate({"augmentation": "much"}, ScanSettings, source="recipe.toml")
    with pytest.raises(ConfigError, match="lesion_centred"):
        validate({"lesion_centred": 2}, ScanSettings, source="recipe.toml")


def test_a_class_that_means_something_else_is_refused(packed: PackedScans) -> None:
    for lesion in (0, IGNORED, HEALTHY):
        with pytest.raises(ScanError, match=f"class from 1 to 253, got {lesion}"):
            ScanCases(packed, ScanSettings(), lesion=lesion)


@pytest.mark.real_data
def test_a_real_scan_keeps_its_lesion(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "scans" / "stroke_tutorial"
    scan = LabelledScan("tutorial", folder / "T2w.nii", folder / "T2w_lesion_mask.nii")
    packed = pack_scans([scan], tmp_path / "packed", spacing=2.0)
    assert packed.volumes_ml["tutorial"] == pytest.approx(37.855, abs=0.01)
    assert float(packed["tutorial"].lesion.sum()) * 0.008 == pytest.approx(37.855, abs=0.02)
    cases = ScanCases(packed, ScanSettings(augmentation=TAIL, lesion_centred=1.0), lesion=4)
    case = cases.case((96, 96, 96), rng=stream(1, "real"))
    inside, head = case.image[case.target == 4].mean(), case.image.mean()
    assert float(inside) > 2 * float(head)  # an old lesion is bright in T2
