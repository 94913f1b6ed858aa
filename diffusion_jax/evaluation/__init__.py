"""Metrics of image sets: features, their distances, and the protocol behind a result."""
