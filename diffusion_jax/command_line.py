"""The command line of the program: flags, and settings of the config as --config.SECTION.SETTING=VALUE."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_jax.checks import between
from diffusion_jax.config import MAY_BE_ABSENT, SECTIONS, all_settings, no_such_setting
from diffusion_jax.config_files import LIST, find_config, load_config, named_configs
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import STAGES
from diffusion_jax.hosts import Hosts, check_hosts
from diffusion_jax.settings import FilePath, meanings, nearest, read_text, types_of

SETTING = 'config.'

USAGE = """\
usage: python -m diffusion_jax.main --config=NAME|FILE [--workdir=FOLDER] [--config.SECTION.SETTING=VALUE]"""
BEGIN = """\
to begin:
  python -m diffusion_jax.main --config=digits    trains on small digits in a few minutes, samples, evaluates
  diffusion-jax configs                           lists the names of configs, and what to expect of each
`diffusion-jax show-config NAME` prints every setting with its meaning."""
SHORT_HELP = f'{USAGE}\n\n{BEGIN}\n--help explains the flags.'


@dataclasses.dataclass(frozen=True)
class Flags:
    """What the command line gives in addition to settings of the config.

    Attributes:
        config: the experiment: the name of a config, or a Python file.
        workdir: the folder for all results; by default runs/<name of the config>.
        stage: only these stages, separated by commas.
        coordinator: HOST:PORT of the first of several hosts.
        num_hosts: the number of hosts.
        host: which of them this is, from 0.
        distributed: this is one of several hosts, as JAX detects on a cluster.
        initialization_timeout: seconds that hosts wait for each other at the start.
        heartbeat_timeout: seconds after which a silent host is dead, which ends the others.
    """

    config: str = ''
    workdir: FilePath = ''
    stage: tuple[str, ...] = ()
    coordinator: str = ''
    num_hosts: int | None = None
    host: int | None = None
    distributed: bool = False
    initialization_timeout: int = 300
    heartbeat_timeout: int = 60


class Options(NamedTuple):
    """The command line.

    Attributes:
        config: the config file's experiment with all changes made by flags, as a plain nested dict.
        hosts: None where this process is the whole run.
    """

    config: dict[str, Any]
    workdir: Path
    stages: list[str]
    hosts: Hosts | None = None


def long_help(about: str) -> str:
    """What --help prints.

    Args:
        about: a docstring; its text after the first line explains the program.
    """
    flags = {f'--{name}': text for name, text in meanings(Flags).items()}
    flags['--config.…=VALUE'] = (
        'another value for a setting of the config, such as --config.train.num_steps=500.'
    )
    flags['--version'] = 'print the version.'
    width = max(map(len, flags)) + 2
    lines = [f'  {name:<{width}}{text}' for name, text in flags.items()]
    return '\n'.join([USAGE, '', about.partition('\n\n')[2], *lines, '', BEGIN])


def parse_flags(argv: Sequence[str]) -> Options:
    """Raises UserError for anything that is wrong with the command line or the config file."""
    given, settings = _read(argv[1:], types_of(Flags))
    flags = Flags(**given)
    if given.get('workdir') == '':
        raise UserError("--workdir is ''; name a folder, or leave it out for runs/<name of the config>")
    if not flags.config:
        raise UserError(f'give --config=NAME or --config=FILE, such as --config=digits; {LIST}')
    file = find_config(flags.config)
    config = changed(load_config(file).experiment, settings)
    workdir = Path(flags.workdir or Path('runs') / file.path.stem)
    return Options(config, workdir, list(flags.stage), _hosts(flags))


def read_config(name: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """The experiment of a config, by name or file, with the changes that arguments make, as in `parse_flags`.

    Raises:
        UserError: something is wrong with the config file, or an argument is no setting.
    """
    settings = _read(arguments, {})[1]
    return changed(load_config(find_config(name)).experiment, settings)


def changed(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config in which settings, by dotted names, have other values; a section that is None is removed.

    Raises:
        UserError: a setting is of a section that the config does not have.
    """
    config = {name: dict(value) if isinstance(value, Mapping) else value for name, value in config.items()}
    for name, value in settings.items():
        section, _, key = name.rpartition('.')
        if name in SECTIONS:
            config.pop(name, None)
        elif not section:
            config[name] = value
        elif section in MAY_BE_ABSENT and config.get(section) is None:
            raise UserError(f'config.{name}: the config has no section {section}; add it to the config file')
        else:
            config.setdefault(section, {})[key] = value
    return config


def _read(arguments: Sequence[str], flags: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of the `flags`, of these types, and of settings by their dotted names; the last one wins."""
    values, settings = {}, {}
    for name, text, argument in _assignments(arguments):
        if name.startswith(SETTING):
            setting = name.removeprefix(SETTING)
            settings[setting] = read_text(_type_of(setting), text, name)
        elif name in flags:
            values[name] = read_text(flags[name], text, f'--{name}')
        else:
            raise UserError(f'{argument}: unrecognized{_meant(argument, flags)}')
    return values, settings


def _assignments(arguments: Sequence[str]) -> Iterator[tuple[str, str | None, str]]:
    """Name, value and the argument itself of --name=value, --name value, --name (value None) and --noname."""
    rest = list(reversed(arguments))
    while rest:
        argument = rest.pop()
        name, equals, text = argument.removeprefix('--').partition('=')
        if not argument.startswith('--'):
            yield '', None, argument
        elif equals:
            yield name, text, argument
        elif name.startswith(f'no{SETTING}') or name == 'nodistributed':
            yield name.removeprefix('no'), 'false', argument
        else:
            yield name, rest.pop() if rest and not rest[-1].startswith('--') else None, argument


def _type_of(setting: str) -> Any:
    if setting in MAY_BE_ABSENT:
        return type(None)
    if setting in SECTIONS:
        raise UserError(
            f'config.{setting} is a section; give one of its settings: --config.{setting}.NAME=VALUE'
        )
    if setting not in all_settings():
        raise no_such_setting(setting)
    return all_settings()[setting]


def _meant(argument: str, flags: Collection[str]) -> str:
    """What was probably meant by an argument that is neither a flag nor a setting."""
    name, equals, text = argument.lstrip('-').partition('=')
    value = equals + text
    if not argument.startswith('-') and not equals:  # perhaps the value of a flag
        found = [f'--stage={argument}'] if argument in STAGES and 'stage' in flags else []
        if argument.endswith('.py') or argument in named_configs():
            found = [f'--config={argument}']
    else:
        names = difflib.get_close_matches(name.replace('-', '_'), flags, 1, 0.75)
        names += [SETTING + setting for setting in nearest(name.removeprefix(SETTING), all_settings())]
        found = [f'--{name}{value}' for name in names]
    return f'; did you mean {" or ".join(found)}?' if found else '; see --help'


def _hosts(flags: Flags) -> Hosts | None:
    for name in ('initialization_timeout', 'heartbeat_timeout'):
        between(f'--{name}', getattr(flags, name), 0)
    hosts = Hosts(
        flags.coordinator,
        flags.num_hosts,
        flags.host,
        flags.initialization_timeout,
        flags.heartbeat_timeout,
    )
    check_hosts(hosts, detected=flags.distributed)
    return hosts if flags.distributed or flags.coordinator else None
