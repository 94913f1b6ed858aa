"""The devices that JAX finds."""

from __future__ import annotations

import re

import jax

from diffusion_jax.errors import UserError, reason

EXTRAS = ('cuda', 'tpu')  # what setup.py can install JAX with


def all_devices() -> list[jax.Device]:
    """The devices of all hosts. The first call starts JAX's backends.

    Raises:
        UserError: JAX cannot start the platform that it was told to use, or any.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion where a plugin is not installed
        raise _no_device(error) from error


def _no_device(error: Exception) -> UserError:
    platforms = jax.config.jax_platforms
    if not platforms:
        return UserError(f'JAX finds no device ({reason(error)}); set JAX_PLATFORMS=cpu to use the CPU')
    named = re.search(r"backend '(\w+)': (.*?)( \(set JAX_PLATFORMS|$)", str(error))
    platform, why, _ = named.groups() if named else (platforms, '', '')
    known = platform in EXTRAS
    remedy = f"install '.[{platform}]' and a driver" if known else 'give cpu, cuda or tpu'
    why = f'; {why}' if why and known else ''
    return UserError(
        f'JAX finds no {platform!r} device (JAX_PLATFORMS={platforms}{why}); {remedy}, or unset JAX_PLATFORMS'
    )
