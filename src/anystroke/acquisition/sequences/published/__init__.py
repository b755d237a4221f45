"""Sequences as published with other generators, faults included, to repeat their runs.

Names: *printed* is what the qATLAS and qSynth papers say, *published* what their programs computed. None of
the functions asks whether a scanner could play the timing: the programs did not, and delays may come out
negative. For images that look like a scanner's use the files beside this folder.

All of them share these quirks: R2* stands for R2 in spin echoes; a random ``gain`` from 0.3 to 7, which is
called the field strength, multiplies the image, which normalisation undoes, and nothing else depends on the
field; the transmit field is 1 everywhere. Images keep what the programs keep, so ``signal`` may be negative
whether ``signed`` or not, and ``b1_plus`` is ignored. ``impossible`` tells why a scanner could not play one.
"""
