"""Quantitative maps that were measured: read by their BIDS names, checked, and fit for the simulator."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anystroke.core.volume import SUFFIXES, Volume
from anystroke.io.names import Name
from anystroke.qmri.tissue_priors import MAPS
from anystroke.qmri.units_check import (
    ClampFinding,
    UnitError,
    check_units,
    clamp_maps,
    r2_from_r2star,
)

MAP_SUFFIXES: Mapping[str, str] = {
    "PDmap": "proton_density",
    "R1map": "r1",
    "R2map": "r2",
    "R2starmap": "r2star",
    "MTsat": "mt_saturation",
    "ADC": "adc",
}
"""BIDS suffix -> map."""

_SAME_GRID_MM = 1e-2


@dataclass(frozen=True, kw_only=True)
class MapImages:
    """Map files of one subject on one grid, as they were stored.

    Attributes:
        values: Some of ``MAPS``, each (X, Y, Z) float32, NaN outside a resampled map's field of view.
        affine: float64 (4, 4), voxel -> RAS mm.
        stated: Units that the sidecars state.
        notes: What was done to bring them there.
    """

    values: Mapping[str, Tensor]
    affine: Tensor
    stated: Mapping[str, str]
    notes: tuple[str, ...]


def map_of(path: str | Path) -> str | None:
    """Tell which map a file holds by its BIDS suffix, or None.

    Example:
        >>> map_of("sub-01_R2starmap.nii.gz"), map_of("sub-01_T1w.nii.gz")
        ('r2star', None)
    """
    suffix = Name.parse(path).suffix
    return MAP_SUFFIXES.get("ADC" if suffix == "adc" else suffix)


def find_maps(paths: Iterable[Path]) -> dict[str, Path]:
    """Pick the map files among files of one subject.

    Args:
        paths: Any files.

    Returns:
        File of each map found, in the order of ``MAPS``.

    Raises:
        UnitError: If two files hold the same map.

    Example:
        >>> list(find_maps([Path("sub-1_R1map.nii"), Path("sub-1_PDmap.nii"), Path("sub-1_R1map.json")]))
        ['proton_density', 'r1']
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        name = map_of(path) if path.name.lower().endswith(SUFFIXES) else None
        if name in found:
            raise UnitError(
                f"expected one {name} map, got {found[name]} and {path}; name a session, or the files"
            )
        if name is not None:
            found[name] = path
    return {name: found[name] for name in MAPS if name in found}


def load_images(files: Mapping[str, Path]) -> MapImages:
    """Read map files of one subject; those on other grids are resampled to that of R1, or else the first.

    Args:
        files: Some of ``MAPS`` -> file.

    Returns:
        The maps, in the units of the files.

    Raises:
        VolumeError: If a file is no image of one volume.
        UnitError: If there is no file, a map is unknown, or a sidecar is not JSON.
    """
    if not files:
        raise UnitError(f"expected map files with suffix {', '.join(MAP_SUFFIXES)}, got none")
    if unknown := sorted(set(files) - set(MAPS)):
        raise UnitError(f"there is no map {unknown[0]!r}; the maps are {', '.join(MAPS)}")
    reference = "r1" if "r1" in files else next(iter(files))
    grid = Volume.load(files[reference])
    values, notes, stated = {}, [], {}
    for name, path in files.items():
        volume = grid if name == reference else Volume.load(path)
        if not same_grid(volume, grid):
            volume = volume.resample_to(grid.affine, grid.shape, fill=torch.nan)
            notes.append(f"{path.name} was resampled to the grid of {files[reference].name}")
        values[name] = volume.data[0]
        if unit := _stated_unit(path):
            stated[name] = unit
    return MapImages(values=values, affine=grid.affine, stated=stated, notes=tuple(notes))


def same_grid(first: Volume, second: Volume) -> bool:
    """Tell whether two volumes have the same voxels, to a hundredth of a millimetre."""
    if first.shape != second.shape:
        return False
    size = torch.tensor([*first.shape, 1.0], dtype=torch.float64)
    return float(((first.affine - second.affine).abs() @ size).max()) < _SAME_GRID_MM


def _stated_unit(path: Path) -> str | None:
    sidecar = Name.parse(path).sidecar
    if not sidecar.is_file():
        return None
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnitError(f"{sidecar} is not valid JSON ({error}); mend or remove it") from error
    unit = content.get("Units") if isinstance(content, dict) else None
    return unit if isinstance(unit, str) else None


class MeasuredMaps(Mapping[str, Tensor]):
    """Measured maps of one patient, in the units of ``MAPS``, 0 outside the head.

    Units are told by the median in the brain; R2 is estimated from R2* and R1 where it was not measured;
    values beyond what tissue can have are moved to the limits. All of it is in the findings and notes.

    Args:
        maps: Some of ``MAPS``, each (X, Y, Z), in any unit that `find_unit` knows.
        head: bool (X, Y, Z), where there is tissue; without a brain mask also where units are told.
        brain: bool (X, Y, Z).
        white_matter: bool (X, Y, Z); calibrates PD in arbitrary units.
        field_strength: Static field of the maps, T.
        stated: Units that sidecars state, per map.
        affine: (4, 4), voxel -> RAS mm, for whoever saves what is simulated from the maps.

    Attributes:
        units: What unit each map came in.
        clamps: How many voxels each map's limits changed.
        notes: What else was done.
        field_strength: As above.
        affine: As above.

    Raises:
        UnitError: If a unit cannot be told, a map is not finite in the head, or shapes differ.

    Example:
        >>> r1 = torch.linspace(400.0, 900.0, 1000).view(10, 10, 10)
        >>> maps = MeasuredMaps({"r1": r1}, torch.ones(10, 10, 10, dtype=torch.bool))
        >>> round(float(maps["r1"].max()), 3), maps.units[0].unit
        (0.9, '10^-3/s')
    """

    def __init__(
        self,
        maps: Mapping[str, Tensor],
        head: Tensor,
        *,
        brain: Tensor | None = None,
        white_matter: Tensor | None = None,
        field_strength: float = 3.0,
        stated: Mapping[str, str] | None = None,
        affine: Tensor | None = None,
    ) -> None:
        checked, self.units = check_units(
            maps, head if brain is None else brain, white_matter=white_matter, stated=stated
        )
        self.notes: tuple[str, ...] = ()
        if "r2" not in checked and {"r1", "r2star"} <= checked.keys():
            checked["r2"] = r2_from_r2star(checked["r2star"], checked["r1"], field_strength=field_strength)
            self.notes = ("r2 was not measured and is estimated from r2star and r1",)
        self._maps: dict[str, Tensor]
        self.clamps: tuple[ClampFinding, ...]
        self._maps, self.clamps = clamp_maps(checked, head)
        self.field_strength = field_strength
        self.affine = torch.eye(4, dtype=torch.float64) if affine is None else affine

    @classmethod
    def load(
        cls,
        files: Mapping[str, Path],
        head: Path,
        *,
        brain: Path | None = None,
        field_strength: float = 3.0,
    ) -> "MeasuredMaps":
        """Read maps and masks from files.

        Args:
            files: Some of ``MAPS`` -> file; `find_maps` makes this from BIDS names.
            head: Mask of the tissue, resampled to the maps' grid where it has another.
            brain: Mask of the brain, likewise.
            field_strength: Static field of the maps, T.

        Raises:
            VolumeError: If a file cannot be read.
            UnitError: As in the class.
        """
        images = load_images(files)
        shape = next(iter(images.values.values())).shape
        grid = Volume(torch.empty(1, *shape), images.affine)
        maps = cls(
            images.values,
            mask_on_maps(head, grid),
            brain=None if brain is None else mask_on_maps(brain, grid),
            field_strength=field_strength,
            stated=images.stated,
            affine=images.affine,
        )
        maps.notes = (*images.notes, *maps.notes)
        return maps

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._maps:
            raise KeyError(f"{name}: not measured; there are {', '.join(self._maps)}")
        return self._maps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)


def mask_on_maps(path: Path, grid: Volume) -> Tensor:
    """Read a mask as bool (X, Y, Z) on a grid, resampled with nearest neighbours where it has another.

    Raises:
        VolumeError: If the file is no image of one volume.
    """
    mask = Volume.load(path)
    if not same_grid(mask, grid):
        mask = mask.resample_to(grid.affine, grid.shape, "nearest")
    return mask.data[0] > 0.5
