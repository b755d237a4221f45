import pytest
import torch
from scipy.ndimage import label

from anystroke.anatomy.lookalikes.confounders import (
    balls,
    draw_confounders,
    white_matter_hyperintensities,
    with_perivascular_spaces,
)
from anystroke.core.rng import stream


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
        assert float(share.sum()) * 0.008 == pytest.approx(volume_ml, rel=0.02)
        assert bool((share <= white).all())
        inside = float(share[(white > 0) & (near > 0)].mean())
        assert inside > 2 * float(share[(white > 0) & (near == 0)].mean())


def test_some_hyperintensities_are_separate_foci_deep_in_white_matter() -> None:
    white, _, ventricle = _brain()
    far = torch.nn.functional.max_pool3d(ventricle[None], 11, 1, padding=5)[0] == 0
    inner = torch.nn.functional.max_pool3d(1 - white[None], 3, 1, padding=1)[0] == 0
    for seed in range(4):
        share = white_matter_hyperintensities(
            white, ventricle, spacing=2.0, volume_ml=8.0, rng=stream(seed, "foci")
        )
        deep = share * far
        assert 0.05 < float(deep.sum() / share.sum()) < 0.7
        assert label((deep > 0.5).numpy())[1] >= 3
        assert float((deep * inner).sum()) > 0.8 * float(deep.sum())


def test_hyperintensities_do_not_depend_on_where_the_grid_ends() -> None:
    white, _, ventricle = _brain()
    wide = [torch.nn.functional.pad(field, (9,) * 6) for field in (white, ventricle)]
    plain, padded = (
        white_matter_hyperintensities(*fields, spacing=2.0, volume_ml=8.0, rng=stream(1, "pad"))
        for fields in ((white, ventricle), (wide[0], wide[1]))
    )
    assert float(padded.sum()) == pytest.approx(float(plain.sum()), rel=0.02)
    assert bool((padded <= wide[0]).all())


def test_more_than_all_white_matter_is_all_of_it() -> None:
    white, _, ventricle = _brain()
    share = white_matter_hyperintensities(white, ventricle, spacing=2.0, volume_ml=2e4, rng=stream(1, "much"))
    assert float(share.sum()) > 0.95 * float(white.sum())
    assert bool((share <= white).all())


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
    for radius in (0.2, 0.4, 0.7):
        share = balls(room, spacing=1.0, count=1, radius_mm=(radius, radius), rng=stream(3, "dot"))
        assert float(share.sum()) == pytest.approx(4.19 * radius**3, rel=0.15)
    long = balls(room, spacing=1.0, count=1, radius_mm=(2, 2), elongation=4.0, rng=stream(3, "tube"))
    spans = [int((long > 0.5).any(a).any(b).sum()) for a, b in ((2, 1), (2, 0), (1, 0))]
    assert sorted(spans)[2] > 2.5 * sorted(spans)[0]
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


def test_perivascular_spaces_are_thin_and_lacunes_lie_in_both_rooms() -> None:
    white, deep, ventricle = _brain()
    none = {"leukoaraiosis": 0.0, "lacunes": 0.0, "microbleeds": 0.0}
    for seed in range(4):
        (share,) = with_perivascular_spaces({}, white, deep, spacing=2.0, rng=stream(seed, "spaces")).values()
        assert 0.005 < float(share.sum()) * 0.008 < 3
        before = draw_confounders(
            white,
            deep,
            ventricle,
            spacing=2.0,
            leukoaraiosis=1.0,
            lacunes=1.0,
            microbleeds=1.0,
            rng=stream(seed, "all"),
        )
        after = with_perivascular_spaces(before, white, deep, spacing=2.0, rng=stream(seed, "spaces"))
        total = sum(after.values(), torch.zeros(()))
        assert bool((total <= white + deep + 1e-5).all())
        assert float(after["ventricular_csf"].sum()) > float(before["ventricular_csf"].sum())
        assert after["haemosiderin_rim"] is before["haemosiderin_rim"]
    in_deep = 0.0
    for seed in range(30):
        (share,) = draw_confounders(
            white, deep, ventricle, spacing=2.0, **(none | {"lacunes": 1.0}), rng=stream(seed, "lacunes")
        ).values()
        assert 0.01 < float(share.sum()) * 0.008 < 7
        in_deep += float((share * deep).sum() > 0.5 * share.sum()) / 30
    assert 0.2 < in_deep < 0.8
    assert not draw_confounders(white, deep, ventricle, spacing=2.0, **none, rng=stream(1))
