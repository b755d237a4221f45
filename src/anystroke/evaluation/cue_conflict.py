"""Shape against texture: heads in which one tissue looks like another, and what a network calls it.

Source: R. Geirhos et al., ImageNet-trained CNNs are biased towards texture, ICLR 2019; here a tissue keeps
its shape and place, and takes the grey values of another.
"""

from torch import Tensor


def swap_looks(image: Tensor, classes: Tensor, first: int, second: int) -> Tensor:
    """Give two tissues each other's mean and spread of grey values; nothing else changes.

    Args:
        image: (X, Y, Z).
        classes: (X, Y, Z), the number of each voxel's class.
        first: Number of a class.
        second: Number of another.

    Returns:
        A new image.

    Raises:
        ValueError: A class has fewer than two voxels, or one grey value.

    Example:
        >>> import torch
        >>> classes = torch.tensor([1, 1, 2, 2]).reshape(4, 1, 1)
        >>> image = torch.tensor([1.0, 3.0, 10.0, 30.0]).reshape(4, 1, 1)
        >>> swap_looks(image, classes, 1, 2).flatten().tolist()
        [10.0, 30.0, 1.0, 3.0]
    """
    result = image.clone()
    masks = [classes == number for number in (first, second)]
    for mask, other in (masks, masks[::-1]):
        own, theirs = image[mask], image[other]
        if len(own) < 2 or not float(own.std()) > 0:
            raise ValueError(
                f"expected two tissues that vary to swap their looks, but one has {len(own)} voxels and no "
                "spread; simulate it with texture"
            )
        result[mask] = theirs.mean() + (own - own.mean()) / own.std() * theirs.std()
    return result


def shape_bias(found: Tensor, classes: Tensor, first: int, second: int) -> float:
    """Return how often a tissue that looks like another is called by its shape.

    Args:
        found: (X, Y, Z), what a network calls each voxel of an image of `swap_looks`.
        classes: (X, Y, Z), what each is by its shape.
        first: Number of a class whose looks were swapped.
        second: That of the other.

    Returns:
        Of the voxels of both that are called one of the two, the mean over the two of the share that is
        called by shape, 0 to 1; NaN where none of one is called either.

    Example:
        >>> import torch
        >>> classes = torch.tensor([1, 1, 2, 2]).reshape(4, 1, 1)
        >>> shape_bias(classes, classes, 1, 2), shape_bias(3 - classes, classes, 1, 2)
        (1.0, 0.0)
    """
    shares = []
    for own, other in ((first, second), (second, first)):
        here = found[classes == own]
        by_shape, by_texture = int((here == own).sum()), int((here == other).sum())
        if by_shape + by_texture == 0:
            return float("nan")
        shares.append(by_shape / (by_shape + by_texture))
    return sum(shares) / 2
