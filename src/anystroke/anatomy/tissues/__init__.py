"""What a head is made of: labels, classes, anatomies, and how they are deformed and mixed."""
