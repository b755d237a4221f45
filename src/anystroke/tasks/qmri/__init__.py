"""From a clinical scan to quantitative maps."""
