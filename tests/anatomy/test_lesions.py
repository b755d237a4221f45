from pathlib import Path

import pytest
import torch
from scipy.ndimage import label

from anystroke.anatomy.lesions.bank import (
    LesionSettings,
    choose_mask,
    crop_mask,
    draw_masks,
    embolic_shower,
    load_bank,
    place_lesions,
    place_mask,
    save_bank,
)
from anystroke.anatomy.lesions.edges import SoftEdge, soft_copy_paste
from anystroke.anatomy.lesions.habits import lesion_habits
from anystroke.anatomy.tissues.deformation import DeformationSettings
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from phantoms import sphere_lesion

UNCHANGED = LesionSettings(
    shape=DeformationSettings(rotation=0, scaling=0, shear=0, translation=0, elastic=0, mirror=0), level=0.0
)


def _points(spacing: float = 2.0, half: int = 40) -> torch.Tensor:
    axis = torch.arange(-half, half + 1).float() * spacing
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))


def test_crop_keeps_voxels_where_they_are() -> None:
    data = torch.zeros(1, 20, 20, 20)
    data[0, 4:7, 10:15, 3] = 1
    affine = torch.diag(torch.tensor([-1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    lesion = crop_mask(Volume(data, affine), "case")
    assert lesion.mask.shape == (3, 5, 1)
    assert torch.equal(lesion.affine[:3, 3], torch.tensor([-4.0, 20.0, 9.0], dtype=torch.float64))
    assert lesion.volume_ml == pytest.approx(15 * 6 / 1000)
    with pytest.raises(ValueError, match="case is empty"):
        crop_mask(Volume(torch.zeros(1, 4, 4, 4), affine), "case")


def test_bank_round_trip(tmp_path: Path) -> None:
    lesions = [sphere_lesion(), sphere_lesion(centre=(-20.0, 0.0, 0.0), radius=3)]
    save_bank(lesions, tmp_path / "bank.safetensors")
    for before, after in zip(lesions, load_bank(tmp_path / "bank.safetensors"), strict=True):
        assert before.name == after.name
        assert torch.equal(before.mask, after.mask)
        assert torch.equal(before.affine, after.affine)


def test_a_placed_mask_keeps_its_place_and_volume() -> None:
    lesion = sphere_lesion(radius=14)
    points = _points()
    member, depth = place_mask(lesion, points, settings=UNCHANGED, rng=stream(1, "place"))
    inside = member > 0.5
    assert float(inside.sum()) * 8 / 1000 == pytest.approx(lesion.volume_ml, rel=0.05)
    centre = points[:, inside].mean(1)
    assert torch.allclose(centre, lesion.centre.float(), atol=0.6)
    assert float(member.min()) >= 0
    assert float(member.max()) <= 1
    assert 0 < float(((member > 0.02) & (member < 0.98)).float().sum()) < float(inside.sum())
    assert bool((depth[inside] > 0).all())


def test_mirroring_moves_the_lesion_to_the_other_hemisphere() -> None:
    settings = LesionSettings(mirror=1.0, absent=0.0, several=0.0)
    (mask,) = draw_masks([sphere_lesion()], settings, stream(1, "draw"))
    points = _points()
    member, _ = place_mask(mask, points, settings=UNCHANGED, rng=stream(1, "place"))
    centre = points[:, member > 0.5].mean(1)
    assert torch.allclose(centre, torch.tensor([-38.0, -18.0, 8.0]), atol=0.6)


def test_lesions_of_a_patient_share_a_stage_and_unite() -> None:
    masks = [sphere_lesion(), sphere_lesion(centre=(-38.0, -18.0, 8.0))]
    placed = place_lesions(masks, _points(), settings=UNCHANGED, rng=stream(5, "two"), stage="acute")
    assert placed.stage == "acute"
    assert float((placed.membership > 0.5).sum()) * 8 / 1000 == pytest.approx(
        2 * masks[0].volume_ml, rel=0.05
    )
    total = sum(placed.shares.values(), torch.zeros_like(placed.membership))
    assert min(float(share.min()) for share in placed.shares.values()) >= 0
    assert bool((total <= placed.membership + 1e-5).all())
    nothing = place_lesions([], _points(half=5), settings=UNCHANGED, rng=stream(5, "none"))
    assert float(nothing.membership.abs().sum()) == 0


def test_larger_masks_are_chosen_more_often_and_some_patients_have_none() -> None:
    masks = [sphere_lesion(radius=4), sphere_lesion(radius=12)]
    settings = LesionSettings(absent=0.25, several=0.5, size_power=1.0)
    chosen = [choose_mask(masks, settings, stream(k, "choose")).mask.shape[0] for k in range(300)]
    assert chosen.count(25) / 300 == pytest.approx(
        masks[1].volume_ml / (masks[0].volume_ml + masks[1].volume_ml), abs=0.05
    )
    counts = [len(draw_masks(masks, settings, stream(k, "draw"))) for k in range(400)]
    assert counts.count(0) / 400 == pytest.approx(0.25, abs=0.07)
    assert counts.count(2) / 400 == pytest.approx(0.375, abs=0.08)


def test_elastic_change_keeps_about_the_volume_and_bends_the_mask() -> None:
    mask, points = sphere_lesion(radius=20), _points()
    volumes = []
    for seed in range(12):
        settings = UNCHANGED.model_copy(update={"shape": UNCHANGED.shape.model_copy(update={"elastic": 4.0})})
        member, _ = place_mask(mask, points, settings=settings, rng=stream(seed, "elastic"))
        plain, _ = place_mask(mask, points, settings=UNCHANGED, rng=stream(seed, "elastic"))
        volumes.append(float((member > 0.5).sum()) * 8 / 1000)
        assert float((member - plain).abs().max()) > 0.1
    assert sum(volumes) / 12 == pytest.approx(mask.volume_ml, rel=0.15)


@pytest.mark.parametrize("radius", [8, 14, 22])
def test_erosion_and_dilation_move_the_border_by_their_mm(radius: int) -> None:
    mask, points = sphere_lesion(radius=radius), _points()
    plain = float((place_mask(mask, points, settings=UNCHANGED, rng=stream(1))[0] > 0.5).sum())
    for name, sign in (("erosion", -1), ("dilation", 1)):
        settings = UNCHANGED.model_copy(update={name: 3.0})
        moves = []
        for seed in range(24):
            member, _ = place_mask(mask, points, settings=settings, rng=stream(seed, name))
            volume = float((member > 0.5).sum())
            assert volume > 0.2 * plain
            moves.append(sign * radius * ((volume / plain) ** (1 / 3) - 1))
        assert min(moves) > -0.3
        assert 2.0 < max(moves) < 3.6
        assert 0.8 < sum(moves) / len(moves) < 2.2


def test_the_smallest_lesion_survives_the_largest_erosion() -> None:
    mask, points = sphere_lesion(radius=2), _points(spacing=1.0, half=50)
    settings = UNCHANGED.model_copy(update={"erosion": 10.0})
    for seed in range(8):
        member, _ = place_mask(mask, points, settings=settings, rng=stream(seed, "small"))
        assert 0 < float((member > 0.5).sum()) <= 1.1 * float(mask.mask.sum())


def test_the_level_moves_the_border_by_less_than_half_a_mm() -> None:
    mask, points = sphere_lesion(radius=14), _points(spacing=1.0, half=50)
    settings = UNCHANGED.model_copy(update={"level": 0.2})
    volumes = [
        float((place_mask(mask, points, settings=settings, rng=stream(k))[0] > 0.5).sum()) for k in range(12)
    ]
    moves = [14 * ((volume / 1000 / mask.volume_ml) ** (1 / 3) - 1) for volume in volumes]
    assert max(abs(move) for move in moves) < 0.5
    assert max(moves) - min(moves) > 0.1


def test_where_no_voxel_is_near_there_is_no_lesion() -> None:
    member, depth = place_mask(
        sphere_lesion(), _points(half=4) + 400, settings=UNCHANGED, rng=stream(1, "far")
    )
    assert float(member.abs().sum()) == 0
    assert bool((depth < 0).all())


def test_several_masks_unite_without_adding_up_where_they_overlap() -> None:
    mask, points = sphere_lesion(radius=12), _points()
    one = place_lesions([mask], points, settings=UNCHANGED, rng=stream(2, "union"), stage="chronic")
    twice = place_lesions([mask, mask], points, settings=UNCHANGED, rng=stream(2, "union"), stage="chronic")
    assert float(twice.membership.max()) <= 1
    assert float(twice.membership.sum()) == pytest.approx(float(one.membership.sum()), rel=0.05)
    assert twice.names == ("sphere", "sphere")


@pytest.mark.parametrize("mode", ["reference", "morphological"])
def test_published_edges_are_those_of_the_masks_own_voxels(mode: SoftEdge) -> None:
    settings = UNCHANGED.model_copy(update={"edge": mode})
    points = _points(half=30)
    member, height = place_mask(sphere_lesion(), points, settings=settings, rng=stream(1, "edge"))
    assert torch.equal(member, soft_copy_paste(height > 0, mode=mode).clamp(0, 1))
    smooth, _ = place_mask(sphere_lesion(), points, settings=UNCHANGED, rng=stream(1, "edge"))
    wider = float(member.sum()) / float(smooth.sum())
    assert wider > 1.15 if mode == "reference" else 0.6 < wider < 1.15


def test_severity_multiplies_the_membership() -> None:
    points = _points(half=30)
    plain = place_lesions([sphere_lesion()], points, settings=UNCHANGED, rng=stream(1, "lesion"))
    faded = place_lesions(
        [sphere_lesion()],
        points,
        settings=UNCHANGED,
        rng=stream(1, "lesion"),
        severity=torch.full(points.shape[1:], 0.25),
    )
    assert torch.allclose(faded.membership, 0.25 * plain.membership)
    total = torch.stack(list(faded.shares.values())).sum(0)
    assert bool((total <= faded.membership + 1e-6).all())


def test_what_scans_of_a_weighting_show() -> None:
    open_settings = LesionSettings(absent=0.0, mirror=0.0)
    stages = {
        weighting: [
            place_lesions(
                [], _points(half=2), settings=open_settings, rng=stream(k, "stage"), weighting=weighting
            ).stage
            for k in range(200)
        ]
        for weighting in ("T1w", "DWI")
    }
    assert stages["T1w"].count("chronic") > 130 > 60 > stages["DWI"].count("chronic")
    own = LesionSettings(stages=(0.0, 0.0, 1.0), several=0.0, emboli=0.0, size_power=1.0)
    habit = own.habit("DWI")
    assert (habit.stages, habit.several, habit.emboli, habit.size_power) == ((0, 0, 1), 0, 0, 1)
    assert LesionSettings().habit("DWI").emboli > LesionSettings().habit("T1w").emboli > 0
    assert LesionSettings().habit("bSSFP") == LesionSettings().habit(None)
    for habit in lesion_habits().values():
        assert sum(habit.stages) == pytest.approx(1)
        assert habit.reason


def test_emboli_are_many_small_parts_where_the_territory_is() -> None:
    territory = sphere_lesion(radius=22)
    counts, volumes = [], []
    for k in range(20):
        shower = embolic_shower(territory, rng=stream(k, "emboli"))
        counts.append(label(shower.mask.numpy())[1])
        volumes.append(shower.volume_ml)
        distance = (shower.centre - territory.centre).norm()
        assert distance < 22
    assert max(counts) > 8
    assert 0.03 < min(volumes) < max(volumes) < 20
    tiny = sphere_lesion(radius=2)
    assert embolic_shower(tiny, rng=stream(1, "emboli")).mask.shape[0] > 6
    settings = LesionSettings(absent=0.0, several=0.0, emboli=1.0, mirror=0.0)
    (drawn,) = draw_masks([territory], settings, stream(1, "draw"))
    assert drawn.name == f"{territory.name}-emboli"


def test_the_smallest_emboli_are_still_there_when_placed() -> None:
    shower = embolic_shower(sphere_lesion(radius=25), rng=stream(5, "emboli"))
    parts, count = label(shower.mask.numpy())
    points = _points(spacing=1.0, half=75)
    member, _ = place_mask(shower, points, settings=UNCHANGED, rng=stream(5, "place"))
    found = label((member > 0.5).numpy())[1]
    assert count > 3
    assert found >= 0.9 * count
    assert float((member > 0.5).sum()) / 1000 == pytest.approx(shower.volume_ml, rel=0.1)
    assert parts.max() == count
