"""From one head to another: affine, rigid, to MNI, and atlases there."""
