"""Find the stroke lesion in a brain MR image, whatever the sequence."""
