import pytest
import torch
from scipy.ndimage import label

from anystroke.anatomy.lesions.bank import blob_lesion
from anystroke.core.rng import stream

CENTRE = (-40.0, -5.0, 12.0)


@pytest.mark.parametrize("volume", [0.1, 1.0, 30.0, 150.0])
def test_volume_place_and_wholeness(volume: float) -> None:
    for seed in range(3):
        lesion = blob_lesion(centre=CENTRE, volume_ml=volume, rng=stream(seed, "blob"))
        assert lesion.volume_ml == pytest.approx(volume, rel=0.05)
        assert label(lesion.mask.numpy())[1] == 1
        distance = (lesion.centre - torch.tensor(CENTRE, dtype=torch.float64)).norm()
        assert float(distance) < 1 + 10 * volume ** (1 / 3)


def test_it_is_random_but_reproducible_and_no_ball() -> None:
    first, again, other = (
        blob_lesion(centre=CENTRE, volume_ml=20.0, rng=stream(seed, "blob")) for seed in (1, 1, 2)
    )
    assert torch.equal(first.mask, again.mask)
    assert first.mask.shape != other.mask.shape or not torch.equal(first.mask, other.mask)
    sides = [n for blob in (first, other) for n in blob.mask.shape]
    assert max(sides) > 1.15 * min(sides)


@pytest.mark.parametrize("volume", [0.0, -3.0, 1000.0, float("nan")])
def test_impossible_volumes_are_refused(volume: float) -> None:
    with pytest.raises(ValueError, match="400 ml"):
        blob_lesion(centre=CENTRE, volume_ml=volume, rng=stream(1, "blob"))
