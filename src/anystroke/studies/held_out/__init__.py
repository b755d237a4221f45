"""Judging models on simulated patients whose anatomy and lesion no training saw."""
