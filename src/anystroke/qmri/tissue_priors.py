"""Tissue priors: how the quantitative maps of each tissue are spread over and within people.

The numbers are in tables: ``tissue_priors.toml`` from the literature, ``paper_priors.toml`` as published with
qSynth, each tissue with its source. A draw is hierarchical: first a subject's tissue means and within-tissue
SDs, then (elsewhere) the voxels around them.
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anystroke.core.errors import AnystrokeError
from anystroke.core.files import atomic_path

MAPS = ("proton_density", "r1", "r2", "r2star", "mt_saturation", "adc")
"""The quantitative maps, in the order of every maps axis: p.u., 1/s, 1/s, 1/s, p.u., mm^2/s."""

TAGS = ("V", "M", "E")
"""What a number rests on: read in the source or computed, literature, engineering estimate."""

_R1, _R2, _R2STAR = MAPS.index("r1"), MAPS.index("r2"), MAPS.index("r2star")
_R2_FIELDS = ("tissue", "fluid")
_SHIPPED = {"literature": "tissue_priors.toml", "paper": "paper_priors.toml"}
_TABLE_KEYS = {"reference_field", "field_scaling", "correlations", "tissues"}
_TISSUE_KEYS = {*MAPS, "source", "tag", "t1_field_exponent", "r2_field"}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class PriorError(AnystrokeError):
    """A prior table cannot be understood, or lacks a tissue that was asked for."""


@dataclass(frozen=True, kw_only=True)
class TissueDraw:
    """One subject's tissues.

    Attributes:
        names: The tissues, one per row.
        field_strength: Static field that the rates belong to, T.
        mean: Mean of each map in each tissue, float32 (tissues, 6), in the order and units of ``MAPS``.
        sd: SD within the tissue, float32 (tissues, 6).
    """

    names: tuple[str, ...]
    field_strength: float
    mean: Tensor
    sd: Tensor


@dataclass(frozen=True, kw_only=True)
class TissuePriors:
    """Population distributions of the tissues' quantitative maps.

    Attributes:
        names: The tissues, in table order.
        mean: Mean over subjects at the reference field, float64 (tissues, 6).
        sd_of_means: SD of the subjects' means, float64 (tissues, 6).
        sd: Mean SD within a subject's tissue, float64 (tissues, 6).
        sd_of_sds: SD of that SD over subjects, float64 (tissues, 6).
        t1_field_exponent: Exponent of T1's growth with the field, float64 (tissues,).
        r2_field: ``"tissue"`` or ``"fluid"`` for each tissue: which line R2 follows with the field.
        field_lines: Intercept and slope (1/T) of ``r2_tissue``, ``r2_fluid`` and ``r2star``.
        reference_field: Field of the table, T.
        correlation_factor: Lower Cholesky factor of the correlation of a tissue's deviations over maps,
            float64 (6, 6).
        sources: Where each tissue's numbers come from.
        tags: What they rest on: V read or computed, M literature, E estimate.
        map_tags: For some tissues, maps whose central values rest on something else than the tissue's tag.
        spread_tags: What the spreads rest on, where that is not E.
        aliases: Other names for tissues of the table. Aliases of one tissue share its draw.
        sd_temperature: Factor on the SDs within a tissue and on their spread.
        subjects: For fitted tissues, the number of subjects behind each map.
    """

    names: tuple[str, ...]
    mean: Tensor
    sd_of_means: Tensor
    sd: Tensor
    sd_of_sds: Tensor
    t1_field_exponent: Tensor
    r2_field: tuple[str, ...]
    field_lines: Mapping[str, tuple[float, float]]
    reference_field: float
    correlation_factor: Tensor
    sources: Mapping[str, str]
    tags: Mapping[str, str]
    map_tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    spread_tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    sd_temperature: float = 1.0
    subjects: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def tag(self, tissue: str, map_name: str, *, spread: bool = False) -> str:
        """Tell what a number of the table rests on.

        Args:
            tissue: Tissue name or alias.
            map_name: One of ``MAPS``.
            spread: Ask for the three spreads instead of the central value.

        Returns:
            V (read in the source or computed), M (literature) or E (engineering estimate).

        Raises:
            PriorError: If there is no such tissue or map.

        Example:
            >>> load_table().tag("fat", "r1"), load_table().tag("fat", "r1", spread=True)
            ('M', 'E')
        """
        if map_name not in MAPS:
            raise PriorError(f"there is no map {map_name!r}; the maps are {', '.join(MAPS)}")
        name = self.names[self.rows([tissue])[0]]
        if spread:
            return self.spread_tags.get(name, "E")
        return self.map_tags.get(name, {}).get(map_name, self.tags[name])

    def rows(self, names: Sequence[str]) -> list[int]:
        """Find the table rows of tissues.

        Args:
            names: Tissue names or aliases.

        Returns:
            Row of each.

        Raises:
            PriorError: If the table lacks one of them.

        Example:
            >>> load_table().rows(["background"])
            [0]
        """
        index = {name: row for row, name in enumerate(self.names)}
        index |= {alias: index[name] for alias, name in self.aliases.items()}
        if missing := [name for name in names if name not in index]:
            raise PriorError(
                f"the prior table has no tissue {', '.join(map(repr, missing))}; it has {', '.join(index)}"
            )
        return [index[name] for name in names]

    def field_factors(self, names: Sequence[str], field_strength: float) -> Tensor:
        """Compute how each map of each tissue scales from the reference field to another.

        R1 falls as ``(B0 / reference) ** -exponent``; R2 and R2* grow linearly; the other maps stay.

        Args:
            names: Tissue names.
            field_strength: Static field, T.

        Returns:
            Factors, float64 (tissues, 6); all 1 at the reference field.

        Raises:
            PriorError: If a tissue is missing or the field is not positive.

        Source:
            Wright et al., MAGMA 21:121 (2008); Cox, Gowland, Proc ISMRM (2010); Peters et al., Magn Reson
            Imaging 25:748 (2007).

        Example:
            >>> round(load_table().field_factors(["white_matter"], 1.5)[0, 1].item(), 3)
            1.292
        """
        if not (math.isfinite(field_strength) and field_strength > 0.0):
            raise PriorError(f"field_strength must be finite and above 0 T, got {field_strength!r}")
        rows = self.rows(names)
        factors = torch.ones(len(rows), len(MAPS), dtype=torch.float64)
        factors[:, _R1] = (field_strength / self.reference_field) ** -self.t1_field_exponent[rows]
        growth = [self._growth(f"r2_{self.r2_field[row]}", field_strength) for row in rows]
        factors[:, _R2] = torch.tensor(growth, dtype=torch.float64)
        factors[:, _R2STAR] = self._growth("r2star", field_strength)
        return factors

    def _growth(self, line: str, field_strength: float) -> float:
        intercept, slope = self.field_lines[line]
        return (intercept + slope * field_strength) / (intercept + slope * self.reference_field)

    def sample(
        self,
        rng: torch.Generator,
        names: Sequence[str],
        field_strength: float = 3.0,
        *,
        spread: float = 1.0,
    ) -> TissueDraw:
        """Draw one subject's tissue means and within-tissue SDs.

        Each tissue deviates from its population mean by its own normal vector over the six maps, correlated
        as the table says: R1 with MT (+) and R2* (+), PD with R1 (-). Tissues are independent of each other,
        but aliases of one tissue are the same tissue. SDs are scaled by the table's temperature. Means and
        SDs that come out negative are reflected at 0; rates are then scaled to the field, and R2* is raised
        to R2 where it fell below. A tissue without spread (background) comes out as in the table.

        Args:
            rng: The random stream.
            names: The tissues wanted, one row each.
            field_strength: Static field, T.
            spread: Factor on the spread of means between subjects, for training on more than the population.

        Returns:
            Means and SDs, none negative, R2* at least R2, on the stream's device.

        Raises:
            PriorError: If a tissue is missing, the field is not positive or the spread is negative.

        Example:
            >>> from anystroke.core.rng import stream
            >>> load_table().sample(stream(1), ["background", "white_matter"]).mean.shape
            torch.Size([2, 6])
        """
        if not (math.isfinite(spread) and spread >= 0.0):
            raise PriorError(f"spread must be finite and at least 0, got {spread!r}")
        rows = self.rows(names)
        factors = self.field_factors(names, field_strength)
        draws = torch.randn(2, len(rows), len(MAPS), generator=rng, device=rng.device, dtype=torch.float64)
        first: dict[int, int] = {}
        own = [first.setdefault(r, i) if names[i] in self.aliases else i for i, r in enumerate(rows)]
        deviation, uncertainty = draws.cpu()[:, own]
        deviation = (deviation[:, None] * self.correlation_factor).sum(-1)
        mean = (self.mean[rows] + spread * deviation * self.sd_of_means[rows]).abs() * factors
        mean[:, _R2STAR] = torch.maximum(mean[:, _R2STAR], mean[:, _R2])
        sd = (self.sd[rows] + uncertainty * self.sd_of_sds[rows]).abs() * (self.sd_temperature * factors)
        return TissueDraw(
            names=tuple(names),
            field_strength=field_strength,
            mean=mean.to(rng.device, torch.float32),
            sd=sd.to(rng.device, torch.float32),
        )


def load_table(path: str | Path | None = None) -> TissuePriors:
    """Load a prior table.

    Args:
        path: A TOML file laid out like ``tissue_priors.toml``, or the name of a table of the package:
            ``"literature"`` (the default) or ``"paper"`` (the classes c01 to c09 published with qSynth, at
            one field, with tissue names as aliases).

    Returns:
        The priors.

    Raises:
        PriorError: If the file is missing, is not TOML, or has unknown, missing or impossible entries.

    Example:
        >>> "white_matter" in load_table().names, load_table("paper").names[1]
        (True, 'c01')
    """
    name = "literature" if path is None else str(path)
    source = resources.files("anystroke.qmri") / _SHIPPED[name] if name in _SHIPPED else Path(name)
    try:
        data = tomllib.loads(source.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise PriorError(
            f"there is no prior table at {name!r}; give a TOML file or one of {', '.join(_SHIPPED)}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PriorError(f"{source} is not valid TOML: {error}") from error
    return _read_table(data, where=str(source))


def save_table(priors: TissuePriors, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a prior table that ``load_table`` reads back, to six digits.

    Args:
        priors: The table.
        path: TOML file to make; its folder must exist.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileExistsError: If the file exists and ``overwrite`` is False.
        FileNotFoundError: If its folder does not exist.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "priors.toml"
        >>> save_table(load_table(), file)
        >>> bool((load_table(file).mean == load_table().mean).all())
        True
    """
    lines = [
        "# Each map: [mean over subjects, SD of that mean between them, SD within a tissue, SD of that SD];",
        "# proton_density and mt_saturation in p.u., r1, r2, r2star in 1/s, adc in mm^2/s.",
        f"reference_field = {_number(priors.reference_field)}",
        *_section("field_scaling", {key: list(line) for key, line in priors.field_lines.items()}),
        *_section("sampling", {"sd_temperature": priors.sd_temperature}),
    ]
    if priors.aliases:
        lines += _section("aliases", priors.aliases)
    lines += _section("correlations", _pairs(priors.correlation_factor))
    table = torch.stack([priors.mean, priors.sd_of_means, priors.sd, priors.sd_of_sds], -1).tolist()
    for row, name in enumerate(priors.names):
        entry: dict[str, Any] = {
            "source": priors.sources[name],
            "tag": priors.tags[name],
            "spread_tag": priors.spread_tags.get(name, "E"),
        }
        if tags := priors.map_tags.get(name):
            entry["map_tags"] = tags
        if counts := priors.subjects.get(name):
            entry["subjects"] = list(counts)
        entry["t1_field_exponent"] = float(priors.t1_field_exponent[row])
        entry["r2_field"] = priors.r2_field[row]
        lines += _section(f"tissues.{_key(name)}", entry | dict(zip(MAPS, table[row], strict=True)))
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _section(name: str, entries: Mapping[str, Any]) -> list[str]:
    return ["", f"[{name}]", *(f"{_key(key)} = {_value(value)}" for key, value in entries.items())]


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())} }}"
    return str(value) if isinstance(value, int) else _number(value)


def _number(value: float) -> str:
    return repr(float(f"{value:.6g}"))


def _pairs(factor: Tensor) -> dict[str, dict[str, float]]:
    """Name the pairs of maps that a Cholesky factor correlates."""
    matrix = (factor @ factor.T).round(decimals=6).tolist()
    pairs: dict[str, dict[str, float]] = {}
    for row, first in enumerate(MAPS):
        others = {name: matrix[row][i] for i, name in enumerate(MAPS) if i > row and matrix[row][i]}
        if others:
            pairs[first] = others
    return pairs


def _read_table(data: Mapping[str, Any], *, where: str) -> TissuePriors:
    _check_keys(data, _TABLE_KEYS, where=where, optional={"aliases", "sampling"})
    tissues: dict[str, dict[str, Any]] = data["tissues"]
    for name, entry in tissues.items():
        _check_tissue(entry, where=f"tissue {name!r}")
    _check_keys(data["field_scaling"], {"r2_tissue", "r2_fluid", "r2star"}, where="field_scaling")
    sampling = data.get("sampling", {})
    _check_keys(sampling, set(), where="sampling", optional={"sd_temperature"})
    temperature = sampling.get("sd_temperature", 1.0)
    if not (isinstance(temperature, (int, float)) and 0.0 <= temperature < math.inf):
        raise PriorError(f"sampling, sd_temperature: expected a number of at least 0, got {temperature!r}")
    aliases = data.get("aliases", {})
    for alias, name in aliases.items():
        if name not in tissues or alias in tissues:
            raise PriorError(
                f"aliases: expected another name for one of {', '.join(tissues)}, got {alias} = {name!r}"
            )
    table = torch.tensor([[entry[key] for key in MAPS] for entry in tissues.values()], dtype=torch.float64)
    exponents = [entry["t1_field_exponent"] for entry in tissues.values()]
    mean, sd_of_means, sd, sd_of_sds = table.unbind(-1)
    return TissuePriors(
        names=tuple(tissues),
        mean=mean,
        sd_of_means=sd_of_means,
        sd=sd,
        sd_of_sds=sd_of_sds,
        t1_field_exponent=torch.tensor(exponents, dtype=torch.float64),
        r2_field=tuple(entry["r2_field"] for entry in tissues.values()),
        field_lines={key: (float(a), float(b)) for key, (a, b) in data["field_scaling"].items()},
        reference_field=float(data["reference_field"]),
        correlation_factor=_correlation_factor(data["correlations"]),
        sources={name: entry["source"] for name, entry in tissues.items()},
        tags={name: entry["tag"] for name, entry in tissues.items()},
        map_tags={name: entry["map_tags"] for name, entry in tissues.items() if "map_tags" in entry},
        spread_tags={name: entry["spread_tag"] for name, entry in tissues.items() if "spread_tag" in entry},
        aliases=aliases,
        sd_temperature=float(temperature),
        subjects={name: tuple(entry["subjects"]) for name, entry in tissues.items() if "subjects" in entry},
    )


def _check_keys(
    data: Mapping[str, Any], expected: set[str], *, where: str, optional: set[str] | None = None
) -> None:
    known = expected | (optional or set())
    if unknown := sorted(set(data) - known):
        raise PriorError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    if missing := sorted(expected - set(data)):
        raise PriorError(f"{where}: missing {', '.join(missing)}")


def _check_tissue(entry: Mapping[str, Any], *, where: str) -> None:
    _check_keys(entry, _TISSUE_KEYS, where=where, optional={"map_tags", "spread_tag", "subjects"})
    for key in MAPS:
        numbers = entry[key]
        valid = isinstance(numbers, list) and len(numbers) == 4
        valid = valid and all(isinstance(x, (int, float)) and 0.0 <= x < math.inf for x in numbers)
        if not valid:
            raise PriorError(
                f"{where}, {key}: expected [mean, SD of means, SD, SD of SDs], all >= 0, got {numbers!r}"
            )
    if entry["tag"] not in TAGS or entry["r2_field"] not in _R2_FIELDS:
        raise PriorError(
            f"{where}: tag must be one of {', '.join(TAGS)} and r2_field one of {', '.join(_R2_FIELDS)}, "
            f"got {entry['tag']!r} and {entry['r2_field']!r}"
        )
    map_tags = entry.get("map_tags", {})
    if not (set(map_tags) <= set(MAPS) and {*map_tags.values(), entry.get("spread_tag", "E")} <= set(TAGS)):
        raise PriorError(
            f"{where}: map_tags must give some of {', '.join(MAPS)} a tag and spread_tag be one, each of "
            f"{', '.join(TAGS)}; got {map_tags!r} and {entry.get('spread_tag')!r}"
        )
    counts = entry.get("subjects", [0] * len(MAPS))
    if len(counts) != len(MAPS) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise PriorError(f"{where}: subjects must be {len(MAPS)} counts, one per map, got {counts!r}")
    if not str(entry["source"]).strip():
        raise PriorError(f"{where}: source is empty; say where the numbers come from")


def _correlation_factor(pairs: Mapping[str, Mapping[str, float]]) -> Tensor:
    """Factorise the matrix that named pairs fill; refuse one that no random vector can have."""
    matrix = torch.eye(len(MAPS), dtype=torch.float64)
    for first, others in pairs.items():
        for second, value in others.items():
            if first not in MAPS or second not in MAPS or first == second:
                raise PriorError(f"correlations: {first!r}-{second!r} is not a pair of {', '.join(MAPS)}")
            row, column = MAPS.index(first), MAPS.index(second)
            matrix[row, column] = matrix[column, row] = value
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise PriorError("correlations: the matrix is not positive definite; make the numbers smaller")
    return factor
