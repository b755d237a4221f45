"""A data set of quantitative maps of the ellipsoid phantom, as files."""

from pathlib import Path

import torch

from anystroke.anatomy.tissues.classes import CLASSES
from anystroke.anatomy.tissues.deformation import DeformationSettings
from anystroke.core.volume import Volume
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

SPACING = 4.0
STILL = DeformationSettings(rotation=0, scaling=0, shear=0, translation=0, elastic=0, mirror=0)
_SUFFIXES = {"PDmap": "proton_density", "R1map": "r1", "R2starmap": "r2star", "MTsat": "mt_saturation"}


def write_map_subject(
    folder: Path, name: str, *, key: int = 1, brain: bool = True, lesion: bool = True, r2: bool = False
) -> None:
    """Write the maps, the lesion mask and the brain mask of one subject."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = SynthesisSettings(
        spacing=SPACING, shapes=((52, 60, 50),), deformation=STILL, leukoaraiosis=0.0
    )
    sample = Generator(settings).generate(ellipsoid_anatomy(), [sphere_lesion()] if lesion else [], key=key)
    for suffix, each in {**_SUFFIXES, **({"R2map": "r2"} if r2 else {})}.items():
        Volume(sample.maps[each][None], sample.affine).save(folder / f"{name}_{suffix}.nii.gz")
    mask = (sample.target == CLASSES.index("lesion"))[None]
    Volume(mask, sample.affine).save(folder / f"{name}_label-L_mask.nii.gz")
    if brain:
        inside = (sample.target > 0) & (sample.maps["proton_density"] > 0)
        Volume(inside[None], sample.affine).save(folder / f"{name}_desc-brain_mask.nii.gz")


def load(path: Path) -> torch.Tensor:
    """Return the voxels of a file in RAS order."""
    return Volume.load(path).reorient("RAS").data[0]
