"""Changes made to training cases."""
