"""Checks of recorded cases."""

CHECKS = []
