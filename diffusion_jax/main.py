"""`python -m diffusion_jax.main --config=configs/digits.py --workdir=runs/digits`: runs an experiment.

The results go to --workdir, by default runs/<name of the config>. The stages of the config run in order, or
those that --stage names. A stage whose result is there already is passed over, an interrupted one goes on
where it stopped: to resume, give the same command again.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

try:
    import jax
except ValueError as error:  # of a variable such as JAX_NUM_CPU_DEVICES, which JAX reads when it is imported
    from diffusion_jax.errors import reason, say

    say(f'error: {reason(error)}; correct or unset that environment variable')
    sys.exit(2)
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from diffusion_jax.compilation_cache import use_compilation_cache
from diffusion_jax.config import STAGES, Experiment, Pretrained, check_stages, read_experiment
from diffusion_jax.errors import UserError
from diffusion_jax.exits import exit_code
from diffusion_jax.hosts import (
    Hosts,
    all_or_none,
    check_hosts,
    connect,
    on_any_host,
    part,
    wait_for_all_hosts,
)
from diffusion_jax.interruption import Interrupted, stop_requests
from diffusion_jax.settings import read_section
from diffusion_jax.sharding import make_mesh
from diffusion_jax.stages import evaluate, likelihood, networks, sample, train, train_classifier
from diffusion_jax.stages.inputs import check_inputs
from diffusion_jax.stages.run import Run
from diffusion_jax.stored_networks import stored_classes
from diffusion_jax.streams import PatientStream
from diffusion_jax.workdir import lock

logger = logging.getLogger('diffusion_jax')

MODULES: dict[str, ModuleType] = dict(
    zip(STAGES, (train, train_classifier, sample, evaluate, likelihood), strict=True)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with command line arguments, the program's name first; returns its exit code."""
    code = exit_code(functools.partial(_main, list(sys.argv if argv is None else argv)))
    if jax.distributed.is_initialized():
        part(code)
    return code


def _main(argv: Sequence[str]) -> None:
    set_up_logging()
    use_compilation_cache()
    if {'-h', '--help'} & set(argv):
        print(
            __doc__ + '\nFlags: --config=FILE --workdir=FOLDER --stage=NAME,… --config.SECTION.SETTING=VALUE'
            '\nOn several hosts: --coordinator=HOST:PORT --num_hosts=N --host=I; on a cluster: --distributed'
        )
        return
    options = parse_flags(argv)
    experiment = read_experiment(options.config, _stored_classes(options))
    if options.hosts is not None:
        connect(options.hosts)
    run_experiment(experiment, options.workdir, options.stages)


def _stored_classes(options: Options) -> tuple[str, ...]:
    """The names of the classes of the networks that a run uses; () for a run that trains: its images say."""
    pretrained = read_section(Pretrained, options.config.get('pretrained', {}), 'config.pretrained')
    planned = _planned(options.stages, options.config.get('stages', ()), pretrained)
    if not set(planned).isdisjoint(networks.STAGES.values()):
        return ()
    paths = (networks.find_network(options.workdir, name, pretrained) for name in networks.STAGES)
    return next(filter(None, map(stored_classes, paths)), ())


def set_up_logging() -> None:
    """Our own messages on stderr as they are; of the libraries only errors."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [logging.StreamHandler(PatientStream(sys.stderr))]


class Options(NamedTuple):
    """The command line.

    Attributes:
        config: the config file's experiment with all changes made by flags.
        hosts: None where this process is the whole run.
    """

    config: dict[str, Any]
    workdir: Path
    stages: list[str]
    hosts: Hosts | None = None


def parse_flags(argv: Sequence[str]) -> Options:
    """Raises UserError for anything that is wrong with the command line."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        'config', help_string='A file such as configs/digits.py.', flag_values=values, sys_argv=list(argv)
    )
    flags.DEFINE_string('workdir', None, 'Takes all results; by default runs/<config>.', flag_values=values)
    flags.DEFINE_list('stage', [], f'Only these of {", ".join(STAGES)}.', flag_values=values)
    _define_hosts(values)
    for argument, following in zip(argv, [*argv[1:], ''], strict=True):
        if argument == '--config' or argument.startswith('--config='):
            path = argument.partition('=')[2] or following
            config_path = Path(path.split(':')[0])
            if not config_path.is_file():
                raise UserError(f'{path}: no such config file')
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        raise UserError(f'command line: {error}') from error
    except (AttributeError, KeyError) as error:  # how ml_collections says that a config has no such key
        key = re.match(r'\W*(\w*)', str(error.args[0])).group(1)
        unknown = [text for text in argv if text.startswith('--config.') and key in text.split('=')[0]]
        if not unknown:
            raise UserError(f'config file: {error}') from error
        hint = re.search(r'Did you mean "(\w+)"', str(error))
        meant = f'; did you mean {hint.group(1)}?' if hint else ''
        raise UserError(f'{" ".join(unknown)}: no such setting in the config{meant}') from error
    if rest:
        raise UserError(f'{" ".join(rest)}: arguments that mean nothing here; see the README')
    if values.config is None:
        raise UserError('give --config=<file>, such as configs/digits.py; see the README')
    workdir = Path(values.workdir or Path('runs') / config_path.stem)
    return Options(values.config.to_dict(), workdir, values.stage, _hosts(values))


def _define_hosts(values: flags.FlagValues) -> None:
    define = functools.partial(flags.DEFINE_integer, flag_values=values, lower_bound=0)
    flags.DEFINE_boolean('distributed', False, 'One of several hosts, as JAX detects.', flag_values=values)
    flags.DEFINE_string('coordinator', '', 'HOST:PORT of the first host.', flag_values=values)
    define('num_hosts', None, 'How many hosts there are.')
    define('host', None, 'Which of them this is, from 0.')
    define('initialization_timeout', 300, 'Seconds that hosts wait for each other at the start.')
    define('heartbeat_timeout', 60, 'Seconds after which a silent host is dead, which ends the others.')


def _hosts(values: flags.FlagValues) -> Hosts | None:
    hosts = Hosts(
        values.coordinator,
        values.num_hosts,
        values.host,
        values.initialization_timeout,
        values.heartbeat_timeout,
    )
    check_hosts(hosts, detected=values.distributed)
    return hosts if values.distributed or values.coordinator else None


def run_experiment(experiment: Experiment, workdir: Path, stages: Sequence[str] = ()) -> None:
    """Runs the named stages, by default those of the experiment, in one working directory."""
    check_stages(experiment, stages, '--stage')
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp)
    if not threading.main_thread().is_alive():  # no thread pool takes work any more
        raise UserError(
            'the main thread has ended, and Python with it; let it wait for this one: Thread.join'
        )
    first_host = jax.process_index() == 0
    logger.setLevel(logging.INFO if first_host else logging.WARNING)
    with contextlib.ExitStack() as held:
        stop = held.enter_context(stop_requests())
        run = Run(experiment, workdir.absolute(), mesh, stop)
        planned = _planned(stages, experiment.stages, experiment.pretrained)
        with all_or_none():
            if first_host:
                held.enter_context(lock(workdir))
            run = networks.with_average(run, planned)
            check_inputs(run, planned)
        logger.info('%d %s device(s), results in %s', mesh.size, jax.default_backend(), workdir)
        for stage in planned:
            wait_for_all_hosts(f'{stage}: begun')  # after all that others wrote before
            # Agreed before any of them changes what the others look at.
            with all_or_none():
                complete = MODULES[stage].complete(run)
            if not on_any_host(not complete):
                logger.info('%s: complete already', stage)
            else:
                MODULES[stage].main(run)
            if stage != planned[-1] and on_any_host(stop()):
                raise Interrupted(f'stopped after the stage {stage}')
        wait_for_all_hosts('ended')


def _planned(named: Sequence[str], stages: Sequence[str], pretrained: Pretrained) -> list[str]:
    """The stages that the command line names, or those of the config but the training of given networks."""
    given = [stage for name, stage in networks.STAGES.items() if getattr(pretrained, name)]
    return list(named) or [stage for stage in stages if stage not in given]


if __name__ == '__main__':
    sys.exit(main())
