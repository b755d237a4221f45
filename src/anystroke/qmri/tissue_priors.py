"""Tissue priors: how the quantitative maps of each tissue are spread over and within people.

The numbers are in ``tissue_priors.toml``, each tissue with its source. A draw is hierarchical: first a
subject's tissue means and within-tissue SDs, then (elsewhere) the voxels around them.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAPS = ("proton_density", "r1", "r2", "r2star", "mt_saturation", "adc")
"""The quantitative maps, in the order of every maps axis: p.u., 1/s, 1/s, 1/s, p.u., mm^2/s."""

_R1, _R2, _R2STAR = MAPS.index("r1"), MAPS.index("r2"), MAPS.index("r2star")
_R2_FIELDS = ("tissue", "fluid")
_TAGS = ("V", "M", "E")


class PriorError(ValueError):
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

    def rows(self, names: Sequence[str]) -> list[int]:
        """Find the table rows of tissues.

        Args:
            names: Tissue names.

        Returns:
            Row of each.

        Raises:
            PriorError: If the table lacks one of them.

        Example:
            >>> load_table().rows(["background"])
            [0]
        """
        index = {name: row for row, name in enumerate(self.names)}
        if missing := [name for name in names if name not in index]:
            raise PriorError(
                f"the prior table has no tissue {', '.join(map(repr, missing))}; "
                f"it has {', '.join(self.names)}"
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
        as the table says: R1 with MT (+) and R2* (+), PD with R1 (-). Tissues are independent of each other.
        Means and SDs that come out negative are reflected at 0; rates are then scaled to the field, and R2*
        is raised to R2 where it fell below. A tissue without spread (background) comes out as in the table.

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
            >>> from anystroke.rng import stream
            >>> load_table().sample(stream(1), ["background", "white_matter"]).mean.shape
            torch.Size([2, 6])
        """
        if not (math.isfinite(spread) and spread >= 0.0):
            raise PriorError(f"spread must be finite and at least 0, got {spread!r}")
        rows = self.rows(names)
        factors = self.field_factors(names, field_strength)
        draws = torch.randn(2, len(rows), len(MAPS), generator=rng, device=rng.device, dtype=torch.float64)
        deviation, uncertainty = draws.cpu()
        deviation = (deviation[:, None] * self.correlation_factor).sum(-1)
        mean = (self.mean[rows] + spread * deviation * self.sd_of_means[rows]).abs() * factors
        mean[:, _R2STAR] = torch.maximum(mean[:, _R2STAR], mean[:, _R2])
        sd = (self.sd[rows] + uncertainty * self.sd_of_sds[rows]).abs() * factors
        return TissueDraw(
            names=tuple(names),
            field_strength=field_strength,
            mean=mean.to(rng.device, torch.float32),
            sd=sd.to(rng.device, torch.float32),
        )


def load_table(path: str | Path | None = None) -> TissuePriors:
    """Load a prior table.

    Args:
        path: A TOML file laid out like ``tissue_priors.toml``; the package's own table if None.

    Returns:
        The priors.

    Raises:
        PriorError: If the file is missing, is not TOML, or has unknown, missing or impossible entries.

    Example:
        >>> "white_matter" in load_table().names
        True
    """
    source = resources.files("anystroke.qmri") / "tissue_priors.toml" if path is None else Path(path)
    try:
        data = tomllib.loads(source.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise PriorError(f"there is no prior table at {str(path)!r}; give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PriorError(f"{source} is not valid TOML: {error}") from error
    _check_keys(data, {"reference_field", "field_scaling", "correlations", "tissues"}, where=str(source))
    tissues: dict[str, dict[str, Any]] = data["tissues"]
    for name, entry in tissues.items():
        _check_tissue(entry, where=f"tissue {name!r}")
    _check_keys(data["field_scaling"], {"r2_tissue", "r2_fluid", "r2star"}, where="field_scaling")
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
    )


def _check_keys(data: Mapping[str, Any], expected: set[str], *, where: str) -> None:
    if unknown := sorted(set(data) - expected):
        raise PriorError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(expected))}")
    if missing := sorted(expected - set(data)):
        raise PriorError(f"{where}: missing {', '.join(missing)}")


def _check_tissue(entry: Mapping[str, Any], *, where: str) -> None:
    _check_keys(entry, {*MAPS, "source", "tag", "t1_field_exponent", "r2_field"}, where=where)
    for key in MAPS:
        numbers = entry[key]
        valid = isinstance(numbers, list) and len(numbers) == 4
        valid = valid and all(isinstance(x, (int, float)) and 0.0 <= x < math.inf for x in numbers)
        if not valid:
            raise PriorError(
                f"{where}, {key}: expected [mean, SD of means, SD, SD of SDs], all >= 0, got {numbers!r}"
            )
    if entry["tag"] not in _TAGS or entry["r2_field"] not in _R2_FIELDS:
        raise PriorError(
            f"{where}: tag must be one of {', '.join(_TAGS)} and r2_field one of {', '.join(_R2_FIELDS)}, "
            f"got {entry['tag']!r} and {entry['r2_field']!r}"
        )
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
