"""Measured maps: found by name, brought to one grid and to SI, and usable as the simulator's maps."""

import json
from pathlib import Path

import pytest
import torch

from anystroke.acquisition.sequences.gradient_echo import spoiled_gradient_echo
from anystroke.core.rng import stream
from anystroke.core.volume import Volume, VolumeError
from anystroke.qmri.measured_maps import MeasuredMaps, find_maps, load_images, map_of
from anystroke.qmri.units_check import UnitError

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))


def _save(path: Path, data: torch.Tensor, affine: torch.Tensor = AFFINE) -> Path:
    Volume(data[None], affine).save(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Old-style maps: R1 in 10^-3 /s, R2* in 1/ms, PD as a fraction; a head with noise around it."""
    rng = stream(1, "maps")

    def around(mean: float, sd: float) -> torch.Tensor:
        return mean + sd * torch.randn(12, 12, 12, generator=rng)

    _save(tmp_path / "sub-01_R1map.nii.gz", around(800, 60))
    _save(tmp_path / "sub-01_R2starmap.nii.gz", around(0.02, 0.002))
    _save(tmp_path / "sub-01_PDmap.nii.gz", around(0.75, 0.03))
    _save(tmp_path / "sub-01_MTsat.nii.gz", around(1.3, 0.2))
    head = torch.zeros(12, 12, 12)
    head[2:10, 2:10, 2:10] = 1
    _save(tmp_path / "sub-01_desc-head_mask.nii.gz", head)
    return find_maps(tmp_path.iterdir())


def test_names() -> None:
    assert map_of("a/sub-01_ses-2_acq-x_MTsat.nii") == "mt_saturation"
    assert map_of("sub-01_adc.nii.gz") == "adc"
    assert map_of("sub-01_r1map.nii.gz") is None
    with pytest.raises(UnitError, match=r"expected one r1 map, got run-1_R1map\.nii and run-2_R1map\.nii"):
        find_maps([Path("run-1_R1map.nii"), Path("run-2_R1map.nii")])


def test_units_are_mended_and_reported(files: dict[str, Path], tmp_path: Path) -> None:
    maps = MeasuredMaps.load(files, tmp_path / "sub-01_desc-head_mask.nii.gz")
    assert list(maps) == ["proton_density", "r1", "r2", "r2star", "mt_saturation"]
    assert len(maps) == 5
    assert {finding.map: finding.unit for finding in maps.units} == {
        "proton_density": "fraction",
        "r1": "10^-3/s",
        "r2star": "1/ms",
        "mt_saturation": "p.u.",
    }
    medians = {name: float(values[2:10, 2:10, 2:10].median()) for name, values in maps.items()}
    assert medians["r1"] == pytest.approx(0.8, rel=0.02)
    assert medians["r2star"] == pytest.approx(20, rel=0.02)
    assert medians["r2"] == pytest.approx(13, rel=0.02)
    assert medians["proton_density"] == pytest.approx(75, rel=0.02)
    assert "r2 was not measured and is estimated from r2star and r1" in maps.notes
    assert all(float(values[0].abs().max()) == 0 for values in maps.values())
    assert torch.equal(maps.affine, AFFINE)
    assert sum(finding.raised + finding.lowered for finding in maps.clamps) == 0
    with pytest.raises(KeyError, match="adc: not measured"):
        maps["adc"]


def test_the_simulator_takes_them(files: dict[str, Path], tmp_path: Path) -> None:
    maps = MeasuredMaps.load(files, tmp_path / "sub-01_desc-head_mask.nii.gz")
    signal = spoiled_gradient_echo(
        proton_density=maps["proton_density"],
        r1=maps["r1"],
        r2star=maps["r2star"],
        repetition_time=0.025,
        echo_time=0.005,
        flip_angle=20.0,
    )
    assert bool(torch.isfinite(signal).all())
    assert float(signal[2:10, 2:10, 2:10].min()) > 0
    assert float(signal[0].abs().max()) == 0


def test_other_grids_are_resampled_and_reported(files: dict[str, Path], tmp_path: Path) -> None:
    coarse = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64))
    files["adc"] = _save(tmp_path / "sub-01_ADC.nii.gz", 800 + 10 * torch.rand(6, 6, 6), coarse)
    images = load_images(files)
    assert images.notes == ("sub-01_ADC.nii.gz was resampled to the grid of sub-01_R1map.nii.gz",)
    assert images.values["adc"].shape == (12, 12, 12)
    maps = MeasuredMaps.load(files, tmp_path / "sub-01_desc-head_mask.nii.gz")
    assert 0.8e-3 <= float(maps["adc"][5, 5, 5]) <= 0.81e-3
    assert images.notes[0] in maps.notes


def test_sidecars_are_believed_only_if_they_agree(files: dict[str, Path], tmp_path: Path) -> None:
    head = tmp_path / "sub-01_desc-head_mask.nii.gz"
    sidecar = tmp_path / "sub-01_MTsat.json"
    sidecar.write_text(json.dumps({"Units": "arbitrary"}))
    assert load_images(files).stated == {"mt_saturation": "arbitrary"}
    MeasuredMaps.load(files, head)
    sidecar.write_text(json.dumps({"Units": "fraction"}))
    with pytest.raises(UnitError, match="mt_saturation: the sidecar states 'fraction'"):
        MeasuredMaps.load(files, head)
    sidecar.write_text("{")
    with pytest.raises(UnitError, match=r"sub-01_MTsat\.json is not valid JSON"):
        MeasuredMaps.load(files, head)


def test_bad_files_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnitError, match=r"suffix PDmap, R1map, .*, got none"):
        load_images({})
    with pytest.raises(UnitError, match="no map 't1'"):
        load_images({"t1": files["r1"]})
    with pytest.raises(VolumeError, match=r"nowhere_R1map\.nii does not exist"):
        load_images({"r1": tmp_path / "nowhere_R1map.nii"})
