r"""How far networks look, and whether they go by shape or by texture.

    python benchmarks/shape_and_field.py --architecture compact_unet --architecture mde
    python benchmarks/shape_and_field.py --model runs/networks/mde-1/model --model default

For each network: the side of the cube around the middle voxel that holds 50, 95 and all of the gradient of
its logits. For a model that tells tissues apart also the shape bias: of simulated heads in which grey and
white matter have swapped their grey values, the share of their voxels that is called by shape; and the same
without the swap.
"""

import argparse

import torch

from anystroke.anatomy.tissues.classes import CLASSES
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.rng import stream
from anystroke.evaluation.cue_conflict import shape_bias, swap_looks
from anystroke.models.architectures.catalogue import build_network
from anystroke.models.checkpoints import find_model
from anystroke.models.model_space import normalise_intensity
from anystroke.models.receptive_field import centre_gradient, field_width
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.segmentation.predict import Model

GREY, WHITE = CLASSES.index("grey_matter"), CLASSES.index("white_matter")


def field_line(network: torch.nn.Module, side: int) -> str:
    """Say how far a network looks."""
    gradient = centre_gradient(network, (side, side, side), images=2, rng=stream(1, "field"))
    widths = [f"{share:.1%}: {field_width(gradient, share)}" for share in (0.5, 0.95, 0.999, 1.0)]
    return "voxels a side that hold " + ", ".join(widths)


def bias_line(model: Model, heads: int) -> str:
    """Say what a model makes of heads whose grey and white matter look like each other."""
    spacing = model.config.spacing
    side = tuple(16 * round(mm / spacing / 16) for mm in (192, 224, 192))
    looks = SynthesisSettings(
        spacing=spacing, shapes=((side[0], side[1], side[2]),), cut=0.0, skull_strip=1.0
    )
    generator = Generator(looks)
    biases: list[float] = []
    plain: list[float] = []
    for number in range(heads):
        [sample] = generator.session(mni_anatomy(), [], weightings=["T1w"], rng=stream(2, "bias", number))
        classes = sample.target
        for image, kept in ((swap_looks(sample.image, classes, GREY, WHITE), biases), (sample.image, plain)):
            standard = normalise_intensity(image, model.config.normalisation)
            with torch.no_grad():
                found = model.network(standard[None, None])[0].argmax(0)
            kept.append(shape_bias(found, classes, GREY, WHITE))
    return f"shape bias {sum(biases) / heads:.3f}, called right without the swap {sum(plain) / heads:.3f}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", action="append", default=[], help="untrained, by name")
    parser.add_argument("--model", action="append", default=[], help="a model that segments")
    parser.add_argument("--side", type=int, default=64, help="voxels of the images")
    parser.add_argument("--heads", type=int, default=8)
    options = parser.parse_args()
    for name in options.architecture:
        print(f"{name}: {field_line(build_network(name, 5, seed=1).eval(), options.side)}")
    for name in options.model:
        model = Model.open(name)
        print(f"{find_model(name)}: {field_line(model.network, options.side)}")
        if {"grey_matter", "white_matter"} <= set(model.config.classes):
            print(f"  {bias_line(model, options.heads)}")


if __name__ == "__main__":
    main()
