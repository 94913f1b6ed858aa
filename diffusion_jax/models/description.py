"""The architecture of a network as JSON, stored with its parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffusion_jax.checks import one_of
from diffusion_jax.errors import UserError
from diffusion_jax.models.config import ClassifierConfig, UNetConfig, check_classifier, check_unet
from diffusion_jax.settings import read_section

KINDS: dict[str, tuple[Any, Any]] = {
    'UNetConfig': (UNetConfig, check_unet),
    'ClassifierConfig': (ClassifierConfig, check_classifier),
}

# Settings of the computation, which do not change the meaning of parameters.
NOT_DESCRIBED = ('dtype', 'remat', 'dropout')
# Omitted where they have their defaults, so that digests of files stay those of versions without them.
NEWER = ('label_dropout', 'norm_groups')


def describe_network(config: UNetConfig | ClassifierConfig) -> dict[str, Any]:
    """The meaning of parameters as JSON: the architecture, and whether the null class was trained."""
    return {
        name: value
        for name, value in _all_described(config).items()
        if name not in NEWER or value != getattr(type(config), name)
    }


def _all_described(config: UNetConfig | ClassifierConfig) -> dict[str, Any]:
    """`describe_network` with the newer settings in any case."""
    return {'kind': type(config).__name__} | {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
        if name not in NOT_DESCRIBED
    }


def network_of(description: Any) -> UNetConfig | ClassifierConfig:
    """The inverse of `describe_network`; settings that the description lacks have their defaults.

    Raises:
        UserError: the description has unknown settings, or values from which no network can be built.
    """
    if not isinstance(description, Mapping):
        raise UserError('network', f'got {description!r}', 'must be a JSON object')
    one_of('kind', description.get('kind'), list(KINDS))
    network, check = KINDS[description['kind']]
    settings = {name: value for name, value in description.items() if name != 'kind'}
    config = read_section(network, settings, 'network')
    check(config)
    return config


def network_differences(
    found: UNetConfig | ClassifierConfig, wanted: UNetConfig | ClassifierConfig
) -> list[str]:
    """Why the config's network cannot use the parameters of a stored one; [] if it can."""
    described = [_all_described(network) for network in (found, wanted)]
    for description in described:
        description.pop('label_dropout', None)  # of the training: it changes no parameter's meaning
    return differences(*described)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The differences between stored settings and those of the config, one text each."""
    return [
        f'{name} is {found.get(name)} there and {wanted.get(name)} in the config'
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
