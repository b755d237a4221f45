import nibabel as nib
import pytest
import torch
from torch import Tensor, nn

from anystroke.core.volume import Volume, VolumeError
from anystroke.models.passes import Processing, fast_bfloat16
from anystroke.tasks.segmentation.mask import count_lesions, keep_certain, predict, remove_small, within_brain
from anystroke.tasks.segmentation.predict import segment
from stand_in import CONFIG, Brightest, axial_affine, dice, lesion_truth, phantom, stand_in_model

SHAPE = (60, 70, 56)
AFFINE = axial_affine(3.0, 3.0, 3.0, shape=SHAPE)


def test_lesion_is_found_in_the_scans_own_grid() -> None:
    scan = phantom(AFFINE, SHAPE)
    result = predict(scan, Brightest(), CONFIG, device="cpu")
    assert dice(result.mask.data, lesion_truth(AFFINE, SHAPE)) > 0.93
    assert result.probability.data.dtype == torch.float32
    assert result.mask.data.dtype == torch.uint8
    for volume in (result.probability, result.mask):
        assert volume.shape == scan.shape
        assert torch.equal(volume.affine, scan.affine)
    assert set(result.seconds) == {"preprocessing", "network", "resampling", "mask"}
    assert float(result.probability.data.min()) >= 0.0
    assert float(result.probability.data.max()) <= 1.0


def test_threshold_is_applied_to_the_written_probability() -> None:
    scan = phantom(AFFINE, SHAPE)
    result = predict(scan, Brightest(), CONFIG, threshold=0.9, device="cpu")
    assert torch.equal(result.mask.data.bool(), result.probability.data >= 0.9)
    assert result.threshold == 0.9


def test_temperature_softens_the_probability() -> None:
    scan = phantom(AFFINE, SHAPE)
    sharp, soft = (
        predict(
            scan, Brightest(), CONFIG.model_copy(update={"temperature": t}), device="cpu"
        ).probability.data
        for t in (1.0, 8.0)
    )
    assert float(soft.max()) < float(sharp.max())


def test_classes_that_are_asked_for_sum_to_one_inside_the_head_box() -> None:
    scan = phantom(AFFINE, SHAPE)
    result = predict(scan, Brightest(), CONFIG, tissues=("background", "tissue"), device="cpu")
    total = sum((t.data for t in result.tissues.values()), result.probability.data)
    assert float((total[:, 15:45, 15:55, 15:40] - 1.0).abs().max()) < 1e-5


def test_mirrored_averaging_is_symmetric_and_does_not_move_the_lesion() -> None:
    scan = phantom(AFFINE, SHAPE)
    plain = predict(scan, Brightest(), CONFIG, device="cpu")
    flipped = predict(scan, Brightest(), CONFIG, flip=True, device="cpu")
    assert torch.allclose(plain.probability.data, flipped.probability.data, atol=1e-5)


class _LeftHalf(nn.Module):
    """Calls the first half of the x axis lesion."""

    def forward(self, image: Tensor) -> Tensor:
        lesion = torch.full_like(image, -20.0)
        lesion[:, :, : image.shape[2] // 2] = 20.0
        return torch.cat([torch.zeros_like(image), torch.zeros_like(image) - 20.0, lesion], dim=1)


def test_mirroring_is_undone_before_averaging() -> None:
    result = predict(phantom(AFFINE, SHAPE), _LeftHalf(), CONFIG, flip=True, device="cpu")
    assert torch.allclose(result.probability.data[0, 20:40, 20:45, 20:40], torch.tensor(0.5), atol=1e-3)


def test_windows_give_what_one_pass_gives() -> None:
    scan = phantom(AFFINE, SHAPE)

    class Fixed(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(image), image - 10.0, image - 1.0], dim=1)

    whole = predict(scan, Fixed(), CONFIG, device="cpu")
    windows = predict(
        scan, Fixed(), CONFIG, processing=Processing(window=32, one_pass_voxels=1000), device="cpu"
    )
    assert torch.allclose(whole.probability.data, windows.probability.data, atol=1e-4)


def test_small_components_are_removed_by_volume() -> None:
    mask = torch.zeros(1, 20, 20, 20, dtype=torch.bool)
    mask[0, 2:5, 2:5, 2:5] = True
    mask[0, 5, 5, 5] = True  # touches by a corner: the same lesion
    mask[0, 10:12, 10, 10] = True
    assert count_lesions(mask) == 2
    kept = remove_small(mask, 3)
    assert int(kept.sum()) == 28
    assert torch.equal(remove_small(mask, 2), mask)
    assert not bool(remove_small(mask, 29).any())


def test_minimum_volume_is_in_ml() -> None:
    scan = phantom(AFFINE, SHAPE)
    volume = segment(scan, stand_in_model(), device="cpu").lesion_volume
    assert volume == pytest.approx(57.5, rel=0.1)  # 4/3 pi 2.2 x 2.6 x 2.4 cm
    assert segment(scan, stand_in_model(), min_volume=volume + 1, device="cpu").lesion_count == 0
    assert segment(scan, stand_in_model(), min_volume=volume - 1, device="cpu").lesion_count == 1


def test_options_out_of_range_are_refused() -> None:
    scan = phantom(AFFINE, SHAPE)
    with pytest.raises(ValueError, match="threshold"):
        predict(scan, Brightest(), CONFIG, threshold=1.5)
    with pytest.raises(ValueError, match="-1"):
        predict(scan, Brightest(), CONFIG, min_volume=-1)
    with pytest.raises(ValueError, match="no class 'bone'"):
        predict(scan, Brightest(), CONFIG, tissues=("bone",))


def test_images_come_as_volume_path_or_nibabel(tmp_path: object) -> None:
    scan = phantom(AFFINE, SHAPE)
    image = nib.Nifti1Image(scan.data[0].numpy(), AFFINE.numpy())
    path = f"{tmp_path}/scan.nii.gz"
    scan.save(path)
    masks = [segment(i, stand_in_model(), device="cpu").mask.data for i in (scan, image, path)]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    with pytest.raises(VolumeError, match="give its affine"):
        segment(scan.data.numpy(), stand_in_model())


def test_a_scan_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(VolumeError, match="all zeros"):
        segment(Volume(torch.zeros(1, *SHAPE), AFFINE), stand_in_model())


def test_bfloat16_only_where_it_is_in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not fast_bfloat16(torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert fast_bfloat16(torch.device("cpu"))
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not fast_bfloat16(torch.device("cpu"))
    assert not fast_bfloat16(torch.device("mps"))


def test_what_lies_outside_the_brain_is_no_lesion() -> None:
    brain = torch.zeros((40, 40, 40), dtype=torch.bool)
    brain[5:30, 5:30, 5:30] = True
    lesion = torch.zeros_like(brain)
    lesion[10:16, 10:16, 10:16] = True
    lesion[24:33, 12:20, 12:20] = True
    lesion[34:38, 34:38, 34:38] = True
    lesion[32, 5, 5] = True
    brain &= ~lesion
    keep = within_brain(lesion, brain)
    assert bool(keep[10:16, 10:16, 10:16].all())
    assert bool(keep[24:33, 12:20, 12:20].all())
    assert not bool(keep[34:38, 34:38, 34:38].any())
    assert not bool(keep[32, 5, 5])
    assert int((~keep).sum()) == 65
    assert bool(within_brain(lesion, torch.zeros_like(brain)).all())


def test_a_brain_class_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="no class 'grey_matter'"):
        predict(
            Volume(torch.rand(1, 40, 40, 40), torch.diag(torch.tensor([4.0, 4, 4, 1]))),
            stand_in_model().network,
            stand_in_model().config.model_copy(update={"brain": ("grey_matter",)}),
        )


def test_a_part_that_is_nowhere_certain_is_left_out_of_the_mask() -> None:
    scan = phantom(AFFINE, SHAPE)
    soft = CONFIG.model_copy(update={"temperature": 8.0})
    plain = predict(scan, Brightest(), soft, threshold=0.3, device="cpu")
    highest = float(plain.probability.data.max())
    for certain, kept in ((highest - 0.01, True), (highest + 0.001, False)):
        config = soft.model_copy(update={"certain": certain})
        found = predict(scan, Brightest(), config, threshold=0.3, device="cpu")
        assert bool(found.mask.data.any()) is kept
        assert torch.equal(found.probability.data, plain.probability.data)


def test_certainty_is_judged_part_by_part() -> None:
    probability = torch.zeros(1, 12, 6, 6)
    probability[0, 1:4, 1:4, 1:4] = 0.6
    probability[0, 7:10, 1:4, 1:4] = 0.6
    probability[0, 9, 3, 3] = 0.95
    kept = keep_certain(probability >= 0.5, probability, 0.9)
    assert not bool(kept[0, :6].any())
    assert int(kept.sum()) == 27
    assert not bool(keep_certain(probability >= 0.99, probability, 0.9).any())
