"""Samplers: one pure step a family, one loop for all."""
