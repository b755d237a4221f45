import pytest
import torch

from anystroke.anatomy.tissues.anatomies import SKULL_TISSUES
from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.anatomy.tissues.mixing import ShareField
from anystroke.anatomy.tissues.mni import mni_anatomy


def _shares() -> ShareField:
    field = mni_anatomy(4.0).tissues
    assert isinstance(field, ShareField)
    return field


def _share(tissue: str, x: float, y: float, z: float) -> float:
    field = _shares()
    point = torch.tensor([x, y, z, 1.0], dtype=torch.float64)
    i, j, k = (torch.linalg.inv(field.affine) @ point)[:3].round().int().tolist()
    return float(field.shares[TISSUES.index(tissue) - 1, i, j, k])


def test_fractions_are_shares_and_the_space_is_mni() -> None:
    anatomy = mni_anatomy(4.0)
    total = _shares().shares.sum(0)
    assert float(_shares().shares.min()) >= 0
    assert float(total.max()) == pytest.approx(1, abs=1e-4)
    assert torch.equal(anatomy.to_mni, torch.eye(4, dtype=torch.float64))
    assert not anatomy.has_head
    assert float(_shares().shares[[TISSUES.index(name) - 1 for name in SKULL_TISSUES]].sum()) == 0


@pytest.mark.parametrize(
    ("tissue", "low", "high"),
    [
        ("cortical_grey_matter", 700, 1200),
        ("white_matter", 450, 800),
        ("ventricular_csf", 15, 60),
        ("sulcal_csf", 80, 300),
        ("thalamus", 8, 25),
        ("putamen", 6, 16),
        ("caudate", 6, 16),
    ],
)
def test_volumes_are_those_of_a_brain(tissue: str, low: float, high: float) -> None:
    volume = float(_shares().shares[TISSUES.index(tissue) - 1].sum()) * 0.064
    assert low < volume < high


@pytest.mark.parametrize("side", [-1, 1])
def test_structures_are_where_they_belong(side: int) -> None:
    assert _share("white_matter", 24 * side, 0, 36) > 0.9
    assert _share("putamen", 27 * side, 4, 0) > 0.6
    assert _share("caudate", 13 * side, 14, 8) > 0.5
    assert _share("thalamus", 8 * side, -18, 8) > 0.6
    assert _share("ventricular_csf", 8 * side, 0, 20) > 0.5
    assert _share("cortical_grey_matter", 0, -92, 0) > 0.3
    assert _share("ventricular_csf", 0, -90, 30) == 0


def test_a_spacing_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"whole number of mm, got 1\.5"):
        mni_anatomy(1.5)
