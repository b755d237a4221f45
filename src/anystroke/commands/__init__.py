"""The command: one verb after another."""
