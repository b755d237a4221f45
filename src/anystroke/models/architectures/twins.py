"""Networks that are trained on several views of a patient, and the linear one that tells patients apart."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

EMBEDDED = 128
_HIDDEN = 512


class Projector(nn.Module):
    """Pooled features to what is compared: two layers with a GELU between; 459,392 parameters for 768.

    Source: arXiv 2501.12057.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, _HIDDEN)
        self.last = nn.Linear(_HIDDEN, EMBEDDED)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, 128) for (B, width)."""
        result: Tensor = self.last(gelu(self.hidden(features)))
        return result


class Reconstructor(nn.Module):
    """The deepest features back to an image: one transposed convolution of 2^3 voxels for each halving.

    Each halves the channels, and nothing is between them, so that features must hold the image linearly;
    3,134,209 parameters for 768 channels and four halvings.

    Source: arXiv 2501.12057.
    """

    def __init__(self, width: int, halvings: int) -> None:
        super().__init__()
        widths = [width // 2**level for level in range(halvings + 1)]
        pairs = pairwise(widths)
        ups = [nn.ConvTranspose3d(before, after, 2, stride=2) for before, after in pairs]
        self.layers = nn.Sequential(*ups, nn.Conv3d(widths[-1], 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, 1, X, Y, Z)."""
        result: Tensor = self.layers(features)
        return result


def pooled(encoder: nn.Module, image: Tensor) -> Tensor:
    """Return the features (B, width) of images (B, 1, X, Y, Z): `mean_of` the deepest level."""
    deepest: Tensor = encoder(image)[-1]
    return mean_of(deepest)


def mean_of(deepest: Tensor) -> Tensor:
    """Return the mean (B, C) of features (B, C, X, Y, Z), each voxel standardised over its channels.

    Residual networks hand their input on along a path without a norm. The plain mean of that is how much of
    the image is head, next to which nothing else counts: an encoder that may use it tells patients by that.
    """
    return layer_norm(deepest.movedim(1, -1), deepest.shape[1:2]).mean(dim=(1, 2, 3))


def encoder_parts(network: nn.Module) -> list[nn.Module]:
    """Return the modules of a network that its encoder is made of; none if it has no encoder.

    Args:
        network: What a ``DivisibleUNet`` holds.
    """
    encoder = getattr(network, "encoder", None)
    if encoder is None:
        return []
    return [encoder] if isinstance(encoder, nn.Module) else list(encoder())


def encoder_width(encoder: nn.Module) -> int:
    """Return the number of features of an encoder's deepest level."""
    width = encoder.width
    assert isinstance(width, int)
    return width


class TwinNetwork(nn.Module):
    """One encoder for all views of a patient.

    Args:
        encoder: A module.
        halvings: How often it halves the grid.
        reconstructs: Whether views are made again from the features.
    """

    def __init__(self, encoder: nn.Module, *, halvings: int, reconstructs: bool) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder_width(encoder)
        self.projector = Projector(width)
        self.reconstructor = Reconstructor(width, halvings) if reconstructs else None

    def forward(self, views: Tensor) -> list[Tensor]:
        """Return what is compared, (B, V, 128), and the views made again, if so.

        Args:
            views: (B, V, X, Y, Z).
        """
        batch, number = views.shape[:2]
        deepest = self.encoder(views.flatten(0, 1)[:, None])[-1]
        compared = self.projector(mean_of(deepest)).unflatten(0, (batch, number))
        if self.reconstructor is None:
            return [compared]
        return [compared, self.reconstructor(deepest).squeeze(1).unflatten(0, (batch, number))]


class PooledClassifier(nn.Module):
    """An encoder and one linear layer on its pooled features.

    Args:
        encoder: A module.
        classes: Number of them.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder_width(encoder), classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, 1, X, Y, Z)."""
        logits: Tensor = self.head(pooled(self.encoder, image))
        return logits
