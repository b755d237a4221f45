"""What the presets really make: 3000 draws of each."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from torch import Tensor

from anystroke.acquisition.base import Protocol
from anystroke.acquisition.presets.preset import load_preset
from anystroke.core.rng import stream
from anystroke.qmri.tissue_priors import MAPS, load_table

TISSUES = (
    "white_matter",
    "cortical_grey_matter",
    "ventricular_csf",
    "acute_infarct",
    "gliotic_rim",
    "chronic_core",
    "background",
)
WM, GM, CSF, ACUTE, RIM, CORE, AIR = range(7)
PEOPLE = 24

# The cystic core of an old lesion is fluid: as dark as CSF on FLAIR, or darker.
ORDERS: dict[str, tuple[str, Callable[[Tensor], object], float]] = {
    "MPRAGE": ("WM>GM>CSF", lambda image: image[WM] > image[GM] > image[CSF], 1.0),
    "MP2RAGE UNI": ("WM>GM>CSF", lambda image: image[WM] > image[GM] > image[CSF], 0.97),
    "T2w TSE 2D": ("CSF>GM>WM", lambda image: image[CSF] > image[GM] > image[WM], 0.97),
    "FLAIR 2D": ("CSF darkest", lambda image: image[:CORE].argmin() == CSF, 0.95),
    "FLAIR 3D": ("CSF darkest", lambda image: image[:CORE].argmin() == CSF, 0.95),
    "DWI": ("acute brightest", lambda image: image.argmax() == ACUTE, 0.99),
    "ADC": ("acute darkest", lambda image: image[:AIR].argmin() == ACUTE, 0.99),
    "DIR": ("GM brightest of the healthy", lambda image: image[:ACUTE].argmax() == GM, 0.7),
}
RIM_BRIGHT = 0.9


@cache
def people(field_strength: float) -> list[dict[str, Tensor]]:
    """Maps of several people, one voxel per tissue."""
    table = load_table()
    draws = [
        table.sample(stream(7, "person", index), TISSUES, field_strength, spread=1.0 if index else 0.0)
        for index in range(PEOPLE)
    ]
    return [dict(zip(MAPS, draw.mean.unbind(1), strict=True)) for draw in draws]


@dataclass
class Counts:
    """How many draws of one contrast had which fault."""

    draws: int = 0
    faults: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    ordered: int = 0
    rim_bright: int = 0

    def add(self, protocol: Protocol, image: Tensor) -> None:
        self.draws += 1
        tissue = image[:AIR]
        span = float(tissue.max() - tissue.min())
        faults = {
            "impossible": bool(protocol.impossible),
            "nan": not bool(image.isfinite().all()),
            "negative": bool((image < 0).any()),
            "black": float(image[[WM, GM]].abs().max()) < black_below(protocol),
            "flat": not span > 0.02 * float(tissue.abs().max()),
        }
        for name, present in faults.items():
            self.faults[name] += present
        self.ordered += protocol.name in ORDERS and bool(ORDERS[protocol.name][1](image))
        self.rim_bright += float(image[RIM]) > max(float(image[WM]), float(image[GM]))


def black_below(protocol: Protocol) -> float:
    """Half a percent of the proton density of white matter, of the range for computed maps."""
    return {"UNIT1": 0.005, "ADC": 5.0}.get(protocol.weighting, 0.35)


def count(preset: str, draws: int) -> dict[str, Counts]:
    loaded = load_preset(preset)
    counts: dict[str, Counts] = defaultdict(Counts)
    for index in range(draws):
        protocol = loaded.sample(stream(index, preset))
        maps = people(protocol.field_strength)[index % PEOPLE]
        counts[protocol.name].add(protocol, protocol.signal(maps))
    return counts


def table(counts: dict[str, Counts]) -> str:
    """Shares in percent, one line per contrast."""
    names = ("impossible", "nan", "negative", "black", "flat")
    lines = [f"{'':20}{'draws':>6}" + "".join(f"{name:>11}" for name in names) + "  order"]
    total = Counts(sum(one.draws for one in counts.values()))
    for name in names:
        total.faults[name] = sum(one.faults[name] for one in counts.values())
    for label, one in [*sorted(counts.items()), ("all", total)]:
        shares = "".join(f"{100 * one.faults[name] / one.draws:11.1f}" for name in names)
        order = f"  {ORDERS[label][0]} {100 * one.ordered / one.draws:.1f}" if label in ORDERS else ""
        order += f", rim bright {100 * one.rim_bright / one.draws:.1f}" if "FLAIR " in label else ""
        lines.append(f"{label:20}{one.draws:6}{shares}{order}")
    return "\n".join(lines)


def check_realistic(counts: dict[str, Counts], tolerance: float) -> None:
    for name, one in counts.items():
        assert not any(one.faults.values()), (name, dict(one.faults))
        if name in ORDERS:
            what, _, share = ORDERS[name]
            assert one.ordered >= (share - tolerance) * one.draws - 1, (name, what, one.ordered, one.draws)
    flairs = [one for name, one in counts.items() if name in ("FLAIR 2D", "FLAIR 3D")]
    assert sum(one.rim_bright for one in flairs) >= (RIM_BRIGHT - tolerance) * sum(
        one.draws for one in flairs
    )


def test_3000_realistic_draws_have_no_fault_and_the_right_order(
    record_property: Callable[[str, object], None],
) -> None:
    counts = count("realistic", 3000)
    record_property("table", table(counts))
    assert len(counts) == 22
    check_realistic(counts, tolerance=0.01)


@pytest.mark.parametrize("preset", ["paper", "paper_code", "qatlas"])
def test_3000_published_draws(preset: str, record_property: Callable[[str, object], None]) -> None:
    counts = count(preset, 3000)
    record_property("table", table(counts))
    assert all(one.faults["nan"] == 0 for one in counts.values())
    if "FSE" in counts:
        assert counts["FSE"].faults["black"] > 0.3 * counts["FSE"].draws
        assert counts["FLAIR"].faults["negative"] > 0.3 * counts["FLAIR"].draws
    if "SPGR" in counts:
        assert counts["SPGR"].faults["negative"] == counts["SPGR"].draws


def test_the_realistic_preset_is_weighted_by_clinical_use() -> None:
    entries = load_preset("realistic").entries
    groups = {
        "T1w 3D": ("MPRAGE", "MP2RAGE UNI", "T1w SPGR 3D", "T1w SPGR 3D long TR"),
        "T1w 2D": ("T1w SE 2D", "T1w FLASH 2D", "T1-FLAIR"),
        "T2w": ("T2w TSE 2D", "T2w TSE 3D", "DWI b=0"),
        "FLAIR": ("FLAIR 2D", "FLAIR 3D"),
        "diffusion": ("DWI", "ADC"),
        "T2*": ("T2* GRE", "SWI magnitude"),
        "rest": ("PDw TSE", "PDw GRE", "MTw GRE", "STIR", "DIR", "bSSFP"),
    }
    wanted = {"T1w 3D": 0.25, "T1w 2D": 0.08, "T2w": 0.2, "FLAIR": 0.25, "diffusion": 0.12, "T2*": 0.06}
    assert {entry.name for entry in entries} == {name for names in groups.values() for name in names}
    for group, share in {**wanted, "rest": 0.04}.items():
        weight = sum(entry.weight for entry in entries if entry.name in groups[group])
        assert weight == pytest.approx(share, abs=0.005), group
    assert torch.tensor([entry.weight for entry in entries]).sum().item() == pytest.approx(1.0)
