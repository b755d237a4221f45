"""What makes training cases, and the data that is packed for it."""
