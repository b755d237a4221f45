"""Signal equations, and the protocols that play them."""
