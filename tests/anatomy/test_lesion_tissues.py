import pytest
import torch

from anystroke.anatomy.lesion_tissues import BLOOD_OF_STAGE, STAGES, TISSUES_OF_STAGE, Stage, lesion_shares
from anystroke.qmri.tissue_priors import load_table
from anystroke.rng import stream


def _ball() -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.arange(-20, 21).float()
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    depth = 0.7 * (1 - (x**2 + y**2 + z**2).sqrt() / 14)
    return (depth / 0.15 + 0.5).clamp(0, 1), depth


def _shares(
    stage: Stage, *, penumbra: float = 0.0, haemorrhage: float = 0.0, seed: int = 1
) -> dict[str, torch.Tensor]:
    membership, depth = _ball()
    return lesion_shares(
        membership,
        depth,
        (depth / 0.3).clamp(0, 1),
        stage=stage,
        penumbra=penumbra,
        haemorrhage=haemorrhage,
        rng=stream(seed, stage),
    )


@pytest.mark.parametrize("stage", STAGES)
def test_without_blood_and_penumbra_the_tissues_of_the_stage_fill_the_lesion(stage: Stage) -> None:
    shares = _shares(stage)
    assert set(shares) == set(TISSUES_OF_STAGE[stage])
    assert torch.allclose(sum(shares.values(), torch.zeros(())), _ball()[0], atol=1e-6)


def test_a_penumbra_leaves_the_border_in_part_healthy_and_the_core_whole() -> None:
    (share,) = _shares("acute", penumbra=1.0).values()
    membership, depth = _ball()
    border = (membership == 1) & (depth < 0.1)
    assert 0.25 < float(share[border].mean()) < 0.9
    assert float(share[depth > 0.55].min()) > 0.99


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
    assert max(part) < 0.75


def test_every_tissue_has_priors() -> None:
    for stage in STAGES:
        load_table().rows([*TISSUES_OF_STAGE[stage], *BLOOD_OF_STAGE[stage]])
