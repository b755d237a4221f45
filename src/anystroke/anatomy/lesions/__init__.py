"""Lesions: masks, stages, places, edges, visibility."""
