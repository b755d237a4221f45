"""Which prediction belongs to which truth: folders, BIDS trees, tables of pairs."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anystroke.core.errors import AnystrokeError
from anystroke.core.tables import TABLE_ENDINGS, TableError, read_rows
from anystroke.core.text import readable
from anystroke.core.volume import SUFFIXES
from anystroke.evaluation.metrics.measure import METRICS
from anystroke.io.folders import walk
from anystroke.io.names import DERIVED, Name, image_stem

# What says how a derivative was made, not of what; desc- may name the contrast.
_DERIVED = tuple(key for key in DERIVED if key != "desc")
_MASK_SUFFIXES = ("mask", "roi", "lesion")
_LABEL_SUFFIXES = ("dseg", "seg", "labels")
_PROBABILITY_SUFFIX = "probseg"
_KINDS = (*_MASK_SUFFIXES, *_LABEL_SUFFIXES, _PROBABILITY_SUFFIX)
_RESULT_COLUMNS = ("status", "undefined", "message")
_RESERVED = ("id", "prediction", "truth", "probability", "scan")


class PairError(AnystrokeError):
    """Predictions and truths that cannot be paired; the message says which and what to do."""


@dataclass(frozen=True)
class Pair:
    """One prediction and its truth.

    Attributes:
        id: Unique name.
        prediction: File of the predicted mask; None if there is none.
        truth: File of the true mask.
        probability: File of the lesion probability, if there is one.
        scan: The scan, for pictures, if it is known.
        facts: What else is known, such as site or sequence, by column.
    """

    id: str
    prediction: Path | None
    truth: Path
    probability: Path | None = None
    scan: Path | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unpaired:
    """What has no partner, or not just one.

    Attributes:
        id: The name its case would have; where that name is taken, with its place.
        message: A sentence: the file, what is wrong with it, and what to do.
        prediction: Its file, if there is one.
        truth: Likewise.
    """

    id: str
    message: str
    prediction: Path | None = None
    truth: Path | None = None


@dataclass(frozen=True)
class PairsFound:
    """What was found; no two ids are the same.

    Attributes:
        cases: Those that can be evaluated, and the truths without a prediction.
        problems: Files that have no or no unique partner.
        notes: What else there is to say.
    """

    cases: tuple[Pair, ...]
    problems: tuple[Unpaired, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Name:
    """The parts of a file's name that say of what it is."""

    path: Path
    entities: frozenset[str]
    words: tuple[str, ...]
    contrast: str

    @classmethod
    def of(cls, path: Path) -> "_Name":
        parts = _telling_parts(path)
        described = [part.removeprefix("desc-") for part in parts if part.startswith("desc-")]
        parts = [part for part in parts if not part.startswith("desc-")]
        words = Name.parse(path).words
        if parts and parts[0] not in words:
            bare = [part for part in parts if part in words]
            return cls(path, frozenset(parts) - {*bare}, (), "_".join([*bare, *described]))
        return cls(path, frozenset(), tuple(parts), "_".join(described))

    def covers(self, other: "_Name") -> bool:
        """Say whether ``other`` can be an image of what this is the truth of."""
        if self.entities or other.entities:
            return bool(self.entities) and self.entities <= other.entities
        return bool(self.words) and self.words == other.words[: len(self.words)]

    @property
    def depth(self) -> int:
        return len(self.entities) + len(self.words)


def find_pairs(predictions: Path, truths: Path | None = None, *, scans: Path | None = None) -> PairsFound:
    """Pair predictions with truths.

    Two files are one pair. In two folders, files at the same place belong together; otherwise a truth belongs
    to each prediction whose name has all of the truth's BIDS entities (``space``, ``res``, ``den``,
    ``label``, ``seg`` and ``desc`` aside), or begins with the words of the truth's name; if several do, the
    one with most of them and then that of the same contrast. Files called ``_mask`` are taken if there are
    any, else ``_dseg``, else all. A table has the columns ``prediction`` and ``truth`` with paths from its
    own folder, and may have ``id``, ``probability`` and ``scan``; other columns are facts of the case.

    Args:
        predictions: A file, a folder, or a table (.tsv or .csv) of pairs.
        truths: A file or a folder; None with a table.
        scans: A folder to look in for the scans, which pictures need, beside the other two folders.

    Raises:
        CaseError: There is nothing to pair, or the arguments are not of one kind.
        TableError: The table cannot be read.
    """
    for path in (predictions, truths, scans):
        if path is not None and not path.exists():
            raise PairError(f"expected a file or folder at {path}, but there is none; check the path")
    if predictions.is_file() and predictions.suffix.lower() in TABLE_ENDINGS:
        if truths is not None:
            raise PairError(f"{predictions} is a table of pairs, so no second path is needed; got {truths}")
        return _from_table(predictions)
    if truths is None:
        raise PairError(f"expected the truth to compare {predictions} with; give a second path")
    if predictions.is_file() != truths.is_file():
        raise PairError(f"expected two files or two folders, got {predictions} and {truths}")
    if predictions.is_file():
        return PairsFound((Pair(image_stem(predictions), predictions, truths),))
    return _from_folders(predictions, truths, scans)


def _from_table(path: Path) -> PairsFound:
    rows = read_rows(path)
    if not rows or not {"prediction", "truth"} <= set(rows[0]):
        raise TableError(f"{path} needs the columns prediction and truth, and a row; add them")
    if taken := sorted({*METRICS, *_RESULT_COLUMNS} & set(rows[0])):
        raise TableError(f"{path} has the column {taken[0]}, which results have too; rename it")
    cases: list[Pair] = []
    problems: list[Unpaired] = []

    def place(row: Mapping[str, str], column: str) -> Path | None:
        text = row.get(column, "n/a")
        return None if text in ("", "n/a") else path.parent / text

    for line, row in enumerate(rows, 2):
        prediction, truth = place(row, "prediction"), place(row, "truth")
        file = prediction or truth
        name = row.get("id", "n/a")
        if name in ("", "n/a"):
            name = image_stem(file) if file is not None else f"line {line}"
        if truth is None:
            text = f"{path}: line {line} names no truth; fill in its file"
            problems.append(Unpaired(name, text, prediction))
            continue
        facts = {key: value for key, value in row.items() if key not in _RESERVED}
        probability, scan = place(row, "probability"), place(row, "scan")
        cases.append(Pair(name, prediction, truth, probability, scan, facts))
    return _unique(cases, problems, [], path.parent)


def _from_folders(predictions: Path, truths: Path, scans: Path | None) -> PairsFound:
    problems: list[Unpaired] = []
    predicted, passed = _mask_files(predictions, problems)
    true, passed_too = _mask_files(truths, problems)
    for folder, files in ((predictions, predicted), (truths, true)):
        if not files:
            raise PairError(f"expected {', '.join(SUFFIXES)} files in {folder}, but there are none")
    names = [_Name.of(path) for path in true]
    at_place = {path.relative_to(truths): path for path in true}
    pictured = _scans_by_name(folder for folder in (truths, predictions, scans) if folder is not None)
    cases, used = [], set()
    for path in predicted:
        partner = at_place.get(path.relative_to(predictions))
        own = _Name.of(path)
        candidates = [partner] if partner else _partners(own, names)
        if len(candidates) != 1:
            what = "several truths" if candidates else "no truth"
            which = f" ({', '.join(str(p) for p in candidates)})" if candidates else ""
            text = f"{path} has {what}{which}; name files alike or give a table of pairs"
            problems.append(Unpaired(_case_id(path), text, path))
            continue
        used.add(candidates[0])
        facts = {"patient": _patient(candidates[0])}
        facts |= {"sequence": own.contrast} if own.contrast else {}
        name = _case_id(path)
        scan = pictured.get(name.replace("_desc-", "_"))
        cases.append(Pair(name, path, candidates[0], _probability_beside(path), scan, facts))
    cases += [
        Pair(_case_id(path), None, path, facts={"patient": _patient(path)})
        for path in true
        if path not in used
    ]
    notes = [
        f"{count} files in {folder} were passed over, as others are called masks"
        for folder, count in ((predictions, passed), (truths, passed_too))
        if count
    ]
    return _unique(cases, problems, notes, predictions, truths)


def _scans_by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """Find the images that are neither masks nor label maps nor probabilities."""
    names = (Name.parse(path) for folder in folders for path in _images_below(folder, []))
    return {name.stem: name.path for name in names if name.parts[-1] not in _KINDS}


def _images_below(folder: Path, problems: list[Unpaired]) -> list[Path]:
    """Find the images of a folder, and note which of its folders cannot be read."""

    def note(error: OSError) -> None:
        place = readable(str(error.filename))
        text = f"{place} cannot be read ({error.strerror}); check its permissions"
        problems.append(Unpaired(Path(place).name, text))

    return [path for path in walk(folder, on_error=note) if path.name.lower().endswith(SUFFIXES)]


def _case_id(path: Path) -> str:
    """Name a case by its file, without what every mask's name has."""
    return "_".join(_telling_parts(path))


def _telling_parts(path: Path) -> list[str]:
    """Return the parts of a mask's name that say of what it is."""
    parts = [part for part in Name.parse(path).parts if not part.startswith(tuple(f"{k}-" for k in _DERIVED))]
    return parts[:-1] if len(parts) > 1 and parts[-1] in _KINDS else parts


def _patient(truth: Path) -> str:
    """Name the patient: by the BIDS subject, or else by the truth's file."""
    name = _case_id(truth)
    return next((token for token in name.split("_") if token.startswith("sub-")), name)


def _partners(own: _Name, names: Sequence[_Name]) -> list[Path]:
    fitting = [name for name in names if name.covers(own)]
    deepest = max((name.depth for name in fitting), default=0)
    fitting = [name for name in fitting if name.depth == deepest]
    if len(fitting) > 1:
        alike = [name for name in fitting if name.contrast == own.contrast]
        fitting = alike or fitting
    return [name.path for name in fitting]


def _mask_files(folder: Path, problems: list[Unpaired]) -> tuple[list[Path], int]:
    """Find the masks below a folder, and count the images that are none."""
    images = _images_below(folder, problems)
    suffixes = {path: Name.parse(path).parts[-1] for path in images}
    for kinds in (_MASK_SUFFIXES, _LABEL_SUFFIXES):
        chosen = [path for path in images if suffixes[path] in kinds and image_stem(path) not in kinds]
        if chosen:
            others = [p for p in images if p not in chosen and suffixes[p] != _PROBABILITY_SUFFIX]
            return chosen, len(others)
    chosen = [path for path in images if suffixes[path] != _PROBABILITY_SUFFIX]
    return chosen, 0


def _probability_beside(path: Path) -> Path | None:
    stem = image_stem(path)
    for suffix in _MASK_SUFFIXES:
        if stem.endswith(f"_{suffix}"):
            for ending in SUFFIXES:
                beside = path.with_name(f"{stem.removesuffix(suffix)}{_PROBABILITY_SUFFIX}{ending}")
                if beside.exists():
                    return beside
    return None


def _unique(cases: list[Pair], problems: list[Unpaired], notes: list[str], *folders: Path) -> PairsFound:
    """Refuse every case whose name stands for several files, and give what is refused names of its own."""
    count = Counter(case.id for case in cases)
    problems += [
        Unpaired(
            case.id,
            f"the name {case.id} stands for {count[case.id]} cases, one of them "
            f"{case.prediction or case.truth}; give each its own id in a table of pairs",
            case.prediction,
            case.truth,
        )
        for case in cases
        if count[case.id] > 1
    ]
    kept = [case for case in cases if count[case.id] == 1]
    shared = Counter([*(case.id for case in kept), *(problem.id for problem in problems)])
    used = {case.id for case in kept}
    named = []
    for problem in problems:
        first = problem.id if shared[problem.id] == 1 else _place(problem, folders)
        numbered = (f"{first} ({number})" for number in itertools.count(2))
        own = next(name for name in itertools.chain([first], numbered) if name not in used)
        used.add(own)
        named.append(replace(problem, id=own))
    return PairsFound(tuple(kept), tuple(named), tuple(notes))


def _place(problem: Unpaired, folders: Sequence[Path]) -> str:
    """Return where the file lies below the first of the folders that holds it, or else its name."""
    path = problem.prediction or problem.truth
    for folder in folders:
        if path is not None and path.is_relative_to(folder):
            below = path.relative_to(folder)
            return readable(str(below.with_name(image_stem(below))))
    return problem.id
