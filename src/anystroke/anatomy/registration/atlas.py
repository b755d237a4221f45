"""Regions of the brain in MNI space, such as arterial territories, with their names."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anystroke.core.errors import AnystrokeError
from anystroke.core.files import sha256
from anystroke.core.volume import Volume, VolumeError
from anystroke.io.names import Name

_NAME_COLUMNS = ("name", "region", "territory", "label")
_NUMBER_COLUMNS = ("index", "value", "number", "id")
_MOST_REGIONS = 2000
# All of a human brain in MNI space lies in this box [mm].
_MNI_BOX = ((-90.0, 90.0), (-126.0, 90.0), (-75.0, 110.0))


class AtlasError(AnystrokeError):
    """An atlas that cannot be used; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Numbered regions in MNI space.

    Attributes:
        labels: int64 (1, X, Y, Z); 0 is outside of all regions.
        names: Of the numbers.
        source: File name.
        sha256: Of the file.
    """

    labels: Volume
    names: dict[int, str]
    source: str
    sha256: str

    @classmethod
    def load(cls, path: str | Path, names: str | Path | None = None) -> "Atlas":
        """Read a label map and its names.

        Args:
            path: Image of whole numbers in MNI space.
            names: Text file with a region a line, as `read_names` takes it; by default the .tsv or .txt file
                of the image's name beside it. A region without a name is called by its number.

        Raises:
            AtlasError: The file is no label map in MNI space, or the names cannot be read.
        """
        path = Path(path)
        try:
            volume = Volume.load(path)
        except (VolumeError, OSError) as error:
            raise AtlasError(f"the atlas cannot be read: {error}") from error
        labels = volume.data[:1].round().to(torch.int64)
        count = len(torch.unique(labels)) - 1
        whole = bool((volume.data[:1] == labels).all()) and int(labels.min()) >= 0
        if not whole or not 1 <= count <= _MOST_REGIONS:
            raise AtlasError(
                f"{path} is no atlas, expected whole numbers from 0 for 1 to {_MOST_REGIONS} regions, got "
                f"values from {float(volume.data.min()):g} to {float(volume.data.max()):g}; give a label map"
            )
        _check_space(Volume(labels, volume.affine), path)
        beside = [Name.parse(path).beside(ending) for ending in (".tsv", ".txt")]
        chosen = Path(names) if names is not None else next((each for each in beside if each.is_file()), None)
        found = read_names(chosen) if chosen else {}
        return cls(Volume(labels, volume.affine, volume.space_code), found, path.name, sha256(path))

    def name(self, number: int) -> str:
        """Return the name of a region, or its number as text."""
        return self.names.get(number, f"region {number}")

    def at(self, points: Tensor) -> Tensor:
        """Look up the regions of points.

        Args:
            points: (N, 3), MNI mm.

        Returns:
            int64 (N,) numbers of the regions; 0 where there is none.

        Example:
            >>> atlas = Atlas(Volume(torch.ones(1, 2, 2, 2).long(), torch.eye(4)), {}, "", "")
            >>> atlas.at(torch.tensor([[0.0, 1.0, 0.2], [5.0, 0.0, 0.0]])).tolist()
            [1, 0]
        """
        inverse = torch.linalg.inv(self.labels.affine)
        index = (points.double() @ inverse[:3, :3].T + inverse[:3, 3]).round().long()
        shape = torch.tensor(self.labels.shape)
        inside = ((index >= 0) & (index < shape)).all(dim=1)
        x, y, z = index.clamp(min=0).minimum(shape - 1).unbind(1)
        return self.labels.data[0][x, y, z].where(inside, 0)


def read_names(path: Path) -> dict[int, str]:
    """Read the names of regions.

    Args:
        path: A BIDS table with the columns ``index`` and ``name``; or lines of a number and a name, between
            them a tab, a bar, a comma or a blank. Of several names in a line the longest is taken.

    Returns:
        Number -> name.

    Raises:
        AtlasError: The file cannot be read, or names nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AtlasError(f"the names of the atlas cannot be read from {path} ({error}); check it") from error
    header = [cell.strip().lower() for cell in (lines or [""])[0].split("\t")]
    number = next((name for name in _NUMBER_COLUMNS if name in header), None)
    name = next((name for name in _NAME_COLUMNS if name in header), None)
    names = {}
    if number and name:
        for row in csv.DictReader(lines[1:], header, delimiter="\t"):
            if str(row[number]).strip().isdecimal() and row[name]:
                names[int(row[number])] = row[name].strip()
    else:
        for line in lines:
            first, _, rest = re.sub(r"[\t|,;]", "|", line.strip()).partition("|")
            if not rest:
                first, _, rest = line.strip().partition(" ")
            words = [word.strip() for word in rest.split("|") if not word.strip().isdecimal()]
            if first.strip().isdecimal() and any(words):
                names[int(first)] = max(words, key=len)
    if not names:
        raise AtlasError(
            f"{path} names no region, expected lines such as '1|MCA|middle cerebral artery' or the columns "
            "index and name; check it"
        )
    return names


def _check_space(labels: Volume, path: Path) -> None:
    """Refuse an atlas that does not lie where the brain is in MNI space."""
    index = (labels.data[0] > 0).nonzero()
    index = index[:: 1 + len(index) // 10_000].double()
    points = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    low, high = torch.tensor(_MNI_BOX, dtype=torch.float64).unbind(1)
    inside = float(((points >= low) & (points <= high)).all(dim=1).double().mean())
    if inside < 0.9:
        raise AtlasError(
            f"{path} does not lie in MNI space: {100 * inside:.0f} % of it are where a brain is, expected at "
            "least 90 %; register it first"
        )
