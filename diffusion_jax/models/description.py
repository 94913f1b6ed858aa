"""The architecture of a network as JSON: what is written beside its parameters."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from diffusion_jax.checks import one_of
from diffusion_jax.errors import UserError
from diffusion_jax.models.config import ClassifierConfig, UNetConfig, check_classifier, check_unet

KINDS = {'UNetConfig': (UNetConfig, check_unet), 'ClassifierConfig': (ClassifierConfig, check_classifier)}

# What changes how a network is computed, not what its parameters mean.
NOT_ARCHITECTURE = ('dtype', 'remat', 'dropout')


def describe_network(config: UNetConfig | ClassifierConfig) -> dict[str, Any]:
    """The architecture as JSON; two networks that may share parameters have equal descriptions."""
    fields = dataclasses.asdict(config)
    described = {name: value for name, value in fields.items() if name not in NOT_ARCHITECTURE}
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
    hints = typing.get_type_hints(network)
    values = {}
    for name, value in description.items():
        if name != 'kind':
            one_of('setting', name, hints)
            values[name] = tuple(value) if isinstance(value, list) else value
            if not _is_of(values[name], hints[name]):
                raise UserError(f'{name} is {value!r}; it must be of type {hints[name]}')
    config = network(**values)
    check(config)
    return config


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between the description of stored parameters and that of the config's network."""
    return [
        f'{name} is {found.get(name)} there and {wanted.get(name)} in the config'
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; whole numbers serve as floats."""
    if isinstance(hint, types.UnionType):
        return any(_is_of(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        item, *others = typing.get_args(hint)
        fixed = Ellipsis not in others
        return (
            isinstance(value, tuple)
            and all(_is_of(part, item) for part in value)
            and (not fixed or len(value) == 1 + len(others))
        )
    return type(value) in ((int, float) if hint is float else (hint,))
