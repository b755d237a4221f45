"""Protocols and signal equations: what a scanner makes of quantitative maps."""
