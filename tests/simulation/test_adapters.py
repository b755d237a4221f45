import json
import sys

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from anystroke.anatomy.lesions.bank import LesionSettings
from anystroke.anatomy.registration import affine as registration
from anystroke.anatomy.registration.affine import Registration
from anystroke.anatomy.tissues.labels import LabelError
from anystroke.core.rng import stream
from anystroke.simulation.adapters import SimulateScand, to_subject
from anystroke.simulation.generator import CLASSES, Generator, Sample
from anystroke.simulation.settings import SynthesisSettings
from phantoms import ellipsoid_anatomy, sphere_lesion

SETTINGS = SynthesisSettings(spacing=4.0, shapes=((40, 48, 40),), cut=0.0, lesions=LesionSettings(absent=0.0))


def _label_map(*, spacing: float = 4.0, odd: int = 2) -> MetaTensor:
    """White matter in grey matter in fluid, about the middle of the MNI brain."""
    affine = torch.diag(torch.tensor([-spacing, spacing, spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([98.0, -118.0, -92.0])
    index = torch.stack(torch.meshgrid(*(torch.arange(50.0),) * 3, indexing="ij")).double()
    points = (affine[:3, :3] @ index.reshape(3, -1) + affine[:3, 3:]).reshape(index.shape)
    distance = (points - torch.tensor([0.0, -18, 8], dtype=torch.float64).reshape(3, 1, 1, 1)).norm(dim=0)
    labels = 24.0 * (distance < 76)
    labels[distance < 68] = 3
    labels[distance < 58] = odd
    return MetaTensor(labels[None].float(), affine=affine)


def _transform(*, allow_missing_keys: bool = False) -> SimulateScand:
    return SimulateScand(Generator(SETTINGS, [sphere_lesion()]), allow_missing_keys=allow_missing_keys)


def test_a_label_map_becomes_image_and_target() -> None:
    data = {"label": _label_map(), "to_mni": torch.eye(4), "age": 70}
    result = _transform().set_random_state(seed=5)(data)
    image, target = result["image"], result["target"]
    assert isinstance(image, MetaTensor)
    assert isinstance(target, MetaTensor)
    assert image.shape == target.shape == (1, 40, 48, 40)
    assert (image.dtype, target.dtype) == (torch.float32, torch.uint8)
    record = json.loads(image.meta["record"])
    key = record["key"]
    assert result["age"] == 70
    assert result["label"] is data["label"]
    assert "image" not in data
    assert bool((target == CLASSES.index("lesion")).any())
    sample = Generator(SETTINGS, [sphere_lesion()]).generate(ellipsoid_anatomy(), key=key)
    assert torch.equal(image.affine, sample.affine.double())
    assert torch.equal(target.affine, image.affine)


def test_the_lesion_lies_where_the_mask_says() -> None:
    # Neither deformed nor mirrored, so that MNI coordinates can be followed.
    still = SETTINGS.deformation.model_copy(
        update={"rotation": 0, "scaling": 0, "shear": 0, "translation": 0, "elastic": 0, "mirror": 0}
    )
    lesions = LesionSettings(absent=0.0, several=0.0, mirror=0.0, shape=still)
    settings = SETTINGS.model_copy(update={"deformation": still, "lesions": lesions})
    transform = SimulateScand(Generator(settings, [sphere_lesion()])).set_random_state(seed=1)
    target = transform({"label": _label_map(), "to_mni": np.eye(4)})["target"]
    voxels = (target[0] == CLASSES.index("lesion")).nonzero().double().mean(0)
    brain = (target[0] > 0).nonzero().double().mean(0)
    offset = target.affine[:3, :3] @ (voxels - brain).as_tensor()
    assert offset == pytest.approx([38.0, 0.0, 0.0], abs=4.0)


def test_random_state_decides_everything() -> None:
    data = {"label": _label_map(), "to_mni": torch.eye(4)}
    chain = Compose([_transform()])
    first, second = (chain.set_random_state(seed=3)(data)["image"] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(chain(data)["image"], first)
    assert not torch.equal(chain.set_random_state(seed=4)(data)["image"], first)


def test_without_its_place_a_label_map_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def register(labels: object, _scheme: object) -> Registration:
        calls.append(labels)
        return Registration(torch.eye(4), 0.7, 0.7, 0.9)

    monkeypatch.setattr(registration, "register_to_mni", register)
    transform = _transform().set_random_state(seed=2)
    for _ in range(2):
        transform({"label": _label_map()})
    assert len(calls) == 1
    transform({"label": _label_map(spacing=3.9)})
    assert len(calls) == 2


def test_what_cannot_be_used_is_said() -> None:
    transform = _transform()
    with pytest.raises(TypeError, match="MetaTensor with an affine under 'label', got Tensor"):
        transform({"label": torch.zeros(1, 4, 4, 4)})
    with pytest.raises(ValueError, match=r"\(1, X, Y, Z\) under 'label', got \(4, 4, 4\)"):
        transform({"label": MetaTensor(torch.zeros(4, 4, 4))})
    with pytest.raises(LabelError, match="1234"):
        transform({"label": _label_map(odd=1234)})
    with pytest.raises(KeyError, match="label"):
        transform({"mask": _label_map()})
    assert _transform(allow_missing_keys=True)({"age": 70}) == {"age": 70}
    with pytest.raises(ValueError, match="'freesurfer'"):
        SimulateScand(Generator(SETTINGS), scheme="freesurfer")


def _sample() -> Sample:
    return Generator(SETTINGS, [sphere_lesion()])(ellipsoid_anatomy(), rng=stream(1, "subject"))


def test_a_sample_becomes_a_subject() -> None:
    torchio = pytest.importorskip("torchio")
    sample = _sample()
    subject = to_subject(sample)
    assert isinstance(subject.image, torchio.ScalarImage)
    assert isinstance(subject.target, torchio.LabelMap)
    assert torch.equal(subject.image.data[0], sample.image)
    assert torch.equal(subject.target.data[0], sample.target)
    assert subject.image.orientation == ("R", "A", "S")
    assert np.array_equal(subject.image.affine, sample.affine.numpy())
    assert subject.record["key"] == sample.record["key"]
    flipped = torchio.RandomFlip(axes=(0,), flip_probability=1.0)(subject)
    assert torch.equal(flipped.target.data[0], sample.target.flip(0))


def test_without_torchio_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchio", None)
    with pytest.raises(ImportError, match="pip install torchio"):
        to_subject(_sample())
