"""The architecture of a network as JSON: what is written beside its parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffusion_jax.checks import one_of
from diffusion_jax.errors import UserError
from diffusion_jax.models.config import ClassifierConfig, UNetConfig, check_classifier, check_unet
from diffusion_jax.settings import read_section

KINDS = {'UNetConfig': (UNetConfig, check_unet), 'ClassifierConfig': (ClassifierConfig, check_classifier)}

# What changes how a network is computed, not what its parameters mean.
NOT_DESCRIBED = ('dtype', 'remat', 'dropout')
# What says how parameters were trained: networks that differ in it alone can use each other's.
NOT_COMPARED = ('label_dropout',)


def describe_network(config: UNetConfig | ClassifierConfig) -> dict[str, Any]:
    """What parameters mean, as JSON: the architecture, and whether the null class was trained."""
    fields = dataclasses.asdict(config)
    # Without label dropout it is not named: digests of files stay those of versions that did not know it.
    omitted = NOT_DESCRIBED if fields.get('label_dropout') else (*NOT_DESCRIBED, 'label_dropout')
    described = {name: value for name, value in fields.items() if name not in omitted}
    return {'kind': type(config).__name__} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in described.items()
    }


def network_of(description: Any) -> UNetConfig | ClassifierConfig:
    """The network that a description is of: the inverse of `describe_network`.

    What a description does not name has its default.

    Raises:
        UserError: the description names what no network has, or values with which none can be built.
    """
    if not isinstance(description, Mapping):
        raise UserError(f'the description of a network is {description!r}; it must be a JSON object')
    one_of('kind', description.get('kind'), list(KINDS))
    network, check = KINDS[description['kind']]
    settings = {name: value for name, value in description.items() if name != 'kind'}
    config = read_section(network, settings, 'network')
    check(config)
    return config


def network_differences(
    found: UNetConfig | ClassifierConfig, wanted: UNetConfig | ClassifierConfig
) -> list[str]:
    """Why the config's network cannot use the parameters of a stored one; [] where it can."""
    compared = (
        {name: value for name, value in describe_network(network).items() if name not in NOT_COMPARED}
        for network in (found, wanted)
    )
    return differences(*compared)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions: of what is stored, and of what the config says."""
    return [
        f'{name} is {found.get(name)} there and {wanted.get(name)} in the config'
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
