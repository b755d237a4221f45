import torch
from scipy import ndimage

from anystroke.core.volume import Volume
from anystroke.tasks.segmentation.mask import mask_of
from anystroke.tasks.segmentation.small_parts import SmallParts, mask_at
from stand_in import CONFIG

RULE = SmallParts(below_ml=1.0, certain=0.95, threshold=0.4)


def _heads() -> torch.Tensor:
    """Three blurred lesions: small and certain, small and unsure, large and certain."""
    data = torch.zeros(48, 24, 24)
    data[5:8, 5:8, 5:8] = 1.0
    data[18:21, 5:8, 5:8] = 0.7
    data[30:44, 4:18, 4:18] = 1.0
    return torch.from_numpy(ndimage.uniform_filter(data.numpy(), 3))


def test_only_small_parts_of_which_the_network_is_certain_lose_their_rims() -> None:
    probability = _heads()
    mask = mask_at(probability, 0.1, RULE, voxel_ml=0.008)
    assert torch.equal(mask[:12], probability[:12] >= 0.4)
    assert torch.equal(mask[12:], probability[12:] >= 0.1)
    assert int(mask[:12].sum()) < int((probability[:12] >= 0.1).sum())


def test_without_a_rule_or_above_its_threshold_the_mask_is_plain() -> None:
    probability = _heads()
    assert torch.equal(mask_at(probability, 0.1, None, voxel_ml=0.008), probability >= 0.1)
    assert torch.equal(mask_at(probability, 0.5, RULE, voxel_ml=0.008), probability >= 0.5)
    assert not bool(mask_at(torch.zeros(4, 4, 4), 0.1, RULE, voxel_ml=0.008).any())


def test_a_threshold_of_ones_own_is_that_of_all_voxels() -> None:
    config = CONFIG.model_copy(update={"threshold": 0.1, "small_parts": RULE})
    probability = Volume(_heads()[None], torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    own = mask_of(probability, config, 0.1)
    assert torch.equal(own.data[0] > 0, mask_at(probability.data[0], 0.1, RULE, voxel_ml=0.008))
    assert torch.equal(mask_of(probability, config, 0.2).data > 0, probability.data >= 0.2)
