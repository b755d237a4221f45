from pathlib import Path

import pytest
import torch

from anystroke.anatomy.tissues.label_maps import load_label_map
from anystroke.anatomy.tissues.labels import (
    COLIN27,
    LABEL_SCHEMES,
    SYNTHSEG,
    TISSUES,
    LabelError,
    LabelScheme,
    brain_mask,
    clean,
    coarse_affine,
    lookup_table,
    segmentation_class,
    tissue_mask,
    to_tissues,
)
from anystroke.core.volume import Volume


def tissue(name: str) -> int:
    return TISSUES.index(name)


def head() -> torch.Tensor:
    """A ball-shaped head: brain, fluid, bone, soft tissue, skin, from the middle outwards."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(48.0) - 23.5] * 3, indexing="ij"))
    radius = grid.norm(dim=0)
    labels = torch.zeros(48, 48, 48, dtype=torch.int32)
    for limit, label in ((23, 511), (21, 507), (13, 515), (11, 24), (9, 3), (7, 2), (3, 4)):
        labels[radius < limit] = label
    return labels


def test_extra_cerebral_labels_have_their_tissues() -> None:
    table = lookup_table(SYNTHSEG)
    expected = {
        24: "sulcal_csf",
        502: "arterial_blood",
        506: "vitreous",
        507: "muscle",
        508: "muscle",
        509: "mucosa",
        511: "skin",
        512: "grey_white_partial_volume",
        514: "venous_blood",
        515: "cortical_bone",
        516: "bone_marrow",
        530: "white_matter",
    }
    assert {label: TISSUES[int(table[label])] for label in expected} == expected
    assert table[503].item() == -1


@pytest.mark.parametrize("scheme", LABEL_SCHEMES.values(), ids=str)
def test_table_agrees_with_scheme(scheme: LabelScheme) -> None:
    table = lookup_table(scheme)
    assert {int(i) for i in (table >= 0).nonzero()} == set(scheme.labels)


def test_hemispheres_share_structure_and_tissue() -> None:
    for left, right in SYNTHSEG.pairs:
        assert SYNTHSEG.labels[left] == SYNTHSEG.labels[right]
    ids = [label for pair in SYNTHSEG.pairs for label in pair]
    assert len(ids) == len(set(ids))
    assert SYNTHSEG.ids("thalamus") == (10, 49)


def test_scheme_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(LabelError, match="'gold'"):
        LabelScheme("bad", {0: ("background", "background"), 1: ("tooth", "gold")})
    with pytest.raises(LabelError, match=r"\[7\]"):
        LabelScheme("bad", {0: ("background", "background")}, brain_ids=(7,))
    with pytest.raises(LabelError, match="no structure 'tooth'"):
        SYNTHSEG.ids("tooth")


def test_unknown_labels_are_named_with_their_counts() -> None:
    labels = torch.zeros(4, 4, 4)
    labels[0, 0, :3], labels[1, 1, 1], labels[2, 2, 2] = 999, -5, 6
    with pytest.raises(LabelError, match=r"-5 \(1 voxels\), 6 \(1 voxels\), 999 \(3 voxels\)"):
        to_tissues(labels, SYNTHSEG)


def test_interpolated_labels_are_refused() -> None:
    with pytest.raises(LabelError, match=r"2\.5"):
        to_tissues(torch.full((2, 2, 2), 2.5), SYNTHSEG)
    with pytest.raises(LabelError, match="nan"):
        to_tissues(torch.full((2, 2, 2), float("nan")), SYNTHSEG)
    with pytest.raises(LabelError, match=r"\(1, 2, 2, 2\)"):
        to_tissues(torch.zeros(1, 2, 2, 2), SYNTHSEG)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int16, torch.int32, torch.int64, torch.float32])
def test_any_number_type(dtype: torch.dtype) -> None:
    tissues = to_tissues(head().to(dtype), SYNTHSEG)
    assert tissues.dtype == torch.uint8
    assert torch.equal(tissues, to_tissues(head(), SYNTHSEG))


def layers(*labels: tuple[int, int]) -> torch.Tensor:
    """Flat layers along x: (label, thickness in voxels)."""
    line = torch.tensor([label for label, thickness in labels for _ in range(thickness)])
    return line[:, None, None].expand(-1, 9, 9)


def named(line: torch.Tensor) -> list[str]:
    return [TISSUES[i] for i in line.tolist()]


def test_soft_tissue_is_fat_under_the_skin_and_muscle_below() -> None:
    scalp = layers((0, 2), (511, 2), (507, 6), (515, 1))
    outer, bone = ["background"] * 2 + ["skin"] * 2, ["cortical_bone"]
    tissues = to_tissues(scalp, SYNTHSEG, fat_depth=4)
    assert named(tissues[:, 4, 4]) == [*outer, *["fat"] * 4, *["muscle"] * 2, *bone]
    tissues = to_tissues(scalp, SYNTHSEG, spacing=2, fat_depth=4)
    assert named(tissues[:, 4, 4]) == [*outer, *["fat"] * 2, *["muscle"] * 4, *bone]
    tissues = to_tissues(scalp, SYNTHSEG, fat_depth=0)
    assert named(tissues[:, 4, 4]) == [*outer, *["muscle"] * 6, *bone]


def test_map_without_skin_has_fat_under_the_air() -> None:
    tissues = to_tissues(layers((0, 2), (258, 6), (165, 1)), SYNTHSEG)
    assert named(tissues[:, 4, 4]) == [
        "background",
        "background",
        *["fat"] * 4,
        "muscle",
        "muscle",
        "cortical_bone",
    ]


def test_orbit_is_filled_with_fat() -> None:
    labels = torch.full((30, 30, 30), 507)
    labels[15, 15, 15] = 506
    fat = to_tissues(labels, SYNTHSEG, orbit_radius=3) == tissue("fat")
    assert int(fat.sum()) == 7**3 - 1


def test_coarse_grid_lies_on_the_fine_one() -> None:
    affine = torch.tensor([[-1.0, 0, 0, 128], [0, 0, 1, -128], [0, -1, 0, 128], [0, 0, 0, 1]])
    coarse = coarse_affine(affine, 3)
    middle_of_first_block = affine.double() @ torch.tensor([1.0, 1.0, 1.0, 1.0]).double()
    assert torch.equal(coarse @ torch.tensor([0.0, 0.0, 0.0, 1.0]).double(), middle_of_first_block)


def test_classes() -> None:
    assert [segmentation_class(name) for name in TISSUES[:10]] == [
        "background",
        "grey_matter",
        "white_matter",
        "white_matter",
        *["grey_matter"] * 4,
        "csf",
        "csf",
    ]
    assert {segmentation_class(name) for name in TISSUES[10:]} == {"background"}
    with pytest.raises(LabelError, match="gold"):
        segmentation_class("gold")


def test_brain_mask_holds_ventricles_and_sulci_but_no_bone() -> None:
    labels = head()
    labels[20:28, 24, 12:24] = 24
    mask = brain_mask(labels, SYNTHSEG)
    inside = torch.isin(labels, torch.tensor([2, 3, 4]))
    assert bool(mask[inside].all())
    assert bool(mask[22:26, 24, 17:24].all())
    assert not (mask & torch.isin(labels, torch.tensor([515, 507, 511, 0]))).any()
    assert int(tissue_mask(labels, SYNTHSEG).sum()) < int(inside.sum())
    with pytest.raises(LabelError, match="no brain label"):
        brain_mask(torch.zeros(4, 4, 4), SYNTHSEG)


def test_brain_mask_is_right_at_the_edge_of_the_picture() -> None:
    labels = torch.full((20, 20, 20), 3)
    labels[5:7, 5:, 5:] = 24
    assert bool(brain_mask(labels, SYNTHSEG).all())


def test_clean_drops_specks_and_fills_sulci() -> None:
    labels = torch.zeros(48, 48, 48, dtype=torch.int32)
    ball = torch.isin(head(), torch.tensor([2, 3]))
    labels[ball] = 3
    labels[20:28, 24, 12:24] = 0
    labels[0, 0, :4] = 24
    cleaned = clean(labels, SYNTHSEG)
    assert int(cleaned[0].sum()) == 0
    assert bool((cleaned[22:26, 24, 17:20] == 24).all())
    assert bool((cleaned[ball & (labels == 3)] == 3).all())
    assert labels[0, 0, 0].item() == 24


@pytest.fixture(scope="module")
def whole_head(data_dir: Path) -> Volume:
    volume, scheme = load_label_map(data_dir / "anatomies" / "synthseg" / "training_seg_13.nii.gz")
    assert scheme is SYNTHSEG
    return volume.reorient("RAS")


@pytest.fixture(scope="module")
def whole_head_tissues(whole_head: Volume) -> torch.Tensor:
    return to_tissues(whole_head.data[0], SYNTHSEG, fat_depth=0, orbit_radius=0)


@pytest.mark.real_data
def test_real_head_is_covered(whole_head: Volume, whole_head_tissues: torch.Tensor) -> None:
    assert set(torch.unique(whole_head_tissues).tolist()) == set(range(len(TISSUES))) - {tissue("fat")}
    litres = int(brain_mask(whole_head.data[0], SYNTHSEG).sum()) / 1e6
    assert 1.0 < litres < 1.8


@pytest.mark.real_data
def test_real_brain_is_covered(data_dir: Path) -> None:
    labels, scheme = load_label_map(data_dir / "anatomies" / "synthsr" / "brain2_labels.nii.gz")
    assert scheme is SYNTHSEG
    tissues = to_tissues(labels.data[0], scheme)
    present = {TISSUES[i] for i in torch.unique(tissues).tolist()}
    assert {"cortical_grey_matter", "white_matter", "thalamus", "ventricular_csf"} <= present
    litres = int(brain_mask(labels.data[0], scheme).sum()) / 1e6
    assert 1.0 < litres < 1.8


@pytest.mark.real_data
def test_hemispheres_mirror_each_other_in_a_real_map(whole_head: Volume) -> None:
    places = ((whole_head.data[0] > 0) & (whole_head.data[0] <= 60)).nonzero()
    ids = whole_head.data[0][places.unbind(1)]
    for left, right in SYNTHSEG.pairs[:13]:
        a, b = (places[ids == i].double().mean(0) for i in (left, right))
        offset = whole_head.affine[:3, :3] @ (b - a)
        assert float(offset[0]) > 15, f"labels {left} and {right} are not left and right of each other"
        assert float(offset[1:].norm()) < 0.6 * float(offset[0])


@pytest.mark.real_data
def test_fluid_not_bone_lies_between_brain_and_skull(whole_head_tissues: torch.Tensor) -> None:
    grey = whole_head_tissues == tissue("cortical_grey_matter")
    beside = torch.zeros_like(grey)
    for axis in range(3):
        for step in (-1, 1):
            beside |= grey.roll(step, axis)
    counts = torch.bincount(whole_head_tissues[beside], minlength=len(TISSUES))
    assert int(counts[tissue("sulcal_csf")]) > 10 * int(counts[tissue("cortical_bone")])


@pytest.mark.real_data
def test_colin27_is_read_with_left_on_the_left(data_dir: Path) -> None:
    volume, scheme = load_label_map(data_dir / "anatomies" / "colin27" / "BrainModel.mat")
    assert scheme is COLIN27
    assert volume.orientation == "PRI"
    to_tissues(volume.data[0], scheme)
