"""Patients, anatomy and physics in one call: image, target, record; and all of that in files."""
