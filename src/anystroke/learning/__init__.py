"""Networks, losses, checkpoints and the training loop."""
