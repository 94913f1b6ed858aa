"""Weights in and out: parameters of the authors' release and ours."""
