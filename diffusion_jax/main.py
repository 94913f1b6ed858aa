"""`python -m diffusion_jax.main --config=digits --workdir=runs/digits`: runs an experiment.

The results are written to --workdir. The stages of the config run in order, or those that --stage names. A
stage that is complete is skipped, an interrupted one resumes: to resume, give the same command again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import jax
from absl import logging as absl_logging

from diffusion_jax import __version__
from diffusion_jax.command_line import SHORT_HELP, long_help, parse_flags
from diffusion_jax.config import STAGES, Experiment, check_stages, read_experiment
from diffusion_jax.errors import CheckFailed, UserError, say
from diffusion_jax.hosts import all_or_none, connect, lost, on_any_host, part, wait_for_all_hosts
from diffusion_jax.interruption import Interrupted, stop_requests
from diffusion_jax.sharding import make_mesh
from diffusion_jax.stages import evaluate, likelihood, networks, sample, train, train_classifier
from diffusion_jax.stages.inputs import check_inputs
from diffusion_jax.stages.run import Run
from diffusion_jax.workdir import lock

logger = logging.getLogger('diffusion_jax')

MODULES: dict[str, ModuleType] = dict(
    zip(STAGES, (train, train_classifier, sample, evaluate, likelihood), strict=True)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with command line arguments, the program's name first; returns its exit code."""
    argv = list(sys.argv if argv is None else argv)
    set_up_logging()
    if len(argv) == 1:
        say(SHORT_HELP)
        return 2
    if {'-h', '--help'} & set(argv):
        print(long_help(__doc__))
        return 0
    if '--version' in argv:
        print(f'diffusion_jax {__version__}')
        return 0
    code = _exit_code(argv)
    if jax.distributed.is_initialized():
        part(code)
    return code


def _exit_code(argv: Sequence[str]) -> int:
    try:
        options = parse_flags(argv)
        experiment = read_experiment(options.config)
        if options.hosts is not None:
            connect(options.hosts)
        run_experiment(experiment, options.workdir, options.stages)
    except UserError as error:
        say(f'error: {error}')
        return 2
    except CheckFailed as error:
        say(f'check failed: {error}')
        return 1
    except Interrupted as error:
        say(f'{error}; give the same command to go on')
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or 'the disk'
            say(f'error: {where}: {error.strerror}; make room and give the same command again')
            return 2
        if jax.process_count() == 1:  # of several hosts, one that died shows in errors of all kinds
            raise
        if not isinstance(error, jax.errors.JaxRuntimeError):
            traceback.print_exc()
        lost(error)
    return 0


def set_up_logging() -> None:
    """Our own messages on stderr as they are; of the libraries only errors."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [logging.StreamHandler()]


def run_experiment(experiment: Experiment, workdir: Path, stages: Sequence[str] = ()) -> None:
    """Runs the named stages, by default those of the experiment, in one working directory."""
    check_stages(experiment, stages, '--stage')
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp)
    first_host = jax.process_index() == 0
    logger.setLevel(logging.INFO if first_host else logging.WARNING)
    with contextlib.ExitStack() as held:
        stop = held.enter_context(stop_requests())
        run = Run(experiment, workdir.absolute(), mesh, stop)
        given = [stage for name, stage in networks.STAGES.items() if getattr(experiment.pretrained, name)]
        planned = list(stages) or [stage for stage in experiment.stages if stage not in given]
        with all_or_none():
            if first_host:
                held.enter_context(lock(workdir))
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


if __name__ == '__main__':
    sys.exit(main())
