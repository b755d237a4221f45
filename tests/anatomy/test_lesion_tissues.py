import pytest
import torch

from anystroke.anatomy.lesions.stages import (
    BLOOD_OF_STAGE,
    STAGES,
    TISSUES_OF_STAGE,
    Stage,
    lesion_shares,
    mix_tissue,
)
from anystroke.core.fields import smooth
from anystroke.core.rng import stream
from anystroke.qmri.tissue_priors import load_table


def _ball(radius_mm: float = 28.0, spacing: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.arange(-20, 21) * spacing
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    height = (radius_mm - (x**2 + y**2 + z**2).sqrt()) / spacing
    membership = (height + 0.5).clamp(0, 1)
    return membership, smooth(membership, 5.0 / spacing)


def _shares(
    stage: Stage,
    *,
    penumbra: float = 0.0,
    haemorrhage: float = 0.0,
    graded: float = 0.0,
    seed: int = 1,
    radius_mm: float = 28.0,
) -> dict[str, torch.Tensor]:
    membership, depth = _ball(radius_mm)
    return lesion_shares(
        membership,
        depth,
        stage=stage,
        spacing=2.0,
        penumbra=penumbra,
        haemorrhage=haemorrhage,
        graded=graded,
        rng=stream(seed, stage),
    )


@pytest.mark.parametrize("radius_mm", [1.5, 5.0, 28.0])
@pytest.mark.parametrize("stage", STAGES)
def test_without_blood_and_penumbra_the_tissues_of_the_stage_fill_the_lesion(
    stage: Stage, radius_mm: float
) -> None:
    shares = _shares(stage, radius_mm=radius_mm)
    assert set(shares) == set(TISSUES_OF_STAGE[stage])
    membership = _ball(radius_mm)[0]
    assert float(membership.sum()) > 0
    assert torch.allclose(sum(shares.values(), torch.zeros(())), membership, atol=1e-6)


def test_cores_lie_deep_and_are_small_or_large() -> None:
    membership, depth = _ball()
    parts, rims = [], []
    for seed in range(30):
        inner = mix_tissue(depth, membership=membership, spacing=2.0, rng=stream(seed, "core"))
        inside = membership > 0.5
        parts.append(float(inner[inside].mean()))
        border = inside & (depth < 0.6)
        assert float(inner[border].mean()) <= parts[-1] + 1e-3
        rims.append(float(((membership * (1 - inner))[20, 20, :20] > 0.5).sum()) * 2)
    assert min(parts) < 0.15
    assert max(parts) > 0.75
    assert max(rims) > 8
    assert len({round(rim) for rim in rims}) > 4


def test_a_penumbra_is_millimetres_wide_and_spares_the_core() -> None:
    membership, depth = _ball()
    widths = []
    for seed in range(12):
        (share,) = _shares("acute", penumbra=1.0, seed=seed).values()
        inside = membership == 1
        border = inside & (depth < torch.quantile(depth[inside], 0.2))
        assert 0.29 < float(share[border].mean()) < 0.85
        assert float(share[inside & (depth > torch.quantile(depth[inside], 0.98))].mean()) > 0.75
        widths.append(2.0 * float((inside & (share < 0.9))[20, 20, :20].sum()))
    assert 4 < sum(widths) / len(widths) < 22


@pytest.mark.parametrize("stage", STAGES)
def test_a_graded_lesion_of_any_age_fades_towards_its_border(stage: Stage) -> None:
    membership, depth = _ball()
    inside = membership == 1
    border = inside & (depth < torch.quantile(depth[inside], 0.2))
    core = inside & (depth > torch.quantile(depth[inside], 0.98))
    for seed in range(6):
        total = sum(_shares(stage, graded=1.0, seed=seed).values(), torch.zeros(()))
        assert 0.29 < float(total[border].mean()) < 0.9 < float(total[core].mean()) + 0.15
        assert float(total[border].mean()) < float(total[core].mean())
        assert float((total - membership).max()) < 1e-5


@pytest.mark.parametrize("stage", STAGES)
def test_blood_takes_a_part_of_the_lesion_and_has_the_tissue_of_its_age(stage: Stage) -> None:
    membership, _ = _ball()
    part, seen = [], set()
    for seed in range(20):
        shares = _shares(stage, haemorrhage=1.0, seed=seed)
        total = sum(shares.values(), torch.zeros(()))
        assert torch.allclose(total, membership, atol=1e-5)
        assert min(float(share.min()) for share in shares.values()) >= 0
        blood = [share for name, share in shares.items() if name in BLOOD_OF_STAGE[stage]]
        part.append(float(sum(share.sum() for share in blood) / membership.sum()))
        seen |= set(shares) & set(BLOOD_OF_STAGE[stage])
    assert seen == set(BLOOD_OF_STAGE[stage])
    assert min(part) > 0.02
    assert max(part) < 0.8


def test_old_blood_is_a_cleft_within_its_rim() -> None:
    for seed in range(8):
        shares = _shares("chronic", haemorrhage=1.0, seed=seed)
        cleft, rim = shares["haemorrhage_cleft"], shares["haemosiderin_rim"]
        assert float(rim.sum()) > 0.2 * float(cleft.sum())
        around = torch.nn.functional.max_pool3d((cleft > 0.5).float()[None], 5, 1, padding=2)[0]
        assert float(rim[around > 0].sum()) > 0.5 * float(rim.sum())


def test_the_grain_of_blood_is_in_mm_whatever_the_grid() -> None:
    membership = torch.ones(48, 48, 48)

    def roughness(size: int, spacing: float) -> float:
        whole = membership[:size, :size, :size]
        changes = []
        for seed in range(12):
            shares = lesion_shares(
                whole,
                torch.zeros_like(whole),
                stage="acute",
                spacing=spacing,
                penumbra=0.0,
                haemorrhage=1.0,
                rng=stream(seed, "grain"),
            )
            patch = 1 - shares["acute_infarct"]
            changes.append(float(patch.diff(dim=0).abs().mean() / spacing / patch.mean()))
        return sum(changes) / len(changes)

    assert roughness(48, 1.0) == pytest.approx(roughness(24, 1.0), rel=0.3)


def test_a_lesion_of_a_few_voxels_does_not_bleed() -> None:
    assert set(_shares("acute", haemorrhage=1.0, radius_mm=1.5)) == {"acute_infarct"}


def test_every_tissue_has_priors() -> None:
    for stage in STAGES:
        load_table().rows([*TISSUES_OF_STAGE[stage], *BLOOD_OF_STAGE[stage]])
