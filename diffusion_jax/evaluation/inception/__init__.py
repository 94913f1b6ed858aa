"""Inception v3, the network behind published FID, sFID, Inception score, precision and recall."""
