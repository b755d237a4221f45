"""Features of one scan."""

from pathlib import Path

import torch
from torch import Tensor, nn

from anystroke.core.volume import Volume
from anystroke.models.architectures.twins import encoder_width, pooled
from anystroke.models.checkpoints import NetworkConfig, load_config, model_facts, task_of_model
from anystroke.models.encoders import PRETRAINING, load_encoder
from anystroke.models.model_space import equalise_histogram, normalise_intensity, to_model_space
from anystroke.tasks.pretraining.config import EncoderConfig


class FeatureModel:
    """An encoder with its configuration.

    Args:
        encoder: On the CPU, ready for inference.
        config: Its configuration.
    """

    def __init__(self, encoder: nn.Module, config: EncoderConfig) -> None:
        self.encoder, self.config = encoder, config

    @classmethod
    def load(cls, name: str | Path) -> "FeatureModel":
        """Load an encoder by a shipped name or a folder; also that of a model of another task.

        Raises:
            CheckpointError: If it cannot be used.
        """
        encoder = load_encoder(name)
        if task_of_model(name) == PRETRAINING:
            return cls(encoder, load_config(name, EncoderConfig))
        known = {key: value for key, value in model_facts(name).items() if key in NetworkConfig.model_fields}
        return cls(encoder, EncoderConfig(**{key: value for key, value in known.items() if key != "task"}))

    @property
    def width(self) -> int:
        """Number of features."""
        return encoder_width(self.encoder)

    @torch.no_grad()
    def of_image(self, image: Tensor) -> Tensor:
        """Return the features (width,) of an image (X, Y, Z) on the encoder's grid, not normalised."""
        if self.config.equalised:
            image = equalise_histogram(image)
        standard = normalise_intensity(image, self.config.normalisation)
        return pooled(self.encoder, standard[None, None])[0]

    def of_scan(self, scan: Volume) -> Tensor:
        """Return the features (width,) of a scan.

        Args:
            scan: One channel that `anystroke.models.model_space.check_scan` accepts.

        Raises:
            VolumeError: The head has fewer than three different intensities at the encoder's voxel size.
        """
        config = self.config
        space = to_model_space(scan, spacing=config.spacing, divisor=config.divisor, normalise=None)
        return self.of_image(space.image[0])
