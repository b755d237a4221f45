"""What a patient will be able to do: a number, a class or a grade, from lesions, images and tables."""
