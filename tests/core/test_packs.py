import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import maximum_filter, minimum_filter
from torch.nn.functional import max_pool3d

from anystroke.anatomy.lesions.bank import LesionMask, load_bank, pack_mask, save_bank, unpack_mask
from anystroke.anatomy.tissues.anatomies import Anatomy, build_anatomy, load_anatomies, save_anatomies
from anystroke.anatomy.tissues.cropping import filled_box
from anystroke.anatomy.tissues.labels import SYNTHSEG, _dilate, clean, to_tissues
from anystroke.anatomy.tissues.mixing import LabelField, ShareField
from anystroke.core.packs import PackedTensor, PackError, content_sha256
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from phantoms import ellipsoid_anatomy, sphere_lesion


@pytest.mark.parametrize("shape", [(3,), (5, 7, 9), (1, 1, 1), (0, 4)])
def test_what_is_packed_comes_back(shape: tuple[int, ...]) -> None:
    numbers = torch.randint(0, 128, shape, generator=stream(1, "numbers"), dtype=torch.uint8)
    for tensor in (numbers, numbers > 60):
        packed = PackedTensor.of(tensor)
        again = packed.unpack()
        assert again.dtype == tensor.dtype
        assert packed.shape == tuple(tensor.shape)
        assert torch.equal(again, tensor)


def test_a_hash_is_of_the_content_whatever_the_order_of_metadata(tmp_path: Path) -> None:
    about = {f"key {number}": str(number) for number in range(12)}
    hashes = set()
    for number in range(6):
        path = tmp_path / f"{number}.safetensors"
        save_file({"x": torch.arange(5)}, path, metadata=about)
        hashes.add(content_sha256(path))
    assert len(hashes) == 1
    save_file({"x": torch.arange(1, 6)}, path, metadata=about)
    assert content_sha256(path) not in hashes
    save_file({"x": torch.arange(5)}, path, metadata=about | {"key 0": "1"})
    assert content_sha256(path) not in hashes


def test_booleans_are_held_as_bits() -> None:
    noise = torch.rand((40, 40, 40), generator=stream(1, "noise")) > 0.5
    assert len(PackedTensor.of(noise).data) < noise.numel() / 7.5


def test_floats_are_not_packed() -> None:
    with pytest.raises(ValueError, match="expected uint8 or booleans"):
        PackedTensor.of(torch.zeros(3))


def test_a_packed_mask_is_the_mask() -> None:
    mask = sphere_lesion()
    packed = unpack_mask(pack_mask(mask))
    for one, other in ((mask, packed), (mask.mirrored(), packed.mirrored())):
        assert torch.equal(one.mask, other.mask)
        assert torch.equal(one.affine, other.affine)
        assert torch.equal(one.centre, other.centre)
        assert (one.volume_ml, one.shape, one.name) == (other.volume_ml, other.shape, other.name)


def test_anatomies_come_back(tmp_path: Path) -> None:
    shares = torch.randint(0, 14, (17, 4, 5, 6), generator=stream(1, "shares")).float() / 255
    soft = Anatomy("soft", ShareField(shares, torch.eye(4).double() / 3), torch.eye(4).double() / 7)
    before = [ellipsoid_anatomy(), soft]
    save_anatomies(before, tmp_path / "a.safetensors")
    hard, again = load_anatomies(tmp_path / "a.safetensors")
    assert isinstance(hard.tissues, LabelField)
    assert isinstance(again.tissues, ShareField)
    assert isinstance(before[0].tissues, LabelField)
    assert torch.equal(hard.tissues.labels, before[0].tissues.labels)
    assert torch.equal(again.tissues.shares, shares)
    for one, other in zip(before, (hard, again), strict=True):
        assert torch.equal(one.tissues.affine, other.tissues.affine)
        assert torch.equal(one.to_mni, other.to_mni)


def test_a_pack_of_another_version_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "lesions.safetensors"
    save_file({"0.mask": torch.ones(1)}, old, metadata={"names": json.dumps(["a"])})
    with pytest.raises(PackError, match=r"packed by another; delete the folder .* again"):
        load_bank(old)
    save_bank([sphere_lesion()], tmp_path / "masks.safetensors")
    with pytest.raises(PackError, match="expected anatomies"):
        load_anatomies(tmp_path / "masks.safetensors")


def test_voxels_that_all_neighbours_equal_are_marked() -> None:
    coarse = torch.randint(0, 3, (4, 3, 5), generator=stream(1, "labels"), dtype=torch.uint8)
    labels = coarse.repeat_interleave(4, 0).repeat_interleave(5, 1).repeat_interleave(3, 2)
    padded = np.pad(labels.numpy(), 2)
    alike = minimum_filter(padded, 3) == maximum_filter(padded, 3)
    assert alike.any()
    marked = LabelField(labels, torch.eye(4).double()).marked.numpy()
    assert np.array_equal(marked >> 7, alike)
    assert np.array_equal(marked & 127, padded)


@pytest.mark.parametrize("radius", [1, 2, 3, 12])
def test_dilation_is_the_largest_value_within_a_cube(radius: int) -> None:
    mask = torch.rand((20, 9, 31), generator=stream(1, "mask")) > 0.995
    pooled = max_pool3d(mask.float()[None], 2 * radius + 1, stride=1, padding=radius)[0] > 0
    assert torch.equal(_dilate(mask, radius), pooled)


def test_the_box_holds_all_that_is_marked_in_any_memory_order() -> None:
    mask = torch.zeros((6, 7, 8), dtype=torch.bool)
    mask[2, 3, 4] = mask[3, 5, 4] = True
    for same in (mask, mask.permute(2, 1, 0).contiguous().permute(2, 1, 0)):
        assert filled_box(same) == (slice(2, 4), slice(3, 6), slice(4, 5))
        assert filled_box(same, 3) == (slice(0, 6), slice(0, 7), slice(1, 8))
    with pytest.raises(ValueError, match="at least one marked voxel"):
        filled_box(mask & False)


@pytest.mark.parametrize("skin", [True, False])
def test_cutting_the_air_away_first_changes_no_tissue(skin: bool) -> None:
    """The anatomy is that of the whole map: fat is found by skin, or by the air where there is no skin."""
    distance = torch.stack(torch.meshgrid(*(torch.arange(50.0) - 22,) * 3, indexing="ij")).norm(dim=0)
    labels = torch.zeros((50, 50, 50))
    for radius, label in ((20, 511 if skin else 258), (18, 258), (12, 515), (10, 3), (5, 2)):
        labels[distance < radius] = label
    labels[45, 45, 45] = 24
    volume = Volume(labels[None], torch.eye(4).double() * torch.tensor([1.3, 1.3, 1.3, 1.0]).double())
    anatomy = build_anatomy(volume, SYNTHSEG, torch.eye(4).double(), name="a")
    whole = to_tissues(clean(labels, SYNTHSEG, spacing=1.3), SYNTHSEG, spacing=1.3)
    box = filled_box(whole > 0)
    assert isinstance(anatomy.tissues, LabelField)
    assert torch.equal(anatomy.tissues.labels, whole[box])
    assert float(anatomy.tissues.affine[0, 3]) == pytest.approx(1.3 * box[0].start)


def test_masks_may_be_made_of_a_tensor_alone() -> None:
    mask = LesionMask("a", torch.ones((2, 3, 4), dtype=torch.bool), torch.eye(4).double())
    assert mask.volume_ml == 0.024
