"""Scans of a few participants, and the table that says who they are."""

from pathlib import Path

import torch

from anystroke.core.rng import stream
from anystroke.core.volume import Volume

PEOPLE = {f"sub-{number:02d}": "MF"[number % 2] for number in range(10)}


def write_participants(folder: Path, *, side: int = 32, spacing: float = 8.0) -> Path:
    """Write a bright ball for each participant, larger for one sex; what is there stays.

    Args:
        folder: Gets scans and ``participants.tsv``.
        side: Voxels.
        spacing: Their size in mm.

    Returns:
        The table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    axes = torch.meshgrid(*(torch.arange(side) - side / 2,) * 3, indexing="ij")
    distance = torch.stack(axes).square().sum(0).sqrt()
    affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
    for number, (name, sex) in enumerate(PEOPLE.items()):
        path = folder / f"{name}_T1w.nii.gz"
        if not path.exists():
            radius = side / 4 if sex == "M" else side / 3
            noise = torch.rand(distance.shape, generator=stream(number, "participant"))
            Volume(((distance < radius) * (1 + noise))[None].float(), affine).save(path)
    table = folder / "participants.tsv"
    rows = [f"{name}\t{sex}\t{20 + number}\tone" for number, (name, sex) in enumerate(PEOPLE.items())]
    table.write_text("participant_id\tsex\tage\tsite\n" + "\n".join(rows) + "\n")
    return table
