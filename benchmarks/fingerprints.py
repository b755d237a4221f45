"""Hashes of result files by what they say, not by when, where and by which version they were written.

Images count by voxels, type and affine, tables and JSON by their entries, pages by their text and
pictures, networks by their tensors. What differs between two runs of one program is left out: dates,
durations, versions, the machine and absolute paths.
"""

import base64
import binascii
import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load

# Keys and columns, in lower case without underscores and spaces. Times of a protocol, such as EchoTime, are
# none of them.
VOLATILE = frozenset((
    "version", "torchversion", "torch", "softwareversions", "python", "pythonversion", "platform",
    "system", "machine", "host", "hostname", "device", "cpu", "date", "created", "modified", "started",
    "start", "began", "finished", "ended", "end", "time", "seconds", "minutes", "duration", "elapsed",
    "runtime", "wallseconds", "casespersecond", "secondsperstep", "waited", "secondswaiting", "waiting",
    "stepseconds", "memory", "peakmemory", "peakmemorymb", "peakgib", "commandline", "command", "commit",
))  # fmt: skip

_LEFT_OUT = "..."
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?|\b\d\d:\d\d:\d\d\b"
)
_DURATION = re.compile(r"\b\d+(?:\.\d+)?\s?(?:s|sec|seconds?|min|minutes?|h|hours?)\b(?!\s*[/^*])")
_SPEED = re.compile(r"\b\d+(?:\.\d+)? (?:steps a second|% of the time)")
_VERSION = re.compile(r"(\banystroke,? (?:version )?)v?\d+\.\d+[\w.+-]*")
_PATH = re.compile(r"(?<![\w.<:/-])/(?:[\w.+ -]+/)+(?=[\w.+-])")
_EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,([A-Za-z0-9+/=\s]+)")


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of what a file says, in hexadecimal.

    Args:
        path: Any file; of a kind that is not known, the bytes count.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not what its ending says.
    """
    name = path.name.lower()
    for endings, reader in _READERS:
        if name.endswith(endings):
            return hashlib.sha256(reader(path)).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def settled(value: Any) -> Any:
    """Return plain values as of JSON, without entries that differ from run to run.

    Example:
        >>> settled({"Date": "2024-05-01", "EchoTime": 0.1, "Source": "/scans/x/scan.nii.gz"})
        {'EchoTime': 0.1, 'Source': '.../scan.nii.gz'}
    """
    if isinstance(value, Mapping):
        return {key: settled(one) for key, one in value.items() if not _is_volatile(str(key))}
    if isinstance(value, list | tuple):
        return [settled(one) for one in value]
    return settled_text(value) if isinstance(value, str) else value


def settled_text(text: str) -> str:
    """Return a text with dates, durations, versions of the program and folders of absolute paths left out.

    Example:
        >>> settled_text("anystroke 1.2.0 wrote /out/a/b.tsv in 12.5 s")
        'anystroke ... wrote .../b.tsv in ...'
    """
    text = _SPEED.sub(_LEFT_OUT, _DATE.sub(_LEFT_OUT, text))
    text = _VERSION.sub(rf"\g<1>{_LEFT_OUT}", text)
    return _PATH.sub(f"{_LEFT_OUT}/", _DURATION.sub(_LEFT_OUT, text))


def _is_volatile(key: str) -> bool:
    return re.sub(r"[_\s-]", "", key.lower()) in VOLATILE


def _array(values: np.ndarray[Any, Any]) -> bytes:
    return f"{values.dtype.str} {values.shape} ".encode() + np.ascontiguousarray(values).tobytes()


def _image(path: Path) -> bytes:
    image: Any = nib.load(path)
    return _array(np.asanyarray(image.dataobj)) + _array(np.asarray(image.affine, np.float64))


def _tensors(path: Path) -> bytes:
    tensors = load(path.read_bytes())
    return b"".join(
        f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + _raw(tensor)
        for name, tensor in sorted(tensors.items())
    )


def _raw(tensor: Any) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def _json(path: Path) -> bytes:
    return json.dumps(settled(json.loads(path.read_text(encoding="utf-8"))), sort_keys=True).encode()


def _table(path: Path) -> bytes:
    separator = "," if path.suffix == ".csv" else "\t"
    rows = [line.split(separator) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [i for i, name in enumerate(rows[0] if rows else []) if not _is_volatile(name.strip('"'))]
    return json.dumps([[settled_text(row[i]) for i in kept if i < len(row)] for row in rows]).encode()


def _picture(path: Path) -> bytes:
    return _pixels(path.read_bytes())


def _pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return _array(np.asarray(picture.convert("RGBA")))


def _page(path: Path) -> bytes:
    text = _EMBEDDED.sub(lambda match: _embedded(match[1]), path.read_text(encoding="utf-8"))
    return settled_text(text).encode()


def _embedded(encoded: str) -> str:
    """Return the hash of what a page holds as base64; of pictures the pixels count."""
    try:
        data = base64.b64decode(encoded, validate=False)
    except binascii.Error:
        data = encoded.encode()
    if data.startswith((b"\x89PNG", b"\xff\xd8")):
        data = _pixels(data)
    elif data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    return f"data:{hashlib.sha256(data).hexdigest()}"


def _text(path: Path) -> bytes:
    return settled_text(path.read_text(encoding="utf-8")).encode()


_READERS: tuple[tuple[tuple[str, ...], Callable[[Path], bytes]], ...] = (
    ((".nii", ".nii.gz", ".mgz", ".mgh"), _image),
    ((".safetensors",), _tensors),
    ((".json",), _json),
    ((".tsv", ".csv"), _table),
    ((".png", ".jpg"), _picture),
    ((".html", ".svg"), _page),
    ((".txt", ".md", ".toml", ".log", ".tex"), _text),
)
