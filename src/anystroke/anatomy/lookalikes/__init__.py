"""What heads without a stroke have and networks take for lesions."""
