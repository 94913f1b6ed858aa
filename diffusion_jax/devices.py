"""The devices that JAX finds."""

import jax

from diffusion_jax.errors import UserError, reason


def all_devices() -> list[jax.Device]:
    """The devices of all hosts. The first call starts JAX's backends; UserError if it cannot."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion where a plugin is not installed
        problem = f'no device of {jax.config.values["jax_platforms"] or "any platform"} ({reason(error)})'
        remedy = "install '.[cuda]' or '.[tpu]' and a driver, or set JAX_PLATFORMS=cpu"
        raise UserError('JAX_PLATFORMS', problem, remedy) from error
