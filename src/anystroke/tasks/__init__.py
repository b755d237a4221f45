"""What networks are trained to do: one folder a task, with the same file names in each."""
