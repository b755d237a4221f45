"""More channels for a trained residual U-Net, which at first computes what it did."""

import math

import torch
from torch import nn

from anystroke.models.architectures.catalogue import DivisibleUNet
from anystroke.models.architectures.residual_unet import ResidualUNet

_UP, _DOWN = ".2.0.conv", ".0.conv.unit0.conv"


def widen(network: DivisibleUNet, narrow: DivisibleUNet, *, rng: torch.Generator, own: float = 0.5) -> None:
    """Give a residual U-Net the function of one with fewer channels and as many levels.

    Its first channels become those of the other. The further ones begin as mixtures of trained ones with
    their own weights, and what they put out counts nothing in the first: so the outputs are the other's, and
    gradients reach all weights from the second step on.

    Source: after T. Chen, I. Goodfellow, J. Shlens, Net2Net: accelerating learning via knowledge transfer,
    ICLR 2016, which splits the weights of a copied channel; here the copy gets none of them.

    Args:
        network: Changed in place.
        narrow: The trained one.
        rng: Random stream; decides which trained channel each further one resembles.
        own: Share of the variance of a further channel's weights that is its own.

    Raises:
        ValueError: One is no residual U-Net, they differ in levels, inputs or outputs, or it has fewer
            channels than the other.

    Example:
        >>> from anystroke.models.architectures.catalogue import small_unet, compact_unet
        >>> small, wide, image = small_unet(2).eval(), compact_unet(2).eval(), torch.randn(1, 1, 32, 32, 32)
        >>> widen(wide, small, rng=torch.Generator().manual_seed(1))
        >>> torch.allclose(wide(image), small(image), atol=1e-4)
        True
    """
    _check(network, narrow)
    ours, theirs = dict(network.network.named_modules()), dict(narrow.network.named_modules())
    for name, module in ours.items():
        other = theirs[name]
        if isinstance(module, nn.PReLU):
            module.load_state_dict(other.state_dict())
        if not isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            continue
        assert isinstance(other, nn.Conv3d | nn.ConvTranspose3d)
        assert module.bias is not None
        assert other.bias is not None
        places = torch.arange(other.in_channels)
        if name.endswith(_UP):
            down = name.removesuffix(_UP) + _DOWN
            handed_across, had = ours[down], theirs[down]
            assert isinstance(handed_across, nn.Conv3d)
            assert isinstance(had, nn.Conv3d)
            places[had.out_channels :] += handed_across.out_channels - had.out_channels
        transposed = isinstance(module, nn.ConvTranspose3d)
        wide, trained = module.weight.data, other.weight.data
        if transposed:
            wide, trained = wide.transpose(0, 1), trained.transpose(0, 1)
        first = len(trained)
        alike = torch.randint(first, (len(wide) - first,), generator=rng)
        copies = wide[first:, places]
        spread = trained.std() / copies.std() if len(copies) else 1.0
        wide[first:, places] = math.sqrt(1 - own) * trained[alike] + math.sqrt(own) * spread * copies
        wide[:first] = 0
        wide[:first, places] = trained
        module.bias.data[:first] = other.bias.data
        module.bias.data[first:] = other.bias.data[alike]


def _check(network: DivisibleUNet, narrow: DivisibleUNet) -> None:
    ours, theirs = _widths(network), _widths(narrow)
    if not (ours and theirs):
        raise ValueError("expected two residual U-Nets, as only they can be widened")
    if list(ours) != list(theirs):
        raise ValueError("expected residual U-Nets of as many levels; name one of the same depth")
    first, last = next(iter(ours)), list(ours)[-1]
    (inputs, outputs), (have, give) = ((each[first][0], each[last][1]) for each in (ours, theirs))
    if (inputs, outputs) != (have, give):
        raise ValueError(
            f"expected {inputs} inputs and {outputs} outputs, but the narrower network has {have} and {give}"
        )
    if any(wide < narrow for name in ours for wide, narrow in zip(ours[name], theirs[name], strict=True)):
        raise ValueError("expected a network with fewer channels to start from, but it has more")


def _widths(network: DivisibleUNet) -> dict[str, tuple[int, int]]:
    """Return the channels into and out of each convolution of a residual U-Net."""
    if not isinstance(network.network, ResidualUNet):
        return {}
    return {
        name: (module.in_channels, module.out_channels)
        for name, module in network.network.named_modules()
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)
    }
