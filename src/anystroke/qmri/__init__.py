"""Quantitative maps and the tissue priors they are drawn from."""
