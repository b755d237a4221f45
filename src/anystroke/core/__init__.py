"""What has no medicine in it: units, random streams, threads, images with geometry, settings, tables."""
