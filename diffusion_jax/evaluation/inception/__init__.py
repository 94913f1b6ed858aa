"""Inception v3, whose features published FIDs, sFIDs, Inception scores, precision and recall rest on."""
