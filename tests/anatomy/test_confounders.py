import pytest
import torch

from anystroke.anatomy.confounders import balls, draw_confounders, white_matter_hyperintensities
from anystroke.rng import stream


def _brain() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    axis = torch.arange(-36, 37).float() * 2
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    ventricle = ((x / 12) ** 2 + (y / 25) ** 2 + (z / 12) ** 2 < 1).float()
    deep = (((x.abs() - 22) / 8) ** 2 + (y / 15) ** 2 + (z / 12) ** 2 < 1).float()
    white = (x**2 + y**2 + z**2 < 58**2).float() * (1 - ventricle) * (1 - deep)
    return white, deep, ventricle


@pytest.mark.parametrize("volume_ml", [1.0, 6.0, 40.0])
def test_hyperintensities_have_their_volume_and_lie_in_white_matter_near_the_ventricles(
    volume_ml: float,
) -> None:
    white, _, ventricle = _brain()
    near = torch.nn.functional.max_pool3d(ventricle[None], 9, 1, padding=4)[0]
    for seed in range(4):
        share = white_matter_hyperintensities(
            white, ventricle, spacing=2.0, volume_ml=volume_ml, rng=stream(seed, "wmh")
        )
        assert float(share.sum()) * 0.008 == pytest.approx(volume_ml, rel=0.4)
        assert bool((share <= white).all())
        inside = float(share[near > 0].mean())
        assert inside > 1.5 * float(share[(white > 0) & (near == 0)].mean())


def test_no_volume_and_no_white_matter_give_nothing() -> None:
    white, _, ventricle = _brain()
    for tissue, volume in ((white, 0.0), (torch.zeros_like(white), 5.0)):
        share = white_matter_hyperintensities(
            tissue, ventricle, spacing=2.0, volume_ml=volume, rng=stream(1, "wmh")
        )
        assert float(share.sum()) == 0
    with pytest.raises(ValueError, match="got -1"):
        white_matter_hyperintensities(white, ventricle, spacing=2.0, volume_ml=-1, rng=stream(1))


def test_balls_have_the_volume_of_their_radii() -> None:
    room = torch.ones(60, 60, 60)
    for radius in (3.0, 5.0, 8.0):
        share = balls(room, spacing=1.0, count=1, radius_mm=(radius, radius), rng=stream(3, "ball"))
        touches = bool(share[0].any() or share[-1].any() or share[:, 0].any() or share[:, -1].any())
        if not touches and not bool(share[..., 0].any() or share[..., -1].any()):
            assert float(share.sum()) == pytest.approx(4.19 * radius**3, rel=0.1)
    assert float(balls(0 * room, spacing=1.0, count=3, radius_mm=(2, 3), rng=stream(1)).sum()) == 0


def test_shares_of_a_patient_fit_into_their_voxels_and_come_with_their_probability() -> None:
    white, deep, ventricle = _brain()
    counts = {"leukoaraiosis": 0, "lacunes": 0, "microbleeds": 0}
    for seed in range(30):
        shares = draw_confounders(
            white,
            deep,
            ventricle,
            spacing=2.0,
            leukoaraiosis=0.5,
            lacunes=0.5,
            microbleeds=0.5,
            rng=stream(seed, "patient"),
        )
        names = ("white_matter_hyperintensity", "ventricular_csf", "haemosiderin_rim")
        for key, name in zip(counts, names, strict=True):
            counts[key] += name in shares
        if shares:
            total = sum(shares.values(), torch.zeros(()))
            assert float(total.max()) <= 1 + 1e-5
            assert float(total[(white + deep) == 0].sum()) == 0
    assert all(7 <= count <= 23 for count in counts.values())
