"""Maps on the scan's own grid; flips; bias; refinement; warnings; files and the command."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anystroke.acquisition.sequences.mprage import Mprage
from anystroke.commands.main import main
from anystroke.core.rng import stream
from anystroke.core.volume import Volume, VolumeError
from anystroke.io.inputs import Input
from anystroke.learning.run import train
from anystroke.learning.sources.maps import MapSettings
from anystroke.models.checkpoints import CheckpointError
from anystroke.models.model_space import to_model_space
from anystroke.models.passes import ALL_FLIPS
from anystroke.qmri.estimated_maps import DEFAULT_MAPS
from anystroke.qmri.map_files import find_map_subjects
from anystroke.tasks.qmri import predict as estimation
from anystroke.tasks.qmri.config import EstimatorConfig
from anystroke.tasks.qmri.files import (
    EstimateOptions,
    estimate_dataset,
    estimate_files,
    scan_protocol,
    subject_name,
)
from anystroke.tasks.qmri.predict import (
    NEEDED_TISSUES,
    Estimator,
    QmriEstimate,
    contrast_warnings,
    estimate_maps,
    estimate_qmri,
    match_bias,
    named_protocols,
    refine_maps,
)
from anystroke.tasks.segmentation.config import SegmentationConfig
from anystroke.tasks.segmentation.mask import Prediction
from anystroke.tasks.segmentation.predict import Model, Segmentation
from anystroke.tasks.segmentation.recipe import TrainingSettings
from stand_in import axial_affine, rotation

CONFIG = EstimatorConfig(
    name="toy", architecture="none", maps=DEFAULT_MAPS, spacing=4.0, divisor=8, normalisation="percentiles"
)
PROTOCOL = Mprage(
    repetition_time=2.3,
    inversion_time=0.9,
    excitation_spacing=0.006,
    n_excitations=160,
    flip_angle=9.0,
    echo_time=0.003,
    inversion_efficiency=0.96,
)


@pytest.fixture(autouse=True)
def _flat_heads_are_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads of these tests have flat regions and air, as label maps and padding do."""
    monkeypatch.setattr("anystroke.io.inputs.reason_by_voxels", lambda _: None)
    monkeypatch.setattr("anystroke.io.inputs.clean_background", lambda scan, _: scan)


class Toy(nn.Module):
    """Tissue by brightness: PD falls and R1 rises with it; air has no PD."""

    def forward(self, image: Tensor) -> Tensor:
        level = image.clamp(0, 1)
        pd = torch.where(level > 0.02, 100 - 30 * level, torch.full_like(level, 1e-3))
        fluid = level < 0.45
        r1 = (0.25 + 0.75 * level).masked_fill(fluid, 0.24)
        r2star = (2 + 18 * level).masked_fill(fluid, 2.5)
        return torch.cat([pd.log(), (10 * r1).log(), (10 * r2star).log(), level - 5], 1)


class Lopsided(nn.Module):
    """The logarithm of PD rises to the right, which no average over flips may keep."""

    def forward(self, image: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, image.shape[2]).view(1, 1, -1, 1, 1).expand_as(image)
        return torch.cat([4 + ramp, *[torch.zeros_like(image)] * 3], 1)


class Tissues(nn.Module):
    """Background, grey, white matter and fluid by brightness, and no lesion."""

    def forward(self, image: Tensor) -> Tensor:
        level = (image - image.amin()) / (image.amax() - image.amin())
        centres = (0.0, 0.6, 0.95, 0.3)
        found = [-200 * (level - centre).square() for centre in centres]
        return torch.cat([*found, torch.full_like(level, -200.0)], 1)


class Linear(nn.Module):
    """R1 that is a linear function of the image; the other maps are the same everywhere."""

    def forward(self, image: Tensor) -> Tensor:
        same = torch.full_like(image, 1.0)
        return torch.cat([4 * same, (2 + 8 * image).log(), same, same], 1)


def _segmenter() -> Model:
    classes = ("background", "grey_matter", "white_matter", "csf", "lesion")
    config = SegmentationConfig(
        name="toy", architecture="none", classes=classes, brain=classes[1:4], spacing=4.0, divisor=8
    )
    return Model(Tissues(), config, sha256="")


def test_detail_beyond_the_networks_grid_comes_from_the_scan() -> None:
    rng = stream(3, "fine")
    coarse = nn.functional.interpolate(torch.rand(1, 1, 12, 12, 12, generator=rng), scale_factor=8.0)[0]
    fine = 200 + 400 * coarse + 60 * torch.rand(1, 96, 96, 96, generator=rng)
    scan = Volume(fine, torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64)))
    space = to_model_space(scan, spacing=4.0, divisor=8, normalise="percentiles")
    found = estimate_maps(scan, _estimator(Linear()))
    plain = 0.1 * (2 + 8 * space.to_native(space.image).data)
    # The network's function of the scan, whose clipping and scale are those of its own grid.
    level = to_model_space(scan, spacing=4.0, divisor=8, normalise=None)
    design = torch.stack([level.image.flatten(), torch.ones(level.image.numel())], 1)
    inside = (space.image > 0.01) & (space.image < 0.99)
    line = torch.linalg.lstsq(design[inside.flatten()], space.image[inside][:, None]).solution.flatten()
    truth = 0.1 * (2 + 8 * (line[0] * (fine - fine.min()) + line[1]))
    box = (slice(None), *(slice(16, 80),) * 3)
    errors = [
        float((values[box] - truth[box]).square().mean().sqrt()) for values in (found["r1"].data, plain)
    ]
    assert errors[0] < 0.35 * errors[1]
    assert float(found["r2star"].data[box].std()) < 1e-4


def _estimator(network: nn.Module | None = None) -> Estimator:
    return Estimator(network or Toy(), CONFIG, sha256="f" * 64)


def _head(affine: Tensor | None = None, shape: tuple[int, int, int] = (48, 56, 48)) -> Volume:
    """White in grey in fluid in air, 3 mm."""
    affine = axial_affine(3.0, 3.0, 3.0, shape=shape) if affine is None else affine
    grid = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in shape), indexing="ij"))
    x, y, z = torch.einsum("ij,jxyz->ixyz", affine[:3, :3], grid) + affine[:3, 3].view(3, 1, 1, 1)
    radius = ((x / 60) ** 2 + (y / 72) ** 2 + (z / 60) ** 2).sqrt()
    image = torch.zeros(shape)
    for level, size in ((300.0, 1.0), (600.0, 0.9), (950.0, 0.65)):
        image[radius < size] = level
    return Volume(image[None], affine)


def test_maps_are_in_the_grid_of_the_scan_whatever_its_orientation() -> None:
    straight = estimate_qmri(_head(), _estimator(), segmentation=_segmenter(), device="cpu")
    assert straight.maps["r1"].shape == (48, 56, 48)
    assert tuple(straight.maps) == DEFAULT_MAPS
    white = _head().data[0] > 800
    assert float(straight.maps["r1"].data[0][white].median()) == pytest.approx(1.0, abs=0.05)
    assert float(straight.maps["proton_density"].data[0][_head().data[0] == 0].median()) == 0
    assert 0.9 < float(straight.brain.data[0][_head().data[0] > 500].float().mean()) <= 1
    assert straight.warnings == ()
    assert straight.correlation > 0.9
    flipped = _head().reorient("PIL")
    turned = estimate_qmri(flipped, _estimator(), segmentation=_segmenter(), device="cpu")
    back = turned.maps["r1"].reorient("RAS")
    assert torch.allclose(back.data, straight.maps["r1"].data, atol=1e-4)
    oblique = _head(rotation(10, 20) @ axial_affine(3.0, 3.0, 3.0, shape=(48, 56, 48)))
    assert estimate_qmri(oblique, _estimator(), segmentation=_segmenter(), device="cpu").correlation > 0.9


def test_eight_flips_are_averaged_before_the_activation_and_divided_by_eight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mean of eight logarithms is 4 everywhere: PD is exp(4), not exp(32 / 7), nor a mean of exps."""
    assert len(ALL_FLIPS) == 8
    found = estimate_qmri(
        _head(), _estimator(Lopsided()), flips=True, segmentation=_segmenter(), device="cpu"
    )
    inside = (found.brain.data > 0) & (found.scan.data > 0)
    values = found.maps["proton_density"].data[inside]
    assert torch.allclose(values, torch.full_like(values, 54.598), rtol=1e-4)
    assert found.flips == 8
    once = estimate_qmri(_head(), _estimator(Lopsided()), segmentation=_segmenter(), device="cpu")
    assert float(once.maps["proton_density"].data[inside].std()) > 5


def test_gain_and_bias_are_taken_out_before_scans_are_compared() -> None:
    simulated = torch.rand((20, 24, 20), generator=stream(1, "scan")) + 0.5
    ramp = torch.linspace(0.5, 2.0, 24).view(1, -1, 1)
    brain = torch.zeros(20, 24, 20, dtype=torch.bool)
    brain[4:16, 4:20, 4:16] = True
    matched, correlation = match_bias(simulated, 700 * simulated * ramp, brain)
    assert correlation == pytest.approx(1.0, abs=1e-6)
    assert torch.allclose(matched, 700 * simulated * ramp, rtol=1e-3)
    other = torch.rand((20, 24, 20), generator=stream(2, "scan"))
    assert abs(match_bias(simulated, other, brain)[1]) < 0.2


def test_refinement_moves_the_maps_towards_those_that_made_the_scan() -> None:
    truth = {
        "proton_density": 70 + 20 * torch.rand((16, 16, 16), generator=stream(1, "pd")),
        "r1": 0.6 + 0.4 * torch.rand((16, 16, 16), generator=stream(1, "r1")),
        "r2star": torch.full((16, 16, 16), 20.0),
        "mt_saturation": torch.ones(16, 16, 16),
    }
    scan = 3.7 * PROTOCOL.signal(truth)
    brain = torch.ones(16, 16, 16, dtype=torch.bool)
    off = 0.05 * torch.randn((16, 16, 16), generator=stream(1, "error"))
    start = {**truth, "r1": truth["r1"] * off.exp()}
    refined = refine_maps(scan, start, brain, PROTOCOL)
    before = (start["r1"] / truth["r1"]).log().square().mean()
    after = (refined["r1"] / truth["r1"]).log().square().mean()
    assert float(after) < 0.6 * float(before)
    misfits = [1 - match_bias(PROTOCOL.signal(maps), scan, brain)[1] for maps in (start, refined)]
    assert misfits[1] < 0.2 * misfits[0]
    assert torch.equal(refined["mt_saturation"], truth["mt_saturation"])
    assert float((refined["r1"] / start["r1"]).log().abs().max()) <= 0.18 + 1e-5


def test_refinement_needs_the_protocol_of_the_scan() -> None:
    with pytest.raises(ValueError, match="none was given"):
        estimate_qmri(_head(), _estimator(), refine=True, segmentation=_segmenter())
    [flair] = named_protocols(["FLAIR"])
    with pytest.raises(ValueError, match="it is a flair"):
        estimate_qmri(_head(), _estimator(), refine=True, protocol=flair, segmentation=_segmenter())
    found = estimate_qmri(
        _head(), _estimator(), refine=True, protocol=PROTOCOL, segmentation=_segmenter(), device="cpu"
    )
    plain = estimate_qmri(_head(), _estimator(), protocol=PROTOCOL, segmentation=_segmenter(), device="cpu")
    assert found.refined
    assert found.correlation > plain.correlation


def test_a_scan_of_another_contrast_is_warned_about() -> None:
    head = _head()
    grey, white = head.data == 600, head.data == 950
    blank = torch.zeros_like(head.data)
    tissues = {
        "grey_matter": replace(head, data=grey.float()),
        "white_matter": replace(head, data=white.float()),
        "csf": replace(head, data=(head.data == 300).float()),
    }
    nothing = replace(head, data=blank)
    found = Segmentation(head, Prediction(nothing, nothing, 0.5, tissues), _segmenter())
    assert contrast_warnings(head, found) == ()
    swapped = replace(head, data=torch.where(grey, 950.0, torch.where(white, 600.0, head.data)))
    [text] = contrast_warnings(swapped, found)
    assert "no T1w MPRAGE" in text
    assert "white matter 600, grey matter 950" in text
    [text] = contrast_warnings(head, replace(found, prediction=replace(found.prediction, tissues={})))
    assert all(name.split("_")[0] in text for name in NEEDED_TISSUES)


def test_any_named_contrast_is_simulated_and_others_are_refused() -> None:
    found = estimate_qmri(_head(), _estimator(), segmentation=_segmenter(), device="cpu")
    white, fluid = _head().data == 950, _head().data == 300
    flair, t2w = (found.simulate(protocol).data for protocol in named_protocols(["flair", "T2W"]))
    assert float(t2w[fluid].median()) > 1.5 * float(t2w[white].median())
    assert float(flair[fluid].median()) < float(flair[white].median())
    assert float(flair[_head().data == 0].median()) == 0
    with pytest.raises(ValueError, match=r"T1w, T2w, PDw, FLAIR.*'dwi'"):
        named_protocols(["dwi"])


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        (Volume(torch.zeros(1, 48, 48, 48), axial_affine(3, 3, 3, shape=(48, 48, 48))), "all zeros"),
        (Volume(torch.rand(1, 48, 48, 3), axial_affine(3, 3, 6, shape=(48, 48, 3))), "too small"),
        (Volume(torch.full((1, 48, 48, 48), torch.nan), axial_affine(3, 3, 3, shape=(48, 48, 48))), "NaN"),
    ],
)
def test_what_is_no_scan_is_refused(scan: Volume, words: str) -> None:
    with pytest.raises(VolumeError, match=words):
        estimate_qmri(scan, _estimator(), segmentation=_segmenter())


def test_negative_values_and_integers_change_nothing() -> None:
    plain = estimate_qmri(_head(), _estimator(), segmentation=_segmenter(), device="cpu")
    refined = estimate_qmri(
        _head(), _estimator(), refine=True, protocol=PROTOCOL, segmentation=_segmenter(), device="cpu"
    )
    for data in (_head().data - 1024, _head().data.to(torch.int16)):
        moved = replace(_head(), data=data)
        found = estimate_qmri(moved, _estimator(), segmentation=_segmenter(), device="cpu")
        assert torch.allclose(found.maps["r1"].data, plain.maps["r1"].data, atol=1e-3)
        assert found.correlation == pytest.approx(plain.correlation, abs=1e-3)
        again = estimate_qmri(
            moved, _estimator(), refine=True, protocol=PROTOCOL, segmentation=_segmenter(), device="cpu"
        )
        assert torch.allclose(again.maps["r1"].data, refined.maps["r1"].data, atol=2e-3)


def test_maps_of_another_field_than_the_scans_are_warned_of_and_not_refined() -> None:
    low = replace(PROTOCOL, field_strength=1.5)
    found = estimate_qmri(_head(), _estimator(), protocol=low, segmentation=_segmenter(), device="cpu")
    [text] = found.warnings
    assert "made at 1.5 T and the maps belong to 3 T" in text
    with pytest.raises(ValueError, match=r"1\.5 T.*leave it out"):
        estimate_qmri(_head(), _estimator(), refine=True, protocol=low, segmentation=_segmenter())
    siemens = replace(PROTOCOL, field_strength=2.89)
    assert not estimate_qmri(
        _head(), _estimator(), protocol=siemens, segmentation=_segmenter(), device="cpu"
    ).warnings


def test_a_scan_that_cuts_the_brain_off_is_warned_of() -> None:
    head = _head()
    cut = replace(head, data=head.data[:, :, :, 20:])
    found = estimate_qmri(cut, _estimator(), segmentation=_segmenter(), device="cpu")
    assert any("the brain is cut off" in text for text in found.warnings)


def test_an_estimator_that_learnt_the_brain_alone_gives_maps_of_the_brain_alone() -> None:
    config = CONFIG.model_copy(update={"brain_only": True})
    found = estimate_qmri(
        _head(), Estimator(Toy(), config, "f" * 64), segmentation=_segmenter(), device="cpu"
    )
    beyond = found.brain.data[0] == 0
    plain = estimate_qmri(_head(), _estimator(), segmentation=_segmenter(), device="cpu")
    assert float(plain.maps["r1"].data[0][beyond].max()) > 0
    for values in found.maps.values():
        assert float(values.data[0][beyond].max()) == 0


def test_what_was_not_simulated_has_no_correlation() -> None:
    nothing, scan = torch.zeros(8, 8, 8), torch.rand((8, 8, 8), generator=stream(1, "scan"))
    brain = torch.ones(8, 8, 8, dtype=torch.bool)
    matched, correlation = match_bias(nothing, scan, brain)
    assert float(matched.abs().max()) == 0
    assert math.isnan(correlation)
    maps = {"proton_density": nothing, "r1": nothing, "r2star": nothing}
    with pytest.raises(ValueError, match="none of the brain"):
        refine_maps(scan, maps, brain, PROTOCOL)


@pytest.fixture
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Estimator, "open", classmethod(lambda cls, name="": _estimator()))
    monkeypatch.setattr(Model, "open", classmethod(lambda cls, name="": _segmenter()))


@pytest.mark.usefixtures("_toys")
def test_the_command_writes_bids_names_and_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = tmp_path / "sub-01_ses-2_T1w.nii.gz"
    _head().save(scan)
    out = tmp_path / "out"
    assert main(["estimate-qmri", str(scan), "-o", str(out), "--simulate", "flair,t2w"]) == 0
    assert "correlates" in capsys.readouterr().out
    names = {path.name.removeprefix("sub-01_ses-2_desc-") for path in out.glob("*.nii.gz")}
    maps = {f"estimated_{suffix}.nii.gz" for suffix in ("PDmap", "R1map", "R2starmap", "MTsat")}
    others = {"brain_mask.nii.gz", "resimulated_T1w.nii.gz", "simulated_FLAIR.nii.gz", "simulated_T2w.nii.gz"}
    assert names == maps | others
    assert (out / "sub-01_ses-2_desc-estimated_maps.png").is_file()
    facts = json.loads((out / "sub-01_ses-2_desc-estimated_R1map.json").read_text())
    assert (facts["Units"], facts["MagneticFieldStrength"], facts["Sources"]) == ("1/s", 3.0, [scan.name])
    assert Volume.load(out / "sub-01_ses-2_desc-estimated_R1map.nii.gz").grid.difference(_head().grid) is None
    again = json.loads((out / "sub-01_ses-2_desc-resimulated_T1w.json").read_text())
    assert again["CorrelationWithScan"] > 0.9
    assert again["InversionTime"] == 0.9
    assert "sub-01_ses-2" in (out / "estimates.tsv").read_text()
    command = ["estimate-qmri", str(scan), "-o", str(out)]
    same = [*command, "--simulate", "flair,t2w"]
    assert main(same) == 0
    assert "was there" in capsys.readouterr().out
    for other in (command, [*same, "--flips"]):
        assert main(other) == 1
        assert "another scan or setting; use --overwrite" in capsys.readouterr().err
    (out / "sub-01_ses-2_desc-simulated_T2w.nii.gz").unlink()
    assert main(same) == 1
    assert "lack some of their files; use --overwrite" in capsys.readouterr().err
    assert main([*same, "--overwrite"]) == 0
    assert (out / "sub-01_ses-2_desc-simulated_T2w.nii.gz").is_file()
    assert main([*command, "--overwrite"]) == 0


@pytest.mark.usefixtures("_toys")
def test_the_command_takes_the_protocol_of_the_sidecar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan, sidecar = tmp_path / "head.nii.gz", tmp_path / "head.json"
    _head().save(scan)
    out = tmp_path / "out"
    assert main(["estimate-qmri", str(scan), "-o", str(out), "--refine"]) == 1
    content = {"ScanningSequence": ["GR", "IR"], "RepetitionTime": 2.3, "EchoTime": 0.003}
    sidecar.write_text(json.dumps({**content, "InversionTime": 1.1, "FlipAngle": 8}))
    assert main(["estimate-qmri", str(scan), "-o", str(out), "--refine"]) == 0
    facts = json.loads((out / "head_desc-resimulated_T1w.json").read_text())
    assert facts["RefinedToProtocol"]
    assert facts["InversionTime"] == 1.1
    reading = scan_protocol(scan)
    assert reading is not None
    assert isinstance(reading.protocol, Mprage)
    assert reading.protocol.flip_angle == 8
    assert facts["ProtocolAssumed"].keys() == reading.assumed.keys()
    assert any("had to be assumed" in text for text in facts["Warnings"])
    sidecar.write_text(json.dumps({**content, "FlipAngle": 8}))
    assert scan_protocol(scan) is None
    capsys.readouterr()
    assert main(["estimate-qmri", str(scan), "-o", str(tmp_path / "new"), "--refine"]) == 1
    assert "InversionTime" in capsys.readouterr().err


@pytest.mark.usefixtures("_toys")
def test_folders_and_data_sets_are_taken_for_their_t1w_scans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, empty, out = tmp_path / "data", tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    for subject in ("sub-1", "sub-2"):
        (data / subject / "anat").mkdir(parents=True)
        _head().save(data / subject / "anat" / f"{subject}_T1w.nii.gz")
    _head().save(data / "sub-1" / "anat" / "sub-1_FLAIR.nii.gz")
    assert main(["estimate-qmri", str(data), str(empty), "-o", str(out)]) == 1
    printed = capsys.readouterr()
    assert "sub-1_FLAIR.nii.gz is left out: it is not called T1w" in printed.err
    assert f"{empty} is a folder without images" in printed.err
    assert sorted(path.name for path in out.rglob("*_R1map.nii.gz")) == [
        f"sub-{k}_desc-estimated_R1map.nii.gz" for k in (1, 2)
    ]
    assert not list(out.glob(".anystroke*"))
    capsys.readouterr()
    assert main(["estimate-qmri", str(data / "sub-1" / "anat"), "-o", str(tmp_path / "flat")]) == 0
    assert (tmp_path / "flat" / "sub-1_desc-estimated_R1map.nii.gz").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of the two"),
        (["SCAN", "--dataset", "DIR"], "one of the two"),
        (["NOWHERE.nii"], "does not exist"),
        (["SCAN", "--simulate", "dwi"], "expected a contrast among"),
        (["SCAN", "--sidecar", "NOWHERE.json"], "--sidecar"),
        (["SCAN", "--sidecar", "SCAN"], "tells no protocol"),
        (["SCAN", "--model", "default"], "expected a model of the task qmri"),
        (["SCAN", "--model", "nowhere"], "no model 'nowhere'"),
    ],
)
def test_wrong_usage_is_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = tmp_path / "head.nii.gz"
    _head().save(scan)
    given = [{"SCAN": str(scan), "DIR": str(tmp_path)}.get(each, each) for each in arguments]
    assert main(["estimate-qmri", *given, "-o", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    [line] = printed.err.splitlines()
    assert words in line


@pytest.mark.usefixtures("_toys")
def test_a_data_set_becomes_maps_that_a_recipe_trains_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "maps"
    data.mkdir()
    rows = ["image\tmask"]
    for name in ("a", "b"):
        head = _head()
        head.save(data / f"{name}_T1w.nii.gz")
        lesion = torch.zeros_like(head.data)
        lesion[:, 20:26, 24:30, 20:26] = 1
        Volume(lesion.to(torch.uint8), head.affine).save(data / f"{name}_mask.nii.gz")
        rows.append(f"{name}_T1w.nii.gz\t{name}_mask.nii.gz")
    (data / "pairs.tsv").write_text("\n".join(rows) + "\n")
    assert main(["estimate-qmri", "--dataset", str(data / "pairs.tsv"), "-o", str(out)]) == 0
    subjects = find_map_subjects(out)
    assert [subject.name for subject in subjects] == ["sub-aT1w", "sub-bT1w"]
    assert all(subject.brain is not None for subject in subjects)
    settings = TrainingSettings.model_validate(
        {
            "name": "toy",
            "architecture": "tiny_unet",
            "classes": "lesion",
            "grid": {"spacing": 6.0, "shapes": [[32, 32, 32]]},
            "sources": [{"kind": "maps", "maps": MapSettings(data=(out,), lesion_centred=1.0).model_dump()}],
            "optimiser": {"steps": 2, "workers": 0, "precision": "float32"},
        }
    )
    assert (train(settings, tmp_path / "run") / "model.safetensors").is_file()
    once = partial(estimate_dataset, data / "pairs.tsv", out, _estimator(), _segmenter(), EstimateOptions())
    assert [outcome.status for outcome in once()] == ["kept", "kept"]
    brain, mask = (
        Volume.load(out / "sub-aT1w" / f"sub-aT1w_{name}.nii.gz")
        for name in ("desc-brain_mask", "label-L_mask")
    )
    assert bool((brain.data[mask.data > 0] > 0).all())
    mended = torch.zeros_like(mask.data)
    mended[:, 22:26, 24:30, 20:26] = 1
    Volume(mended.to(torch.uint8), mask.affine).save(data / "a_mask.nii.gz", overwrite=True)
    first, second = once()
    assert (first.status, second.status) == ("failed", "kept")
    assert "use --overwrite" in first.message


def test_a_scan_that_fails_in_any_way_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = []
    for name in ("a", "b"):
        _head().save(tmp_path / f"{name}.nii.gz")
        scans.append(Input.of_file(tmp_path / f"{name}.nii.gz"))

    def out_of_memory(volume: Volume, *_: object, **options: object) -> QmriEstimate:
        if not failed:
            failed.append("a")
            raise RuntimeError("not enough memory")
        return estimate_qmri(volume, _estimator(), segmentation=_segmenter(), device="cpu")

    failed: list[str] = []
    monkeypatch.setattr("anystroke.tasks.qmri.files.estimate_qmri", out_of_memory)
    out = tmp_path / "out"
    outcomes = list(estimate_files(scans, out, _estimator(), _segmenter(), EstimateOptions()))
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert "not enough memory" in outcomes[0].message
    assert len((out / "estimates.tsv").read_text().splitlines()) == 2


def test_subjects_have_names_that_bids_allows() -> None:
    assert subject_name("sub-M2001_ses-1_run-2_T1w") == "sub-M2001ses1run2T1w"
    assert subject_name("case_001_0000") == "sub-case0010000"


def test_an_estimator_that_is_not_there_is_named() -> None:
    with pytest.raises(CheckpointError, match="no model 'nowhere'"):
        estimate_qmri(_head(), "nowhere")
    assert estimation.TYPICAL == "typical"


def test_maps_end_where_a_stripped_scan_does() -> None:
    head = _head()
    dark = head.data.clone()
    dark[0, 20, 20, 20] = 0
    outside = dark <= 0
    found = estimate_maps(replace(head, data=dark), _estimator(Lopsided()))
    values = found["proton_density"].data
    outside[0, 20, 20, 20] = False
    assert float(values[outside].max()) == 0.0
    assert float(values[0, 20, 20, 20]) > 0.0
