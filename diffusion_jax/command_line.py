"""The command line: flags, and settings of the config as --config.SECTION.SETTING=VALUE."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from diffusion_jax import __version__
from diffusion_jax.checks import between
from diffusion_jax.config import MAY_BE_ABSENT, SECTIONS, all_settings, no_such_setting
from diffusion_jax.config_files import LIST, load_config
from diffusion_jax.errors import UserError
from diffusion_jax.generation.config import beside_recipe
from diffusion_jax.hosts import Hosts
from diffusion_jax.settings import file_path, nearest, read_text

SETTING = 'config.'
ABOUT = """\
Runs an experiment. The results are written to --workdir. The stages of the config run in order, or those that
--stage names. A stage that is complete is skipped, an interrupted one resumes: to resume, give the same
command again. --config.SECTION.SETTING=VALUE changes a setting, such as --config.train.num_steps=500."""
BEGIN = """\
to begin:
  python -m diffusion_jax.main --config=digits    trains on small digits in a few minutes, samples, evaluates
  diffusion-jax configs                           lists the names of configs, and what to expect of each
  diffusion-jax show-config NAME                  prints every setting with its meaning"""


class Parser(argparse.ArgumentParser):
    """Prints its description as it is, and raises UserError for wrong arguments."""

    def __init__(self, prog: str, description: str, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, formatter_class=formatter, **options)

    def error(self, message: str) -> NoReturn:
        where, _, problem = message.removeprefix('argument ').partition(': ')
        raise UserError(where, problem, 'see --help')


class Options(NamedTuple):
    """The command line.

    Attributes:
        config: the config file's experiment with all changes made by flags, as a plain nested dict.
        hosts: None if this process is the only one of the run.
    """

    config: dict[str, Any]
    workdir: Path
    stages: list[str]
    hosts: Hosts | None = None


def parse_flags(argv: Sequence[str]) -> Options:
    """Reads the command line, the program's name first. UserError if it or the config file is wrong."""
    parser = Parser('python -m diffusion_jax.main', ABOUT, epilog=BEGIN)
    add = parser.add_argument
    add('--config', metavar='NAME|FILE', help='the experiment: the name of a config, or a Python file')
    add('--workdir', metavar='FOLDER', help='for all results; by default runs/<name of the config>')
    add('--stage', default='', metavar='STAGES', help='only these stages, separated by commas')
    add('--coordinator', metavar='HOST:PORT', help='the first of several hosts')
    add('--num_hosts', type=int, metavar='N', help='the number of hosts')
    add('--host', type=int, metavar='I', help='which of them this is, from 0')
    add('--distributed', action='store_true', help='one of several hosts, as JAX detects on a cluster')
    add('--initialization_timeout', type=int, default=300, help='seconds for all hosts to connect')
    add('--heartbeat_timeout', type=int, default=60, help='seconds until a silent host is dead')
    add('--version', action='version', version=f'diffusion_jax {__version__}')
    flags, settings = parser.parse_known_args(argv[1:])
    if not flags.config:
        raise UserError('--config', 'is missing', f'give a config, such as --config=digits; {LIST}')
    changes = _read_settings(settings, vars(flags))
    if flags.workdir == '':
        raise UserError('--workdir', "got ''", 'name a folder, or omit it for runs/<name of the config>')
    config = load_config(flags.config)
    workdir = Path(file_path(flags.workdir or Path('runs') / config.path.stem))
    stages = [stage.strip() for stage in flags.stage.split(',') if stage]
    return Options(changed(config.experiment, changes), workdir, stages, _hosts(flags))


def read_config(name: str, settings: Sequence[str] = ()) -> dict[str, Any]:
    """The experiment of a config, by name or file, with changes by --config.SECTION.SETTING=VALUE.

    Raises UserError if something is wrong with the file, or an argument is no setting.
    """
    return changed(load_config(name).experiment, _read_settings(settings, ()))


def changed(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config in which settings, by dotted names, have other values; a section that is None is removed.

    A recipe of samples does not change the settings that are given in addition to it. Raises UserError for a
    setting of a section that the config does not have.
    """
    config = {name: dict(value) if isinstance(value, Mapping) else value for name, value in config.items()}
    for name, value in settings.items():
        section, _, key = name.rpartition('.')
        if name in SECTIONS:
            config.pop(name, None)
        elif not section:
            config[name] = value
        elif section in MAY_BE_ABSENT and config.get(section) is None:
            problem = f'the config has no section {section}'
            raise UserError(f'config.{name}', problem, 'add the section to the config file')
        else:
            config.setdefault(section, {})[key] = value
    sample = config.get('sample')
    if isinstance(sample, dict) and sample.get('recipe'):
        of_sample = [name.removeprefix('sample.') for name in settings if name.startswith('sample.')]
        config['sample'] = beside_recipe(sample, of_sample)
    return config


def _read_settings(arguments: Sequence[str], flags: Collection[str]) -> dict[str, Any]:
    """The values of settings by their dotted names, from --config.name=value, --config.name value,
    --config.name and --noconfig.name; the last one wins. `flags` are suggested for other arguments."""
    settings, rest = {}, list(reversed(arguments))
    text: str | None
    while rest:
        argument = rest.pop()
        name, equals, text = argument.partition('=')
        if name.startswith(f'--no{SETTING}'):
            name, text = name.replace('no', '', 1), 'false'
        if not name.startswith(f'--{SETTING}'):
            known = [*flags, *(SETTING + setting for setting in all_settings())]
            meant = [f'--{each}{equals}{text}' for each in nearest(name.lstrip('-'), known)]
            remedy = f'did you mean {" or ".join(meant)}?' if meant else 'see --help'
            raise UserError(argument, 'unrecognized', remedy)
        if not equals and not text:
            text = rest.pop() if rest and not rest[-1].startswith('--') else None
        setting = name.removeprefix(f'--{SETTING}')
        settings[setting] = read_text(_type_of(setting), text, f'{SETTING}{setting}')
    return settings


def _type_of(setting: str) -> Any:
    if setting in MAY_BE_ABSENT:
        return type(None)
    if setting in SECTIONS:
        remedy = f'give one of its settings: --config.{setting}.NAME=VALUE'
        raise UserError(f'config.{setting}', 'is a section', remedy)
    if setting not in all_settings():
        raise no_such_setting(setting)
    return all_settings()[setting]


def _hosts(flags: argparse.Namespace) -> Hosts | None:
    """UserError unless the flags name a coordinator and one of its hosts, or none."""
    for name in ('initialization_timeout', 'heartbeat_timeout'):
        between(f'--{name}', getattr(flags, name), 0)
    coordinator, num_hosts, host = named = (flags.coordinator, flags.num_hosts, flags.host)
    if named != (None, None, None):
        address, _, port = (coordinator or '').rpartition(':')
        one_of_them = num_hosts is not None and host is not None and 0 <= host < num_hosts
        if flags.distributed or not address or not port.isdigit() or not one_of_them:
            problem = f'got {coordinator!r} with --num_hosts={num_hosts}, --host={host}'
            remedy = 'give --coordinator=HOST:PORT --num_hosts=N --host=I, 0 ≤ I < N; or only --distributed'
            raise UserError('--coordinator', problem, remedy)
    elif not flags.distributed:
        return None
    return Hosts(coordinator, num_hosts, host, flags.initialization_timeout, flags.heartbeat_timeout)
