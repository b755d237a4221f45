"""What scanner and patient do to the signal: fields, resolution, noise."""
