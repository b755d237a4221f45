"""Networks with their weights, and the way of a scan into one and out of it."""
