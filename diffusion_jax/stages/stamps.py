"""Compares the stamp of a folder, the settings and inputs that its results depend on, with the present ones.

Stamps of older versions stay valid: a setting that the stored stamp lacks had its default, a section that it
lacks was not recorded and is not compared, and a setting that only the stored stamp has no longer exists.
"""

import dataclasses
import re
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax import traverse_util

from diffusion_jax import config
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.settings import file_path
from diffusion_jax.workdir import normalise, read_stamp

# The settings in each section of a stamp. A section `network` gives its own kind.
SECTIONS: dict[str, type] = config.SECTIONS | {'process': DiffusionConfig}
NETWORKS = {network.__name__: network for network in (UNetConfig, ClassifierConfig)}
NOT_SET = '(not set)'
MAX_NAMED = 8  # settings in a message


class Results(NamedTuple):
    """The folder of a stage's results, and their stamp."""

    directory: Path
    stamp: dict[str, Any]


def settings_of(section: Any, outside: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a config section that results depend on: all but those `outside`."""
    return {name: value for name, value in dataclasses.asdict(section).items() if name not in outside}


def check_stamp(
    directory: Path, stamp: Mapping[str, Any], remedy: str = 'restore them or choose another folder'
) -> None:
    """Raises UserError if the folder has a stamp that differs; the message names each difference."""
    difference = stamp_difference(read_stamp(directory) or stamp, stamp)
    if difference:
        changes = [f'{key}: had {had}, now {now}' for key, (had, now) in difference.items()]
        more = f' and {len(changes) - MAX_NAMED} more' if len(changes) > MAX_NAMED else ''
        problem = f'made with other settings ({", ".join(changes[:MAX_NAMED])}{more})'
        raise UserError(str(directory), problem, remedy)


def locate(base: Path, section: str, stamp: dict[str, Any], name: str = '') -> Results:
    """The folder of results with this stamp: base/name; without a name `base`, or if taken a folder in it.

    These are named after the differences from the first: settings of the config's section and steps of
    checkpoints, such as samples/scale=2.0 or samples/scale=2.0,diffusion.step=4000, or else all differences;
    a name that is taken ends in a digest. Raises UserError if the folder has another stamp.
    """
    first = {} if name else read_stamp(base) or {}
    difference = {key: new for key, (_, new) in stamp_difference(first, stamp).items()}
    named = {key: new for key, new in difference.items() if key.startswith(f'{section}.')}
    named |= {key: new for key, new in difference.items() if key.endswith('.step')}
    text = ','.join(f'{k.removeprefix(f"{section}.")}={v}' for k, v in (named or difference).items())
    text = re.sub(r'[^\w=.,-]+', '-', text.replace('[', '').replace(']', '').replace(', ', '+'))
    text = text if len(text) <= 80 else f'{text[:70]}-{zlib.crc32(text.encode()):08x}'
    if not name and (taken := stamp_difference(read_stamp(base / text) or {}, stamp)):
        text += f'-{zlib.crc32(repr([(key, new) for key, (_, new) in taken.items()]).encode()):08x}'
    directory = base / (name or text)
    check_stamp(directory, stamp)
    return Results(directory, stamp)


def stamp_difference(stored: Mapping[str, Any], stamp: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings and inputs that differ: dotted key → (stored value, new value)."""
    old = _flatten(normalise({name: _complete(name, section) for name, section in stored.items()}))
    new = _flatten(normalise({name: section for name, section in stamp.items() if name in stored}))
    pairs = {key: (old.get(key, NOT_SET), value) for key, value in new.items()}
    return {key: (had, value) for key, (had, value) in pairs.items() if had != value}


def _complete(name: str, section: Any) -> Any:
    """A section of a stamp with the defaults of the settings that it lacks."""
    if not isinstance(section, Mapping):
        return section
    settings = NETWORKS.get(section.get('kind', '')) if name == 'network' else SECTIONS.get(name)
    fields = dataclasses.fields(settings) if settings else ()
    defaults = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    return defaults | dict(section)


def _flatten(tree: dict[str, Any]) -> dict[str, Any]:
    flat = traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep='.')
    flat = {key: {} if value is traverse_util.empty_node else value for key, value in flat.items()}
    # Older stamps hold paths as they were typed, such as images/.
    return {key: file_path(x) if isinstance(x, str) and '/' in x else x for key, x in flat.items()}
