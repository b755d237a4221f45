"""Label schemes of whole-head label maps, and what tissue each label is made of.

The extra-cerebral labels were identified by looking at the maps themselves: shape, place, thickness and
neighbours of every label. They are structures of a head atlas, not intensity clusters, with one exception:
``soft_tissue`` is one label for fat, muscle, tendon and gland. :func:`to_tissues` parts it into fat (below
the skin and in the orbit) and muscle (the rest).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from scipy.ndimage import label as label_components
from torch import Tensor
from torch.nn.functional import pad

from anystroke.core.errors import AnystrokeError

TISSUES: tuple[str, ...] = (
    "background",
    "cortical_grey_matter",
    "grey_white_partial_volume",
    "white_matter",
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
    "ventricular_csf",
    "sulcal_csf",
    "fat",
    "muscle",
    "cortical_bone",
    "bone_marrow",
    "skin",
    "mucosa",
    "vitreous",
    "venous_blood",
    "arterial_blood",
    "choroid_plexus",
)
"""Names of the healthy tissues; a tissue map holds indices into this tuple."""

SEGMENTATION_CLASSES: tuple[str, ...] = ("background", "grey_matter", "white_matter", "csf")
"""Healthy classes that a network learns; the lesion class is added where lesions are."""

_CLASS_OF_TISSUE: Mapping[str, str] = MappingProxyType(
    {
        "cortical_grey_matter": "grey_matter",
        "grey_white_partial_volume": "white_matter",
        "white_matter": "white_matter",
        "thalamus": "grey_matter",
        "caudate": "grey_matter",
        "putamen": "grey_matter",
        "pallidum": "grey_matter",
        "ventricular_csf": "csf",
        "sulcal_csf": "csf",
    }
)


class LabelError(AnystrokeError):
    """A label map does not fit the scheme it is read with."""


@dataclass(frozen=True)
class LabelScheme:
    """What each label of a family of label maps means.

    Attributes:
        name: Name of the scheme.
        labels: Label id -> (structure, tissue); tissues are names from :data:`TISSUES`.
        pairs: Pairs (left id, right id) of the same structure in either hemisphere. A map may use the left
            ids for both hemispheres.
        brain_ids: Labels inside the brain's surface: brain tissue and the ventricles with their contents.
        sulcal_csf_ids: Labels of cerebrospinal fluid around the brain.
        soft_tissue_ids: Labels that mix fat and muscle.
        skin_ids: Labels of skin; soft tissue close under them is fat.
        orbit_ids: Labels found in the orbit (eye, its muscles, its nerve); soft tissue around them is fat.

    Raises:
        LabelError: A tissue is unknown, or an id in one of the lists has no entry in ``labels``.
    """

    name: str
    labels: Mapping[int, tuple[str, str]]
    pairs: tuple[tuple[int, int], ...] = ()
    brain_ids: tuple[int, ...] = ()
    sulcal_csf_ids: tuple[int, ...] = ()
    soft_tissue_ids: tuple[int, ...] = ()
    skin_ids: tuple[int, ...] = ()
    orbit_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))
        for label, (structure, tissue) in self.labels.items():
            if tissue not in TISSUES:
                raise LabelError(
                    f"scheme {self.name!r}: label {label} ({structure}) has tissue {tissue!r}; "
                    f"use one of {TISSUES}"
                )
        listed = (
            *(label for pair in self.pairs for label in pair),
            *self.brain_ids,
            *self.sulcal_csf_ids,
            *self.soft_tissue_ids,
            *self.skin_ids,
            *self.orbit_ids,
        )
        missing = sorted({label for label in listed if label not in self.labels})
        if missing:
            raise LabelError(
                f"scheme {self.name!r}: labels {missing} are listed but have no entry in `labels`"
            )

    def ids(self, structure: str) -> tuple[int, ...]:
        """Give the labels of a structure, for example both hemispheres of ``"thalamus"``."""
        found = tuple(label for label, (name, _) in self.labels.items() if name == structure)
        if not found:
            known = sorted({name for name, _ in self.labels.values()})
            raise LabelError(f"scheme {self.name!r} has no structure {structure!r}; it has {known}")
        return found


# left id, right id, structure, tissue
_PAIRED: tuple[tuple[int, int, str, str], ...] = (
    (2, 41, "cerebral_white_matter", "white_matter"),
    (3, 42, "cerebral_cortex", "cortical_grey_matter"),
    (4, 43, "lateral_ventricle", "ventricular_csf"),
    (5, 44, "inferior_lateral_ventricle", "ventricular_csf"),
    (7, 46, "cerebellar_white_matter", "white_matter"),
    (8, 47, "cerebellar_cortex", "cortical_grey_matter"),
    (10, 49, "thalamus", "thalamus"),
    (11, 50, "caudate", "caudate"),
    (12, 51, "putamen", "putamen"),
    (13, 52, "pallidum", "pallidum"),
    (17, 53, "hippocampus", "cortical_grey_matter"),
    (18, 54, "amygdala", "cortical_grey_matter"),
    # A cap on the horns of the lateral ventricles, inside white matter.
    (25, 57, "white_matter_lesion", "white_matter"),
    (26, 58, "accumbens", "caudate"),
    (28, 60, "ventral_diencephalon", "grey_white_partial_volume"),
    # A thread under the putamen: a space around the lenticulostriate arteries, filled with fluid.
    (30, 62, "perivascular_space", "sulcal_csf"),
    (31, 63, "choroid_plexus", "choroid_plexus"),
    (136, 163, "lateral_choroid_plexus", "choroid_plexus"),
    (137, 164, "inferior_choroid_plexus", "choroid_plexus"),
)

_UNPAIRED_BRAIN: tuple[tuple[int, str, str], ...] = (
    (14, "third_ventricle", "ventricular_csf"),
    (15, "fourth_ventricle", "ventricular_csf"),
    (16, "brain_stem", "grey_white_partial_volume"),
    (29, "undetermined_white_matter", "white_matter"),
    (72, "fifth_ventricle", "ventricular_csf"),
    (77, "white_matter_hypointensity", "white_matter"),
    (85, "optic_chiasm", "white_matter"),
)

_AROUND_BRAIN: tuple[tuple[int, str, str], ...] = (
    (0, "background", "background"),
    (24, "csf", "sulcal_csf"),
    (165, "skull", "cortical_bone"),
    (258, "soft_tissue", "muscle"),
    (259, "eye", "vitreous"),
    # No prior of its own; blood is blood, and vessels are background to the network.
    (502, "artery", "arterial_blood"),
    (506, "eye", "vitreous"),
    (507, "soft_tissue", "muscle"),
    (508, "eye_muscle", "muscle"),
    (509, "nasal_mucosa", "mucosa"),
    (511, "skin", "skin"),
    (512, "spinal_cord", "grey_white_partial_volume"),
    (514, "vein", "venous_blood"),
    (515, "cortical_bone", "cortical_bone"),
    (516, "bone_marrow", "bone_marrow"),
    (530, "optic_nerve", "white_matter"),
)

SYNTHSEG = LabelScheme(
    name="synthseg",
    labels={
        **{left: (structure, tissue) for left, _, structure, tissue in _PAIRED},
        **{right: (structure, tissue) for _, right, structure, tissue in _PAIRED},
        **{label: (structure, tissue) for label, structure, tissue in _UNPAIRED_BRAIN + _AROUND_BRAIN},
    },
    pairs=tuple((left, right) for left, right, _, _ in _PAIRED),
    brain_ids=(
        *(label for left, right, _, _ in _PAIRED for label in (left, right)),
        *(label for label, _, _ in _UNPAIRED_BRAIN),
    ),
    sulcal_csf_ids=(24,),
    soft_tissue_ids=(258, 507),
    skin_ids=(511,),
    orbit_ids=(259, 506, 508, 530),
)
"""FreeSurfer numbers with the extra-cerebral labels of whole-head maps: SynthSeg, SynthSR and lab2im."""

COLIN27 = LabelScheme(
    name="colin27",
    labels={
        0: ("background", "background"),
        # The ventricles bear the same label as the fluid around the brain.
        1: ("csf", "sulcal_csf"),
        2: ("grey_matter", "cortical_grey_matter"),
        3: ("white_matter", "white_matter"),
        4: ("fat", "fat"),
        5: ("muscle", "muscle"),
        6: ("skin", "skin"),
        7: ("skull", "cortical_bone"),
        # A film of one voxel on the wall of the ventricles.
        8: ("glial_matter", "cortical_grey_matter"),
        # Fills the scalp between the layers of fat; its T1 and T2 are nearer to those of fat than of muscle.
        9: ("connective_tissue", "fat"),
    },
    brain_ids=(2, 3, 8),
    sulcal_csf_ids=(1,),
)
"""Classes of the Colin27 head model; the hemispheres and the deep nuclei have no labels of their own."""

LABEL_SCHEMES: Mapping[str, LabelScheme] = MappingProxyType(
    {scheme.name: scheme for scheme in (SYNTHSEG, COLIN27)}
)
"""Every scheme by its name."""


def lookup_table(scheme: LabelScheme) -> Tensor:
    """Make the table that turns label ids into tissue indices.

    Args:
        scheme: The meaning of the ids.

    Returns:
        int64 (largest id + 1,): index into :data:`TISSUES`, or -1 where the scheme has no such id.

    Example:
        >>> TISSUES[lookup_table(SYNTHSEG)[24]]
        'sulcal_csf'
    """
    table = torch.full((max(scheme.labels) + 1,), -1, dtype=torch.int64)
    for label, (_, tissue) in scheme.labels.items():
        table[label] = TISSUES.index(tissue)
    return table


def to_tissues(
    labels: Tensor,
    scheme: LabelScheme,
    *,
    spacing: float = 1.0,
    fat_depth: float = 4.0,
    orbit_radius: float = 12.0,
) -> Tensor:
    """Turn a label map into a tissue map.

    Labels of soft tissue become fat within ``fat_depth`` of the skin (or of the air, in a map without skin)
    and within ``orbit_radius`` of the eye, its muscles and its nerve; muscle elsewhere. Both distances are
    those of a cube; 0 for both leaves all of it muscle.

    Args:
        labels: Any number type, (X, Y, Z), holding whole numbers.
        scheme: The meaning of the labels.
        spacing: Edge of a voxel [mm].
        fat_depth: Thickness of the fat under the skin [mm].
        orbit_radius: Reach of the fat around the contents of the orbit [mm].

    Returns:
        uint8 (X, Y, Z): indices into :data:`TISSUES`.

    Raises:
        LabelError: Labels are not whole numbers, or the scheme does not know them.

    Example:
        >>> tissues = to_tissues(torch.tensor([[[0.0, 2.0, 24.0]]]), SYNTHSEG)
        >>> [TISSUES[i] for i in tissues.flatten()]
        ['background', 'white_matter', 'sulcal_csf']
    """
    ids = _whole_numbers(labels)
    tissues = _look_up(ids, lookup_table(scheme).to(torch.int8), otherwise=-1)
    unknown = tissues < 0
    if bool(unknown.any()):
        found, counts = torch.unique(ids[unknown], return_counts=True)
        listing = ", ".join(f"{i} ({n} voxels)" for i, n in zip(found.tolist(), counts.tolist(), strict=True))
        raise LabelError(
            f"label map has labels that scheme {scheme.name!r} does not know: {listing}; "
            "use the scheme the map was made with, or set these labels to 0"
        )
    tissues = tissues.to(torch.uint8)
    soft = _among(ids, scheme.soft_tissue_ids)
    if bool(soft.any()):
        skin = _among(ids, scheme.skin_ids)
        if not bool(skin.any()):
            skin = tissues == TISSUES.index("background")
        near = _dilate(skin, round(fat_depth / spacing))
        near |= _dilate(_among(ids, scheme.orbit_ids), round(orbit_radius / spacing))
        tissues[soft & near] = TISSUES.index("fat")
    return tissues


def coarse_affine(affine: Tensor, factor: int) -> Tensor:
    """Give the affine of a grid coarser by a whole factor.

    Args:
        affine: float64 (4, 4), fine voxel -> RAS mm.
        factor: Edge of a coarse voxel in fine voxels.

    Returns:
        float64 (4, 4), coarse voxel -> RAS mm.

    Example:
        >>> coarse_affine(torch.eye(4, dtype=torch.float64), 2)[0].tolist()
        [2.0, 0.0, 0.0, 0.5]
    """
    shrink = torch.diag(torch.tensor([factor, factor, factor, 1], dtype=torch.float64))
    shrink[:3, 3] = (factor - 1) / 2
    return affine.to(torch.float64) @ shrink


def segmentation_class(tissue: str) -> str:
    """Name the class that a network learns for a tissue.

    Args:
        tissue: A name from :data:`TISSUES`.

    Returns:
        A name from :data:`SEGMENTATION_CLASSES`; everything outside brain and fluid is background.

    Raises:
        LabelError: There is no such tissue.

    Example:
        >>> segmentation_class("thalamus"), segmentation_class("venous_blood")
        ('grey_matter', 'background')
    """
    if tissue not in TISSUES:
        raise LabelError(f"unknown tissue {tissue!r}; use one of {TISSUES}")
    return _CLASS_OF_TISSUE.get(tissue, "background")


def tissue_mask(labels: Tensor, scheme: LabelScheme) -> Tensor:
    """Mark brain tissue: the brain without its fluid spaces, vessels and choroid plexus.

    Args:
        labels: Any number type, (X, Y, Z), holding whole numbers.
        scheme: The meaning of the labels.

    Returns:
        bool (X, Y, Z).

    Example:
        >>> tissue_mask(torch.tensor([[[2, 4, 24, 512]]]), SYNTHSEG).flatten().tolist()
        [True, False, False, False]
    """
    solid = {"grey_matter", "white_matter"}
    keep = [i for i in scheme.brain_ids if segmentation_class(scheme.labels[i][1]) in solid]
    return _among(_whole_numbers(labels), keep)


def brain_mask(labels: Tensor, scheme: LabelScheme, *, spacing: float = 1.0, closing: float = 6.0) -> Tensor:
    """Mark the brain as a skull-stripping tool would: tissue, ventricles, and the fluid inside the sulci.

    The labels of the brain are closed (dilated, then eroded by a cube) and cleared of bone, skin and other
    tissue from outside the meninges.

    Args:
        labels: Any number type, (X, Y, Z), holding whole numbers.
        scheme: The meaning of the labels.
        spacing: Edge of a voxel [mm].
        closing: Half the width of the widest sulcus to fill [mm].

    Returns:
        bool (X, Y, Z).

    Raises:
        LabelError: The map has no brain label.

    Example:
        >>> labels = torch.zeros(30, 30, 30)
        >>> labels[5:25, 5:25, 5:25] = 3
        >>> labels[12:15, 12:25, 5:25] = 24
        >>> int(brain_mask(labels, SYNTHSEG).sum())
        8000
    """
    ids = _whole_numbers(labels)
    brain = _among(ids, scheme.brain_ids)
    if not bool(brain.any()):
        raise LabelError(
            f"label map has no brain label of scheme {scheme.name!r}; "
            f"it has {torch.unique(ids).tolist()[:10]}"
        )
    radius = max(round(closing / spacing), 0)
    box = tuple(
        slice(max(int(where.min()) - radius, 0), int(where.max()) + radius + 1)
        for where in brain.nonzero(as_tuple=True)
    )
    roomy = pad(brain[box], (radius + 1,) * 6)
    inner = slice(radius + 1, -radius - 1)
    closed = torch.zeros_like(brain)
    closed[box] = ~_dilate(~_dilate(roomy, radius), radius)[inner, inner, inner]
    outside = {"fat", "muscle", "cortical_bone", "bone_marrow", "skin", "mucosa", "vitreous"}
    extra_cerebral = [
        i for i, (_, tissue) in scheme.labels.items() if tissue in outside and i not in scheme.brain_ids
    ]
    return (closed & ~_among(ids, extra_cerebral)) | brain


def clean(labels: Tensor, scheme: LabelScheme, *, spacing: float = 1.0) -> Tensor:
    """Drop specks in the air around the head, and fill unlabelled gaps in the brain and its sulci with fluid.

    Some maps carry specks of fluid or tissue away from the head, traces of the coil; some, brain-only ones
    above all, leave the fluid around the brain unlabelled.

    Args:
        labels: Any number type, (X, Y, Z), holding whole numbers.
        scheme: The meaning of the labels.
        spacing: Edge of a voxel [mm].

    Returns:
        int32 (X, Y, Z): the labels, with everything but the largest connected part set to 0, and 0 inside
        :func:`brain_mask` set to the first of ``scheme.sulcal_csf_ids``.

    Raises:
        LabelError: The map has no brain label.

    Example:
        >>> labels = torch.zeros(9, 9, 9)
        >>> labels[3:6, 3:6, 3:6] = 3
        >>> labels[4, 4, 4], labels[0, 0, 0] = 0, 24
        >>> cleaned = clean(labels, SYNTHSEG)
        >>> cleaned[4, 4, 4].item(), cleaned[0, 0, 0].item()
        (24, 0)
    """
    ids = _whole_numbers(labels).clone()
    parts = torch.from_numpy(label_components((ids > 0).cpu().numpy())[0])
    sizes = torch.bincount(parts.flatten())
    sizes[0] = 0
    if int((sizes > 0).sum()) > 1:
        ids[(parts != sizes.argmax()).to(ids.device)] = 0
    if scheme.sulcal_csf_ids:
        ids[(ids == 0) & brain_mask(ids, scheme, spacing=spacing)] = scheme.sulcal_csf_ids[0]
    return ids


def _whole_numbers(labels: Tensor) -> Tensor:
    if labels.ndim != 3:
        raise LabelError(f"expected a label map (X, Y, Z), got shape {tuple(labels.shape)}")
    if not labels.is_floating_point():
        return labels.to(torch.int32)
    ids = labels.round().to(torch.int32)
    if not bool((ids == labels).all()):
        bad = labels[ids != labels]
        raise LabelError(
            f"expected whole numbers in a label map, got {float(bad[0])} and {len(bad) - 1} more; "
            "resample label maps with nearest-neighbour interpolation only"
        )
    return ids


def _among(ids: Tensor, wanted: tuple[int, ...] | list[int]) -> Tensor:
    if not wanted:
        return torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
    table = torch.zeros(max(wanted) + 1, dtype=torch.bool)
    table[list(wanted)] = True
    return _look_up(ids, table, otherwise=False)


def _look_up(ids: Tensor, table: Tensor, *, otherwise: int) -> Tensor:
    """Read a table at the ids of a map; those below zero or past its end give ``otherwise``."""
    ends = torch.full((1,), otherwise, dtype=table.dtype)
    rows = torch.cat([ends, table.cpu(), ends]).to(ids.device)
    places = ids.clamp(-1, len(table)).add_(1)
    return rows.index_select(0, places.reshape(-1)).reshape(ids.shape)


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """Dilate by a cube of edge 2 * radius + 1 voxels."""
    if radius < 1:
        return mask
    for axis in range(3):
        mask = _widen(mask, axis, radius)
    return mask


def _widen(mask: Tensor, axis: int, radius: int) -> Tensor:
    """Mark what has a marked voxel within some voxels along an axis; windows double until wide enough."""
    width, seen = 2 * radius + 1, 1
    margins = [0] * 6
    margins[2 * (2 - axis)] = margins[2 * (2 - axis) + 1] = radius
    wide = pad(mask, margins)
    while seen < width:
        step = min(seen, width - seen)
        left = wide.shape[axis] - step
        wide = wide.narrow(axis, 0, left) | wide.narrow(axis, step, left)
        seen += step
    return wide


def tissue_groups(*groups: tuple[str, ...]) -> torch.Tensor:
    """Tell which tissues belong to which group, as `mix` takes it.

    Args:
        groups: Names of ``TISSUES`` each.

    Returns:
        float32 (tissues, groups), 1 for the members of a group.

    Example:
        >>> tissue_groups(("white_matter",)).sum()
        tensor(1.)
    """
    return torch.tensor([[float(tissue in group) for group in groups] for tissue in TISSUES])
