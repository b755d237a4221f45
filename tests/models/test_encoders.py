"""Encoders of pre-training: published sizes, and names that segmentation networks share."""

import pytest
import torch

from anystroke.models.architectures.catalogue import (
    ARCHITECTURES,
    ENCODERS,
    build_classifier,
    build_encoder,
    build_network,
    build_twins,
)
from anystroke.models.architectures.twins import Projector, Reconstructor, encoder_parts, mean_of, pooled
from anystroke.models.checkpoints import parameter_count

_UNUSED_NORMS = 12 * 1536


def test_encoders_have_their_published_sizes() -> None:
    assert parameter_count(build_encoder("five_level_unet")) == 40_592_448
    assert parameter_count(ARCHITECTURES["five_level_unet"](2)) == 70_689_602
    with torch.device("meta"):
        vit = parameter_count(build_encoder("transformer_unet"))
        unetr = parameter_count(ARCHITECTURES["transformer_unet"](2))
    assert round((vit + _UNUSED_NORMS) / 1e6, 2) == 88.39
    assert round((unetr + _UNUSED_NORMS) / 1e6, 1) == 92.8
    assert parameter_count(Projector(768)) == 459_392
    assert parameter_count(Reconstructor(768, 4)) == 3_134_209


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_a_part_of_its_architecture(name: str) -> None:
    with torch.device("meta"):
        encoder, network = build_encoder(name), ARCHITECTURES[name](2)
    inside = network.state_dict()
    own = {f"network.{key}": value.shape for key, value in encoder.state_dict().items()}
    assert own == {key: value.shape for key, value in inside.items() if key in own}
    parts = encoder_parts(network.network)
    assert sum(parameter_count(part) for part in parts) == parameter_count(encoder)


@pytest.mark.parametrize("name", ["tiny_unet", "compact_unet"])
def test_the_encoder_gives_the_features_of_the_network(name: str) -> None:
    network, encoder = build_network(name, 3, seed=1).eval(), build_encoder(name).eval()
    inside = network.state_dict()
    encoder.load_state_dict({key: inside[f"network.{key}"] for key in encoder.state_dict()})
    seen = []
    parts = encoder_parts(network.network)
    for part in parts:
        part.register_forward_hook(lambda _module, _input, output: seen.append(output))
    x = torch.randn(1, 1, 32, 32, 48)
    with torch.no_grad():
        network(x)
        levels = encoder(x)
    assert len(levels) == len(seen) == len(parts)
    assert all(torch.equal(a, b) for a, b in zip(levels, seen, strict=True))


def test_the_transformer_takes_other_grids_than_that_of_its_places() -> None:
    encoder = build_encoder("transformer_unet").eval()
    with torch.no_grad():
        assert encoder(torch.randn(1, 1, 32, 48, 16))[-1].shape == (1, 768, 2, 3, 1)
        assert encoder(torch.randn(1, 1, 96, 96, 96))[-1].shape == (1, 768, 6, 6, 6)


@pytest.mark.parametrize("reconstructs", [False, True])
def test_twins_see_each_view_by_itself(reconstructs: bool) -> None:
    twins = build_twins("tiny_unet", reconstructs=reconstructs, seed=3).eval()
    views = torch.randn(2, 2, 16, 16, 24)
    with torch.no_grad():
        heads, swapped = twins.heads(views), twins.heads(views.flip(1))
    assert [tuple(head.shape) for head in heads] == [(2, 2, 128), (2, 2, 16, 16, 24)][: 1 + reconstructs]
    assert all(torch.allclose(a, b.flip(1), atol=1e-5) for a, b in zip(heads, swapped, strict=True))
    with pytest.raises(ValueError, match="multiples of 8"):
        twins.heads(torch.zeros(1, 2, 16, 16, 20))


def test_features_do_not_depend_on_how_strong_a_voxel_is() -> None:
    rng = torch.Generator().manual_seed(1)
    deepest = torch.randn(2, 12, 4, 4, 4, generator=rng)
    strength = torch.rand(2, 1, 4, 4, 4, generator=rng) * 100 + 1
    assert torch.allclose(mean_of(deepest * strength), mean_of(deepest), atol=1e-3)
    assert not torch.allclose(mean_of(deepest.flip(1)), mean_of(deepest), atol=0.1)


def test_a_classifier_is_linear_in_pooled_features() -> None:
    classifier = build_classifier("tiny_unet", 3, seed=2).eval()
    x = torch.randn(2, 1, 16, 16, 16)
    inner = classifier.network
    with torch.no_grad():
        features = pooled(encoder_parts(inner)[0], x)
        assert torch.allclose(classifier(x), features @ inner.head.weight.T + inner.head.bias, atol=1e-6)  # type: ignore[union-attr, operator]


def test_architectures_without_an_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match=r"with an encoder.*'plain_unet'"):
        build_encoder("plain_unet")
    assert encoder_parts(ARCHITECTURES["plain_unet"](2).network) == []
