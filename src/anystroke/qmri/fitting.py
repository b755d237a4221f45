"""Estimate tissue priors from quantitative maps and segmentations.

Two levels, as in the table: each subject's weighted mean and SD per tissue and map, then their spread over
subjects. What was not measured is taken from a stand-in table and marked so.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from anystroke.qmri.tissue_priors import MAPS, TAGS, PriorError, TissuePriors

Statistic = Literal["sd", "robust", "paper"]
"""How centre and spread over subjects are taken.

``sd``: mean and SD; ``robust``: median and 1.4826 times the median absolute deviation; ``paper``: mean and
the raw median absolute deviation, as in qSynth, a third narrower than the SD.
"""

_MAD_TO_SD = 1.4826
_DEFAULT_T1_EXPONENT = 0.35
_SMALLEST_EIGENVALUE = 1e-2
_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class SubjectStatistics:
    """One subject's tissues, measured.

    Attributes:
        names: The tissues, one per row.
        mean: Weighted mean, float64 (tissues, 6), NaN where the map or the tissue is missing.
        sd: Weighted SD within the tissue, float64 (tissues, 6), NaN likewise.
        weight: Sum of the weights of the voxels used, float64 (tissues, 6).
        excluded: Voxels of the tissue whose value is not finite, int64 (tissues, 6).
        correlation: Correlation of the maps over voxels, around each tissue's mean, pooled over tissues,
            float64 (6, 6); NaN where it was not measured.
    """

    names: tuple[str, ...]
    mean: Tensor
    sd: Tensor
    weight: Tensor
    excluded: Tensor
    correlation: Tensor


@dataclass(frozen=True, kw_only=True)
class PopulationFit:
    """Priors estimated from subjects.

    Attributes:
        priors: The table; `save_table` writes it.
        measured: bool (tissues, 6), which numbers come from the subjects and not from the stand-in table.
        shrinkage: How far the correlations were moved towards 0 to make a matrix that can be drawn from; 0
            for not at all.
        notes: What the user should know, one sentence each.
    """

    priors: TissuePriors
    measured: Tensor
    shrinkage: float
    notes: tuple[str, ...]


def measure_subject(
    maps: Mapping[str, Tensor],
    segmentation: Tensor,
    tissues: Mapping[int, str],
    *,
    minimum_voxels: float = 50.0,
) -> SubjectStatistics:
    """Measure mean and SD of each map in each tissue of one subject.

    Args:
        maps: Some of ``MAPS`` in their units, each (X, Y, Z). Voxels that are not finite are left out.
        segmentation: Labels, whole numbers (X, Y, Z); or shares of tissues (C, X, Y, Z), at least 0.
        tissues: Tissue of each label, or of each channel of the shares. Several may be the same tissue;
            labels that are not named are left out.
        minimum_voxels: Sum of weights below which a tissue counts as missing.

    Returns:
        The statistics, on the device of ``segmentation``.

    Raises:
        PriorError: If a map is unknown or of another shape, shares are negative or their channels missing.

    Source:
        Weighted moments as in qSynth: mean = sum(w q) / sum(w), SD = sqrt(sum(w (q - mean)^2) / sum(w)).

    Example:
        >>> labels = torch.ones(5, 5, 5, dtype=torch.int64)
        >>> statistics = measure_subject({"r1": torch.full((5, 5, 5), 0.9)}, labels, {1: "white_matter"})
        >>> round(float(statistics.mean[0, 1]), 3), float(statistics.sd[0, 1])
        (0.9, 0.0)
    """
    _check_maps(maps, tuple(segmentation.shape[-3:]))
    names = tuple(dict.fromkeys(tissues.values()))
    size = (len(names), len(MAPS))
    mean = torch.full(size, math.nan, dtype=torch.float64, device=segmentation.device)
    sd, total, excluded = mean.clone(), torch.zeros_like(mean), torch.zeros_like(mean)
    products, squares = mean.new_zeros(2, len(MAPS), len(MAPS))
    columns = torch.tensor([MAPS.index(name) for name in maps], device=segmentation.device)
    pairs = (columns[:, None], columns)
    flat = [values.reshape(-1) for values in maps.values()]
    for row, (voxels, weight) in enumerate(_members(segmentation, tissues, names)):
        if len(voxels) == 0:
            continue
        found = _moments(flat, voxels, weight)
        mean[row, columns], sd[row, columns], total[row, columns] = found.mean, found.sd, found.total
        excluded[row, columns] = found.excluded
        products[pairs] += found.products
        squares[pairs] += found.squares
    too_small = total < minimum_voxels
    return SubjectStatistics(
        names=names,
        mean=mean.masked_fill_(too_small, math.nan),
        sd=sd.masked_fill_(too_small, math.nan),
        weight=total,
        excluded=excluded.long(),
        correlation=products / (squares * squares.T).sqrt(),
    )


def _check_maps(maps: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
    for name, values in maps.items():
        if name not in MAPS:
            raise PriorError(f"there is no map {name!r}; the maps are {', '.join(MAPS)}")
        if tuple(values.shape) != shape:
            raise PriorError(f"{name}: expected the segmentation's shape {shape}, got {tuple(values.shape)}")


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """Of one tissue, per map: mean, SD, weight, voxels left out; per pair of maps as in `_cross`."""

    mean: Tensor
    sd: Tensor
    total: Tensor
    excluded: Tensor
    products: Tensor
    squares: Tensor


def _moments(flat: Sequence[Tensor], voxels: Tensor, weight: Tensor) -> _Moments:
    """Sum over the voxels of a tissue in one pass, around a value near the mean."""
    middle = torch.stack([one[voxels[:_CHUNK]] for one in flat]).double().nanmedian(1, keepdim=True).values
    shift = middle.where(torch.isfinite(middle), 0.0)
    excluded = shift.new_zeros(len(flat))
    sums = shift.new_zeros(4, len(flat), len(flat))
    for start in range(0, len(voxels), _CHUNK):
        part, shares = voxels[start : start + _CHUNK], weight[start : start + _CHUNK]
        values = torch.stack([one[part] for one in flat]).double()
        there = torch.isfinite(values)
        excluded += (~there).sum(1)
        centred, mask = (values - shift).where(there, 0.0), there.double()
        weighted = centred * shares
        sums[0] += weighted @ centred.T
        sums[1] += (weighted * centred) @ mask.T
        sums[2] += weighted @ mask.T
        sums[3] += (mask * shares) @ mask.T
    product, square, linear, count = sums
    total = count.diagonal()
    offset = linear.diagonal() / total
    sd = (square.diagonal() / total - offset**2).clamp_(min=0).sqrt()
    first, second = offset[:, None], offset
    product = product - first * linear.T - second * linear + first * second * count
    square = square - 2 * first * linear + first**2 * count
    usable = (sd > 0)[:, None] & (sd > 0)
    return _Moments(
        mean=shift[:, 0] + offset,
        sd=sd,
        total=total,
        excluded=excluded,
        products=(product / (sd[:, None] * sd)).where(usable, 0.0),
        squares=(square / sd[:, None] ** 2).where(usable, 0.0),
    )


def _cross(residuals: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the products of residuals of each pair of rows, and the squares of the first where both are there.

    Args:
        residuals: (rows, n), not finite where missing.
        weight: (n,).

    Returns:
        Two matrices (rows, rows); the correlation is ``products / sqrt(squares * squares.T)``.
    """
    there = torch.isfinite(residuals)
    known = residuals.where(there, 0.0)
    weighted = known * weight
    return weighted @ known.T, (weighted * known) @ there.to(known.dtype).T


def _members(
    segmentation: Tensor, tissues: Mapping[int, str], names: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give for each tissue the voxels that it has a share in, and the shares."""
    if segmentation.ndim == 4:
        if bool((segmentation < 0).any()):
            raise PriorError(f"expected shares of at least 0, got {float(segmentation.min()):g}")
        if outside := sorted(set(tissues) - set(range(segmentation.shape[0]))):
            raise PriorError(
                f"expected channels 0 to {segmentation.shape[0] - 1} of the segmentation, got {outside[0]}"
            )
    elif segmentation.ndim != 3:
        raise PriorError(
            f"expected labels (X, Y, Z) or shares (C, X, Y, Z), got shape {tuple(segmentation.shape)}"
        )
    for name in names:
        labels = [label for label, tissue in tissues.items() if tissue == name]
        if segmentation.ndim == 4:
            share = segmentation[labels].sum(0).reshape(-1)
        else:
            wanted = torch.tensor(labels, dtype=segmentation.dtype, device=segmentation.device)
            share = torch.isin(segmentation, wanted).reshape(-1)
        voxels = share.nonzero(as_tuple=True)[0]
        yield voxels, share[voxels].double()


def fit_population(
    subjects: Sequence[SubjectStatistics],
    *,
    field_strength: float,
    source: str,
    tag: str = "V",
    statistic: Statistic = "sd",
    correlations: Literal["subjects", "voxels", "stand_in"] = "subjects",
    stand_in: TissuePriors,
    minimum_subjects: int = 2,
) -> PopulationFit:
    """Estimate a prior table from measured subjects.

    Args:
        subjects: Their statistics; tissues are joined by name.
        field_strength: Static field of the maps, T; that of the table.
        source: Where the numbers come from, for the table.
        tag: What they rest on: V, M or E.
        statistic: How centre and spread over subjects are taken.
        correlations: Whether maps correlate as the subjects' means do (pooled over tissues), as the voxels
            within tissues do, or as in the stand-in table, where pairs come from that were not measured.
        stand_in: Table for what was not measured, and for how tissues change with the field.
        minimum_subjects: Fewer make a number count as not measured; at least 2.

    Returns:
        The table and how it came about.

    Raises:
        PriorError: If there are too few subjects, or the stand-in table lacks what was not measured.
    """
    _check_request(len(subjects), minimum_subjects, source, tag)
    names = tuple(dict.fromkeys(name for subject in subjects for name in subject.names))
    means, sds = _stack(subjects, names, "mean"), _stack(subjects, names, "sd")
    counts = torch.isfinite(means).sum(0)
    measured = counts >= minimum_subjects
    if not bool(measured.any()):
        raise PriorError(
            f"no tissue was measured in {minimum_subjects} subjects; tissues: {', '.join(names)}"
        )
    table = torch.stack([*_summarise(means, statistic), *_summarise(sds, statistic)])
    filled, notes = _fill(table, measured, names, stand_in, field_strength)
    factor, shrinkage = _correlation_factor(subjects, means, correlations, stand_in)
    exponents, r2_field = _field_behaviour(names, stand_in, notes)
    if shrinkage > 0:
        notes.append(f"correlations were shrunk by {shrinkage:.0%} to make a matrix that can be drawn from")
    priors = TissuePriors(
        names=names,
        mean=filled[0],
        sd_of_means=filled[1],
        sd=filled[2],
        sd_of_sds=filled[3],
        t1_field_exponent=exponents,
        r2_field=r2_field,
        field_lines=stand_in.field_lines,
        reference_field=field_strength,
        correlation_factor=factor,
        **_provenance(names, measured, source, tag, stand_in),
        subjects={name: tuple(counts[i].tolist()) for i, name in enumerate(names)},
    )
    return PopulationFit(priors=priors, measured=measured, shrinkage=shrinkage, notes=tuple(notes))


def _check_request(subjects: int, minimum_subjects: int, source: str, tag: str) -> None:
    if tag not in TAGS or not source.strip():
        raise PriorError(f"expected a source and a tag out of {', '.join(TAGS)}, got {source!r} and {tag!r}")
    if minimum_subjects < 2:
        raise PriorError(f"a spread between subjects needs at least 2 of them, got {minimum_subjects}")
    if subjects < minimum_subjects:
        raise PriorError(f"expected at least {minimum_subjects} subjects, got {subjects}")


def _stack(subjects: Sequence[SubjectStatistics], names: Sequence[str], what: str) -> Tensor:
    """Bring subjects into one tensor (subjects, tissues, 6), NaN where a subject lacks a tissue."""
    stacked = torch.full((len(subjects), len(names), len(MAPS)), math.nan, dtype=torch.float64)
    for i, subject in enumerate(subjects):
        stacked[i, [names.index(name) for name in subject.names]] = getattr(subject, what).cpu()
    return stacked


def _summarise(values: Tensor, statistic: Statistic) -> tuple[Tensor, Tensor]:
    """Give centre and spread over subjects, leaving out NaN."""
    if statistic == "robust":
        centre = _quantile(values)
    elif statistic in ("sd", "paper"):
        centre = values.nanmean(0)
    else:
        raise PriorError(f"statistic must be 'sd', 'robust' or 'paper', got {statistic!r}")
    if statistic == "sd":
        count = torch.isfinite(values).sum(0)
        return centre, (((values - centre) ** 2).nansum(0) / (count - 1)).sqrt()
    deviation = _quantile((values - _quantile(values)).abs())
    return centre, deviation * (_MAD_TO_SD if statistic == "robust" else 1.0)


def _quantile(values: Tensor) -> Tensor:
    """Give the median over subjects, the mean of the middle two for an even number."""
    return values.nanquantile(0.5, dim=0)


def _fill(
    table: Tensor, measured: Tensor, names: Sequence[str], stand_in: TissuePriors, field_strength: float
) -> tuple[Tensor, list[str]]:
    """Put the stand-in table's numbers where nothing was measured."""
    filled, notes = table.clone(), []
    base = torch.stack([stand_in.mean, stand_in.sd_of_means, stand_in.sd, stand_in.sd_of_sds])
    for i, name in enumerate(names):
        missing = ~measured[i]
        if not bool(missing.any()):
            continue
        maps = ", ".join(m for m, gone in zip(MAPS, missing.tolist(), strict=True) if gone)
        if name not in {*stand_in.names, *stand_in.aliases}:
            raise PriorError(
                f"{name}: {maps} were not measured, and the stand-in table has no such tissue; measure them, "
                "leave the tissue out, or call it by a name of the table"
            )
        scaled = base[:, stand_in.rows([name])[0]] * stand_in.field_factors([name], field_strength)[0]
        filled[:, i, missing] = scaled[:, missing]
        notes.append(f"{name}: {maps} from the stand-in table")
    return filled, notes


def _field_behaviour(
    names: Sequence[str], stand_in: TissuePriors, notes: list[str]
) -> tuple[Tensor, tuple[str, ...]]:
    """Take from the stand-in table how tissues change with the field; note what has to be assumed."""
    known = {*stand_in.names, *stand_in.aliases}
    if unknown := [name for name in names if name not in known]:
        notes.append(
            f"how {', '.join(unknown)} change with the field is assumed: T1 exponent {_DEFAULT_T1_EXPONENT}"
        )
    rows = [stand_in.rows([name])[0] if name in known else None for name in names]
    exponents = [_DEFAULT_T1_EXPONENT if r is None else float(stand_in.t1_field_exponent[r]) for r in rows]
    r2_field = tuple("tissue" if r is None else stand_in.r2_field[r] for r in rows)
    return torch.tensor(exponents, dtype=torch.float64), r2_field


def _provenance(
    names: Sequence[str], measured: Tensor, source: str, tag: str, stand_in: TissuePriors
) -> dict[str, Any]:
    """Say where the numbers of each tissue come from, and what those of the stand-in table rest on."""
    sources, tags, map_tags, spread_tags = {}, {}, {}, {}
    for name, row in zip(names, measured.tolist(), strict=True):
        missing = [map_name for map_name, found in zip(MAPS, row, strict=True) if not found]
        sources[name] = source
        tags[name] = tag if any(row) else "E"
        if missing:
            sources[name] += f" Not measured, from a stand-in table: {', '.join(missing)}."
            marks = {map_name: stand_in.tag(name, map_name) for map_name in missing}
            map_tags[name] = {m: mark for m, mark in marks.items() if mark != tags[name]}
        else:
            spread_tags[name] = tag
    kept = {name: marks for name, marks in map_tags.items() if marks}
    return {"sources": sources, "tags": tags, "map_tags": kept, "spread_tags": spread_tags}


def _correlation_factor(
    subjects: Sequence[SubjectStatistics], means: Tensor, kind: str, stand_in: TissuePriors
) -> tuple[Tensor, float]:
    """Estimate the correlation of maps and factorise it, shrunk towards none as far as it must be."""
    assumed = stand_in.correlation_factor @ stand_in.correlation_factor.T
    if kind == "subjects":
        found = _correlate_means(means)
    elif kind == "voxels":
        found = torch.stack([subject.correlation.cpu() for subject in subjects]).nanmean(0)
    elif kind == "stand_in":
        found = assumed
    else:
        raise PriorError(f"correlations must be 'subjects', 'voxels' or 'stand_in', got {kind!r}")
    matrix = found.where(torch.isfinite(found), assumed)
    matrix.fill_diagonal_(1.0)
    lowest = float(torch.linalg.eigvalsh(matrix)[0])
    shrinkage = 0.0
    if lowest < _SMALLEST_EIGENVALUE:
        shrinkage = (_SMALLEST_EIGENVALUE - lowest) / (1.0 - lowest)
        matrix = (1.0 - shrinkage) * matrix + shrinkage * torch.eye(len(MAPS), dtype=torch.float64)
    return torch.linalg.cholesky(matrix), shrinkage


def _correlate_means(means: Tensor) -> Tensor:
    """Correlate subjects' deviations from the population, standardised per tissue and map, over all tissues.

    Tissues with fewer than 3 subjects tell nothing and are left out.
    """
    deviation = means - means.nanmean(0)
    spread = (deviation**2).nanmean(0).sqrt()
    enough = (torch.isfinite(means).sum(0) >= 3) & (spread > 0)
    standardised = (deviation / spread).where(enough, torch.full_like(deviation, math.nan))
    flat = standardised.flatten(0, 1).T
    products, squares = _cross(flat, torch.ones_like(flat[0]))
    return products / (squares * squares.T).sqrt()
