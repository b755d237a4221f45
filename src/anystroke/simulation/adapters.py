"""Simulated scans in the terms of MONAI and TorchIO.

For plain PyTorch there is `anystroke.SimulatedCases`.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from torch import Tensor

from anystroke.anatomy.tissues.anatomies import Anatomy, build_anatomy
from anystroke.anatomy.tissues.labels import LABEL_SCHEMES, SYNTHSEG, LabelScheme
from anystroke.core.volume import Volume
from anystroke.simulation.generator import Generator, Sample

_KEY_RANGE = 2**62


class SimulateScand(Randomizable, MapTransform):  # type: ignore[misc]
    """Simulate a scan of a label map: a dictionary transform of MONAI.

    It reads the label map, a `MetaTensor` (1, X, Y, Z) with its affine, and adds two more: the image, float32
    in arbitrary units, and the target, uint8 numbers of `anystroke.simulation.generator.CLASSES`. Both have
    one channel, the grid that the generator's settings say, and its affine, voxel -> RAS+ mm. The record that
    regenerates the scan is JSON text in ``meta["record"]`` of the image.

    Lesions are the generator's masks, which lie in MNI space. The dictionary can say under ``to_mni`` how the
    label map gets there, (4, 4) RAS+ mm -> MNI RAS+ mm; otherwise it is registered. That takes seconds, so
    that the last patients are remembered.

    Args:
        generator: Makes the scans.
        keys: Where the label map is, one key.
        image_key: Where the image is put.
        target_key: Where the target is put.
        scheme: Meaning of the labels, or its name.
        remembered: How many patients to keep ready, one byte a voxel of the head.
        allow_missing_keys: Let a dictionary without label map pass as it is.

    Raises:
        ValueError: More than one key, or a scheme of unknown name.

    Example:
        >>> from anystroke.simulation.settings import SynthesisSettings
        >>> simulate = SimulateScand(Generator(SynthesisSettings())).set_random_state(seed=1)
        >>> simulate({"label": label_map})["image"].affine  # doctest: +SKIP
    """

    def __init__(
        self,
        generator: Generator,
        keys: str = "label",
        *,
        image_key: str = "image",
        target_key: str = "target",
        scheme: LabelScheme | str = SYNTHSEG,
        remembered: int = 8,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(
                f"expected the one key of the label map, got {self.keys}; use one transform each"
            )
        if isinstance(scheme, str):
            if scheme not in LABEL_SCHEMES:
                raise ValueError(f"expected a label scheme among {', '.join(LABEL_SCHEMES)}, got {scheme!r}")
            scheme = LABEL_SCHEMES[scheme]
        self.generator, self.scheme, self.remembered = generator, scheme, remembered
        self.image_key, self.target_key = image_key, target_key
        self._patients: OrderedDict[str, Anatomy] = OrderedDict()
        self._key = 0

    def randomize(self, data: Any = None) -> None:
        """Draw the key that decides the next scan."""
        self._key = int(self.R.randint(0, _KEY_RANGE, dtype=np.int64))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Simulate a scan.

        Args:
            data: Holds the label map, and ``to_mni`` perhaps.

        Returns:
            The same with image and target.

        Raises:
            KeyError: There is no label map.
            TypeError: The label map has no affine.
            ValueError: It cannot be used as such.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            patient = self._patient(result[key], key, result.get("to_mni"))
            while True:
                self.randomize()
                sample = self.generator.generate(patient, key=self._key)
                if float(sample.image.max()) > float(sample.image.min()):
                    break
            record = json.dumps(sample.record)
            for name, data_of in ((self.image_key, sample.image), (self.target_key, sample.target)):
                result[name] = MetaTensor(data_of[None], affine=sample.affine)
            result[self.image_key].meta["record"] = record
        return result

    def _patient(self, labels: Any, key: Hashable, to_mni: Any) -> Anatomy:
        if not isinstance(labels, MetaTensor):
            raise TypeError(
                f"expected a MetaTensor with an affine under {key!r}, got {type(labels).__name__}; read the "
                "label map with LoadImaged(ensure_channel_first=True)"
            )
        if labels.ndim != 4 or labels.shape[0] != 1:
            raise ValueError(f"expected a label map (1, X, Y, Z) under {key!r}, got {tuple(labels.shape)}")
        volume = Volume(labels.as_tensor().detach().cpu(), labels.affine)
        matrix = None if to_mni is None else torch.as_tensor(to_mni, dtype=torch.float64).cpu()
        digest = _digest(volume.data, volume.affine, matrix)
        if digest not in self._patients:
            file = Path(str(labels.meta.get("filename_or_obj") or f"label-map-{digest[:12]}"))
            self._patients[digest] = _build(volume, self.scheme, matrix, file.name.split(".")[0])
            while len(self._patients) > max(self.remembered, 1):
                self._patients.popitem(last=False)
        self._patients.move_to_end(digest)
        return self._patients[digest]


def to_subject(sample: Sample) -> Any:
    """Give a simulated scan as a subject of TorchIO.

    Args:
        sample: The scan.

    Returns:
        ``torchio.Subject`` with ``image`` (ScalarImage), ``target`` (LabelMap of the numbers of ``CLASSES``),
        both (1, X, Y, Z) with an affine to RAS+ mm, and ``record``.

    Raises:
        ImportError: TorchIO is not installed.

    Example:
        >>> to_subject(sample).target.spatial_shape  # doctest: +SKIP
        (96, 112, 96)
    """
    try:
        import torchio
    except ImportError as error:
        raise ImportError("a subject needs TorchIO, which is not installed: pip install torchio") from error
    affine = sample.affine.cpu().double().numpy()
    return torchio.Subject(
        image=torchio.ScalarImage(tensor=sample.image[None].cpu(), affine=affine),
        target=torchio.LabelMap(tensor=sample.target[None].cpu(), affine=affine),
        record=sample.record,
    )


def _build(labels: Volume, scheme: LabelScheme, to_mni: Tensor | None, name: str) -> Anatomy:
    anatomy = build_anatomy(labels, scheme, torch.eye(4) if to_mni is None else to_mni, name=name)
    if to_mni is not None:
        return anatomy
    # nilearn and SimpleITK take seconds to import.
    from anystroke.anatomy.registration.affine import register_to_mni

    return Anatomy(name, anatomy.tissues, register_to_mni(labels, scheme).affine)


def _digest(*tensors: Tensor | None) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
