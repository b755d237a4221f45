"""Protocols as BIDS sidecars, written and read."""
