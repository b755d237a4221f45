"""Folders of results: what is there is kept, what is new is published at once, its sidecar last."""

import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from anystroke.core.errors import AnystrokeError
from anystroke.core.files import write_json, write_text
from anystroke.core.memory import peak_memory_mb
from anystroke.core.staging import files_below, remove_left_behind, staged

Status = Literal["done", "kept", "failed"]

BIDS_VERSION = "1.11.1"
LOGS = "logs"
_FILES = "Files"


class ResultError(AnystrokeError):
    """A folder of results that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        name: The input as the user named it, or what its results are called.
        status: ``"done"``, ``"kept"`` (it was there, from a run before) or ``"failed"``.
        files: What it has, as paths below the folder of results, the most wanted first.
        messages: A sentence for each warning, or why it failed.
        details: What else is known, by name.
        traceback: Of a failure.

    Example:
        >>> Outcome("a.nii", "done", messages=("thick slices", "gaps")).message
        'thick slices; gaps'
    """

    name: str
    status: Status
    files: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    traceback: str = ""

    @classmethod
    def of_failure(
        cls,
        name: str,
        source: str | Path,
        error: Exception,
        details: Mapping[str, Any] | None = None,
    ) -> "Outcome":
        """Say why an input failed, in one sentence that names it.

        Args:
            name: What the user calls it.
            source: What errors call it: a path.
            error: What was raised.
            details: What else is known, by name.

        Example:
            >>> Outcome.of_failure("a.nii", "a.nii", ValueError("too small")).message
            'a.nii: too small'
        """
        text = failure_sentence(source, error).replace(str(source), name)
        return cls(name, "failed", (), (text,), details or {}, "".join(traceback.format_exception(error)))

    @property
    def message(self) -> str:
        """All messages as one line."""
        return "; ".join(self.messages)


def failure_sentence(source: str | Path, error: Exception) -> str:
    """Say in one sentence that names the input what went wrong.

    Args:
        source: The input.
        error: What was raised; anything but a ValueError or OSError is a fault of the program.

    Example:
        >>> failure_sentence(Path("a.nii"), ValueError("too small"))
        'a.nii: too small'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, OSError | ValueError):
        text = f"failed unexpectedly ({type(error).__name__}: {text}); run again with --debug and report it"
    return text if str(source) in text else f"{source}: {text}"


class ResultFolder:
    """A folder that one or several runs of a program fill with results.

    A result is a set of files and a sidecar, which is published last, lists them and says what they depend
    on: it counts as whole if its sidecar and all listed files are there. Where results have no sidecars of
    their own, a ``manifest`` holds the fingerprint of all, see `claim`.

    Args:
        folder: Made if missing. Hidden folders that killed runs on this machine left in it are removed.
        fingerprint: What every result of this run depends on: plain values as the sidecars have them.
        manifest: Name of the file that holds the fingerprint, where sidecars do not.

    Raises:
        OSError: The folder cannot be made.

    Example:
        >>> import tempfile
        >>> results = ResultFolder(tempfile.mkdtemp(), {"Threshold": 0.5})
        >>> with results.staging("a.json", {"Volume": 1.5}) as staging:
        ...     _ = (staging / "a.txt").write_text("result")
        >>> results.kept("a.json")
        {'Volume': 1.5, 'Threshold': 0.5, 'Files': ['a.txt']}
        >>> ResultFolder(results.folder, {"Threshold": 0.4}).kept("b.json")
    """

    def __init__(
        self, folder: str | Path, fingerprint: Mapping[str, Any] | None = None, *, manifest: str = ""
    ) -> None:
        self.folder, self.manifest = Path(folder), manifest
        self.fingerprint = _plain(fingerprint or {})
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_left_behind(self.folder)

    def kept(
        self,
        sidecar: str,
        depends: Mapping[str, Any] | None = None,
        *,
        main: str = "",
        replace: bool = False,
    ) -> dict[str, Any] | None:
        """Return what the sidecar of a whole result says that was made of the same as this run would.

        Args:
            sidecar: Path of the sidecar in the folder.
            depends: What this result depends on beside the fingerprint.
            main: Path of the file that is not to be replaced if it is there without a sidecar.
            replace: Whether other results may be replaced, so that they count as none.

        Returns:
            The sidecar's content; None if there is no result.

        Raises:
            ResultError: Another result is there, or half of one.
        """
        path = self.folder / sidecar
        if not path.exists():
            if main and not replace and (self.folder / main).exists():
                raise ResultError(
                    f"{self.folder / main} exists and is not of anystroke; use --overwrite to replace it"
                )
            return None
        facts = read_facts(path)
        wanted = self.fingerprint | _plain(depends or {})
        changed = sorted(key for key, value in wanted.items() if facts.get(key) != value)
        other = changed or not self._is_whole(path, facts)
        if other and replace:
            return None
        if other:
            reason = f"of another {_words(changed)}" if changed else "but lack some of their files"
            raise ResultError(
                f"{path.parent} has results already ({path.stem}) {reason}; use --overwrite to replace them"
            )
        return facts

    def _is_whole(self, path: Path, facts: Mapping[str, Any]) -> bool:
        files = facts.get(_FILES)
        return isinstance(files, list) and all((path.parent / name).is_file() for name in files)

    @contextmanager
    def staging(self, sidecar: str, facts: dict[str, Any]) -> Iterator[Path]:
        """Give a folder whose files are published together when the block ends without an error.

        Args:
            sidecar: Path of the sidecar in the folder; the files go beside it.
            facts: What it says; may grow within the block, and gets the fingerprint and the list of files.

        Yields:
            An empty folder.

        Raises:
            OSError: The folder cannot be written.
        """
        place, name = (self.folder / sidecar).parent, Path(sidecar).name
        with staged(place, last=name) as staging:
            yield staging
            files = [path.relative_to(staging).as_posix() for path in files_below(staging)]
            facts |= {**self.fingerprint, _FILES: files}
            write_json(staging / name, facts)

    @property
    def is_same_run(self) -> bool:
        """Whether the manifest is there and holds the fingerprint of this run."""
        path = self.folder / self.manifest
        return path.is_file() and not self._changed(path)

    def _changed(self, manifest: Path) -> list[str]:
        there = read_facts(manifest)
        return [key for key, value in self.fingerprint.items() if there.get(key) != value]

    def claim(self, clear: Callable[[dict[str, Any]], object], *, overwrite: bool = False) -> bool:
        """Make the folder one of this run alone, by its manifest.

        Args:
            clear: Removes the results of another run; gets its manifest, empty if there was none. It may
                raise where it finds what must not be removed.
            overwrite: Whether results that are there may go.

        Returns:
            Whether the folder was one of this run before, so that its results may be kept.

        Raises:
            ResultError: The folder is another run's.
            OSError: It cannot be written.
        """
        path = self.folder / self.manifest
        if path.exists() and not overwrite:
            if changed := self._changed(path):
                raise ResultError(
                    f"{self.folder} holds results of another run ({', '.join(changed)} differ); name another "
                    "folder or use --overwrite to replace them"
                )
            return True
        clear(read_facts(path) if path.exists() else {})
        write_json(path, self.fingerprint)
        return False

    def logged(
        self, outcomes: Iterable[Outcome], facts: Mapping[str, Any], *, key: str = "Scans"
    ) -> Iterator[Outcome]:
        """Pass outcomes on, and leave what the run did in ``logs`` when it ends or is cut short.

        Args:
            outcomes: What became of the inputs.
            facts: What the run depends on, such as ``Model`` and ``Settings``.
            key: What the list of outcomes is called.

        Yields:
            Each outcome.

        Raises:
            OSError: The folder cannot be written.
        """
        began, started = datetime.now(UTC), time.perf_counter()
        done: list[Outcome] = []
        try:
            for outcome in outcomes:
                done.append(outcome)
                yield outcome
        finally:
            if done:
                content = {
                    "Program": f"anystroke {version('anystroke')}",
                    **facts,
                    "Began": began.isoformat(timespec="seconds"),
                    "Seconds": round(time.perf_counter() - started, 1),
                    **_machine(),
                    key: [_logged(outcome) for outcome in done],
                }
                (self.folder / LOGS).mkdir(exist_ok=True)
                name = f"run-{began.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.json"
                write_json(self.folder / LOGS / name, content)


def _logged(outcome: Outcome) -> dict[str, Any]:
    entry: dict[str, Any] = {"Name": outcome.name, "Status": outcome.status, "Files": list(outcome.files)}
    if (seconds := outcome.details.get("seconds")) is not None:
        entry["Seconds"] = round(seconds, 1)
    return entry | ({"Messages": list(outcome.messages)} if outcome.messages else {})


def read_facts(path: Path) -> dict[str, Any]:
    """Read a sidecar; what is missing, damaged or no dictionary says nothing.

    Example:
        >>> read_facts(Path("nowhere.json"))
        {}
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def generated_by(description: str = "") -> list[dict[str, str]]:
    """Return what BIDS' ``GeneratedBy`` says of files that this program wrote.

    Example:
        >>> [entry["Name"] for entry in generated_by()]
        ['anystroke']
    """
    entry = {"Name": "anystroke", "Version": version("anystroke")}
    return [{**entry, "Description": description} if description else entry]


def describe_dataset(
    folder: Path,
    *,
    name: str,
    description: str = "",
    source: Path | None = None,
    ignored: Sequence[str] = (),
) -> None:
    """Write ``dataset_description.json`` and ``.bidsignore`` of derivatives where they are missing.

    Args:
        folder: The derivatives.
        name: Of the data set.
        description: What the program does.
        source: The data set that they are of, if it is one.
        ignored: Patterns of files that no suffix of BIDS fits.

    Raises:
        OSError: The folder cannot be written.
    """
    content: dict[str, Any] = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": generated_by(description),
    }
    if source is not None:
        content["SourceDatasets"] = [{"URL": source.resolve().as_uri()}]
        content["DatasetLinks"] = {"raw": source.resolve().as_uri()}
    if not (path := folder / "dataset_description.json").exists():
        write_json(path, content)
    if ignored and not (path := folder / ".bidsignore").exists():
        write_text(path, "\n".join(ignored) + "\n")


def _machine() -> dict[str, Any]:
    return {
        "PeakMemoryMB": peak_memory_mb(),
        "Python": platform.python_version(),
        "Platform": platform.platform(),
        "Torch": torch.__version__,
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON gives them back."""
    content: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return content


def _words(keys: Sequence[str]) -> str:
    words = {"SourceSHA256": "scan", "Model": "model", "Settings": "setting", "RunSHA256": "scan or setting"}
    return " and ".join(words.get(key, key) for key in keys)
