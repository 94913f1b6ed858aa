"""The devices that JAX finds."""

from __future__ import annotations

import jax

from diffusion_jax.errors import UserError, reason


def all_devices() -> list[jax.Device]:
    """The devices of all hosts. The first call starts JAX's backends.

    Raises:
        UserError: JAX cannot start the platform that JAX_PLATFORMS names, or any.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion where a plugin is not installed
        raise no_device(jax.config.values['jax_platforms'], error) from error


def no_device(platforms: str | None, error: Exception) -> UserError:
    """The error for the platforms that JAX was told to use, after JAX's own error."""
    if not platforms:
        return UserError('JAX', f'no device found ({reason(error)})', 'set JAX_PLATFORMS=cpu to use the CPU')
    remedy = "install '.[cuda]' or '.[tpu]' and a driver, or unset JAX_PLATFORMS to use any device"
    return UserError('JAX_PLATFORMS', f'no device of {platforms!r} found ({reason(error)})', remedy)
