import warnings
from dataclasses import replace

import pytest
import torch

from anystroke.anatomy.registration import rigid as rigid_registration
from anystroke.anatomy.registration.affine import RegistrationError
from anystroke.core.volume import Volume
from anystroke.models.passes import PredictionWarning
from anystroke.tasks.segmentation import together
from anystroke.tasks.segmentation.predict import segment
from anystroke.tasks.segmentation.together import fuse, moved, segment_together
from stand_in import axial_affine, dice, lesion_truth, phantom, rotation, stand_in_model

THIN, THICK = (48, 56, 40), (48, 56, 30)
FINE, COARSE = axial_affine(4.0, 4.0, 4.0, shape=THIN), axial_affine(4.0, 4.0, 6.0, shape=THICK)


def _registration(affine: torch.Tensor, problem: str = "") -> rigid_registration.RigidRegistration:
    return rigid_registration.RigidRegistration(affine, 0.0, 0.0, 0.0, 0.0, 1.0, problem)


@pytest.fixture
def moved_head(monkeypatch: pytest.MonkeyPatch) -> tuple[Volume, Volume, torch.Tensor]:
    """A thin scan, a thick one of the head that has turned, and the move back, which is known."""
    move = rotation(10.0, 15.0)
    move[:3, 3] = torch.tensor([6.0, -4.0, 9.0])
    thick = phantom(COARSE, THICK)
    back = torch.linalg.inv(move)
    monkeypatch.setattr(together, "register_rigid", lambda _moving, _fixed: _registration(back))
    return phantom(FINE, THIN), Volume(thick.data, move @ thick.affine), move


@pytest.mark.parametrize("fusion", ["probability", "logit"])
def test_fused_on_the_grid_of_each(moved_head: tuple[Volume, Volume, torch.Tensor], fusion: str) -> None:
    thin, thick, _ = moved_head
    result = segment_together([thick, thin], stand_in_model(), fusion=fusion, device="cpu")  # type: ignore[arg-type]
    assert result.reference == 1
    assert result.apart == {}
    for fused, scan, truth in (
        (result.fused[1], thin, lesion_truth(FINE, THIN)),
        (result.fused[0], thick, lesion_truth(COARSE, THICK)),
    ):
        torch.testing.assert_close(fused.mask.affine, scan.affine)
        assert fused.mask.shape == scan.shape
        assert dice(fused.mask.data, truth) > 0.9
    [agreement] = result.agreement
    assert agreement.dice is not None
    assert agreement.dice > 0.9


def test_the_mean_is_over_what_sees_the_voxel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        together, "register_rigid", lambda *_: _registration(torch.eye(4, dtype=torch.float64))
    )
    scan = phantom(FINE, THIN)
    lower = Volume(scan.data[:, :, :, :25].contiguous(), scan.affine)
    model = stand_in_model()
    alone = [segment(volume, model, device="cpu") for volume in (scan, lower)]
    values = [
        replace(alone[0].probability, data=torch.full_like(alone[0].probability.data, 0.8)),
        replace(alone[1].probability, data=torch.full_like(alone[1].probability.data, 0.4)),
    ]
    given = [
        replace(a, prediction=replace(a.prediction, probability=p))
        for a, p in zip(alone, values, strict=True)
    ]
    mean = fuse(given).fused[0].probability.data
    assert torch.allclose(mean[..., :24], torch.tensor(0.6))
    assert torch.allclose(mean[..., 26:], torch.tensor(0.8))
    logits = fuse(given, fusion="logit").fused[0].probability.data
    expected = torch.sigmoid(torch.logit(torch.tensor([0.8, 0.4])).mean())
    assert torch.allclose(logits[..., :24], expected)


@pytest.mark.parametrize("fails", [True, False])
def test_what_does_not_register_is_flagged_and_segmented_apart(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def register(_moving: Volume, _fixed: Volume) -> rigid_registration.RigidRegistration:
        if fails:
            raise RegistrationError("the optimiser went astray")
        return _registration(torch.eye(4, dtype=torch.float64), "the heads differ")

    monkeypatch.setattr(together, "register_rigid", register)
    with pytest.warns(PredictionWarning, match="contrast 2 does not register to contrast 1"):
        result = segment_together(
            [phantom(FINE, THIN), phantom(COARSE, THICK)], stand_in_model(), device="cpu"
        )
    assert list(result.apart) == [1]
    assert torch.equal(result.fused[1].mask.data, result.alone[1].mask.data)
    assert result.agreement[0].dice is None
    assert any("registration failed" in reason for reason in result.fused[1].reasons)


def test_one_contrast_alone_is_what_segment_gives() -> None:
    scan = phantom(FINE, THIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = segment_together([scan], stand_in_model(), device="cpu")
    assert torch.equal(result.fused[0].mask.data, segment(scan, stand_in_model(), device="cpu").mask.data)
    with pytest.raises(ValueError, match="at least one"):
        segment_together([], stand_in_model())
    with pytest.raises(ValueError, match="'max'"):
        segment_together([scan], stand_in_model(), fusion="max")  # type: ignore[arg-type]


def test_moving_keeps_voxels() -> None:
    volume = phantom(FINE, THIN)
    there = moved(volume, rotation(5, 5), torch.eye(4, dtype=torch.float64))
    assert there.data is volume.data
    torch.testing.assert_close(
        moved(there, torch.eye(4, dtype=torch.float64), rotation(5, 5)).affine, volume.affine
    )
