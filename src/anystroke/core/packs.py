"""Many small label maps or masks in one compressed file, each read when it is needed.

The file is safetensors: all compressed bytes one after another in one tensor, which processes that read the
file share, and an index in its metadata.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anystroke.core.errors import AnystrokeError
from anystroke.core.files import atomic_path

PackKind = Literal["anatomies", "lesions"]

_FORMAT = "2"


class PackError(AnystrokeError):
    """A pack that this version cannot read; the message says how to pack again."""


@dataclass(frozen=True)
class PackedTensor:
    """A compressed tensor of uint8, or of booleans, which are held as bits.

    Attributes:
        data: uint8 (bytes), compressed with zlib.
        shape: Of what was packed.
        bits: Whether it holds booleans.

    Example:
        >>> packed = PackedTensor.of(torch.tensor([True, False, True]))
        >>> packed.unpack().tolist(), packed.shape
        ([True, False, True], (3,))
    """

    data: Tensor
    shape: tuple[int, ...]
    bits: bool

    @classmethod
    def of(cls, tensor: Tensor) -> "PackedTensor":
        """Compress a tensor.

        Raises:
            ValueError: If it holds neither uint8 nor booleans.
        """
        if tensor.dtype not in (torch.uint8, torch.bool):
            raise ValueError(f"expected uint8 or booleans to pack, got {tensor.dtype}; convert them")
        bits = tensor.dtype == torch.bool
        array = np.ascontiguousarray(tensor.cpu().numpy())
        packed = zlib.compress((np.packbits(array) if bits else array).tobytes())
        return cls(torch.frombuffer(bytearray(packed), dtype=torch.uint8), tuple(tensor.shape), bits)

    def unpack(self) -> Tensor:
        """Return the tensor."""
        plain = zlib.decompress(self.data.numpy().tobytes())
        if self.bits:
            ones = np.unpackbits(np.frombuffer(plain, dtype=np.uint8), count=prod(self.shape))
            return torch.from_numpy(ones).view(torch.bool).reshape(self.shape)
        return torch.from_numpy(np.frombuffer(plain, dtype=np.uint8).reshape(self.shape).copy())


@dataclass(frozen=True)
class PackEntry:
    """One label map or mask of a pack.

    Attributes:
        name: Identifier.
        content: Its voxels.
        facts: What else there is to know, as JSON holds it.
        source: Names the very input that it was made from; empty where nobody asks.
    """

    name: str
    content: PackedTensor
    facts: Mapping[str, Any]
    source: str = field(default="")


def write_pack(entries: Sequence[PackEntry], path: Path, *, kind: PackKind, about: str = "") -> None:
    """Write a pack, whole or not at all.

    Args:
        entries: What to write, in this order.
        path: A safetensors file; replaced if there.
        kind: What the entries are.
        about: What a reader must agree with, such as the list of tissues.
    """
    index = [
        {
            "name": entry.name,
            "bytes": len(entry.content.data),
            "shape": entry.content.shape,
            "bits": entry.content.bits,
            "facts": entry.facts,
            "source": entry.source,
        }
        for entry in entries
    ]
    nothing = torch.empty(0, dtype=torch.uint8)
    data = torch.cat([nothing, *(entry.content.data for entry in entries)])
    metadata = {"format": _FORMAT, "kind": kind, "about": about, "index": json.dumps(index)}
    with atomic_path(path, overwrite=True) as part:
        save_file({"data": data}, part, metadata=metadata)


def read_pack(path: Path, *, kind: PackKind, about: str = "") -> list[PackEntry]:
    """Read what `write_pack` wrote; the voxels stay in the file until they are unpacked.

    Args:
        path: The pack.
        kind: What it should hold.
        about: What it should have been written for.

    Raises:
        OSError: If the file is missing.
        PackError: If it is of another format or kind, or written for something else.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        written = tuple(metadata.get(key) for key in ("format", "kind", "about"))
        if written != (_FORMAT, kind, about):
            raise PackError(
                f"expected {kind} as this version of anystroke packs them in {path}, but it was packed by "
                f"another; delete the folder {path.parent} (or take a new run folder) and run "
                "'anystroke train' again, which packs anew"
            )
        data = file.get_tensor("data")
    entries, first = [], 0
    for row in json.loads(metadata["index"]):
        part = data[first : first + row["bytes"]]
        first += row["bytes"]
        content = PackedTensor(part, tuple(row["shape"]), row["bits"])
        entries.append(PackEntry(row["name"], content, row["facts"], row["source"]))
    return entries


def pack_facts(path: Path) -> dict[str, str]:
    """Read what the metadata of a safetensors file say; a file that is missing or damaged says nothing.

    Example:
        >>> pack_facts(Path("nowhere.safetensors"))
        {}
    """
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def content_sha256(path: str | Path) -> str:
    """Compute the SHA-256 of what a safetensors file holds, in hexadecimal.

    Metadata are written in an order of chance, so two files of the same content can differ in their bytes.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
    """
    with Path(path).open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
