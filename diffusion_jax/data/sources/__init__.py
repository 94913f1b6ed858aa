"""Where images come from: one file a kind of source."""

from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.kinds import class_names, describe, make_source, open_source, resolve
