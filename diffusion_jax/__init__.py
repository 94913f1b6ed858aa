"""Diffusion models with classifier guidance (Dhariwal & Nichol, 2021, arXiv 2105.05233) in JAX.

The paper's equations are in `diffusion`, its networks in `models`; `training`, `generation` and `evaluation`
run them, `python -m diffusion_jax.main --config=…` runs everything that an experiment's config lists.
"""

__version__ = '0.1.0'
