"""To find the noise in a scan."""
