"""Named regions and arterial territories of the MNI152 brain, both hemispheres, on one grid of 2 mm."""
