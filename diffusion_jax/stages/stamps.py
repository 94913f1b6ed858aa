"""Whether a folder's results are those of the present settings.

A stamp holds, in sections, the settings and inputs that a result depends on (`workdir.write_stamp`). Stamps
of older versions stay valid: a setting that the stored stamp lacks had its default value, a section that it
lacks was not recorded and is not compared, and what only the stored stamp has is no longer a setting.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.data.config import DataConfig
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.config import EvaluateConfig
from diffusion_jax.generation.config import LikelihoodConfig, SampleConfig
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.settings import file_path
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.workdir import normalise, read_stamp

# The settings that a section of a stamp holds; a section `network` says itself of which kind it is.
SECTIONS: dict[str, type] = {
    'diffusion': DiffusionConfig,
    'process': DiffusionConfig,
    'data': DataConfig,
    'train': TrainConfig,
    'sample': SampleConfig,
    'evaluate': EvaluateConfig,
    'likelihood': LikelihoodConfig,
}
NETWORKS = {config.__name__: config for config in (UNetConfig, ClassifierConfig)}
NOT_SET = '(not set)'
MOST_NAMED = 8  # settings in a message


def check_stamp(
    directory: Path, stamp: Mapping[str, Any], remedy: str = 'restore them or choose another folder'
) -> None:
    """Compares the stamp of a folder, if it has one yet, with the present settings.

    Raises:
        UserError: the folder was made with other settings; the message names each of them and the remedy.
    """
    difference = stamp_difference(read_stamp(directory) or stamp, stamp)
    if difference:
        changes = [f'{key}: had {had}, now {now}' for key, (had, now) in difference.items()]
        more = f' and {len(changes) - MOST_NAMED} more' if len(changes) > MOST_NAMED else ''
        raise UserError(
            f'{directory}: made with other settings ({", ".join(changes[:MOST_NAMED])}{more}); {remedy}'
        )


def results_directory(base: Path, section: str, stamp: Mapping[str, Any]) -> Path:
    """`base` for the first results of a kind. Other results get a folder in it, named after what differs from
    the first: settings of the config's section and steps of checkpoints, such as samples/scale=2.0 or
    samples/scale=2.0,diffusion.step=4000, or else all.
    """
    first = read_stamp(base)
    if first is None:
        return base
    difference = {key: new for key, (_, new) in stamp_difference(first, stamp).items()}
    prefix = f'{section}.'
    settings = {key: new for key, new in difference.items() if key.startswith(prefix)}
    # Older versions named only the settings of the section: what has this name and stamp is used.
    older = base / _name(settings, prefix)
    stored = read_stamp(older)
    if stored is not None and not stamp_difference(stored, stamp):
        return older
    steps = {key: new for key, new in difference.items() if key.endswith('.step')}
    return base / _name(settings | steps or difference, prefix)


def _name(settings: Mapping[str, Any], prefix: str) -> str:
    text = ','.join(f'{key.removeprefix(prefix)}={value}' for key, value in settings.items())
    text = re.sub(r'[^\w=.,-]+', '-', text.replace('[', '').replace(']', '').replace(', ', '+'))
    return text if len(text) <= 80 else f'{text[:70]}-{zlib.crc32(text.encode()):08x}'


def stamp_difference(stored: Mapping[str, Any], stamp: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings and inputs that differ: dotted key → (stored value, new value)."""
    comparable = {section: value for section, value in stamp.items() if section in stored}
    old, new = _defaults(stored) | _flatten(normalise(stored)), _flatten(normalise(comparable))
    pairs = {key: (old.get(key, NOT_SET), value) for key, value in new.items()}
    return {key: (had, value) for key, (had, value) in pairs.items() if had != value}


def _defaults(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """The default of every setting that has one, by its dotted key in a stamp."""
    sections = dict(SECTIONS)
    kind = stamp.get('network', {}).get('kind')
    if kind in NETWORKS:  # other versions may have other kinds
        sections['network'] = NETWORKS[kind]
    return {
        f'{section}.{field.name}': normalise(field.default)
        for section, config in sections.items()
        for field in dataclasses.fields(config)
        if field.default is not dataclasses.MISSING
    }


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f'{prefix}{key}.')
        else:
            # Older stamps hold paths as they were typed, such as images/.
            flat[f'{prefix}{key}'] = file_path(value) if isinstance(value, str) and '/' in value else value
    return flat
