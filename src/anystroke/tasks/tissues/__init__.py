"""To tell the healthy tissues of a brain apart."""
