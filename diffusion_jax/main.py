"""`python -m diffusion_jax.main`: run an experiment, such as --config=digits --workdir=runs/digits."""

import contextlib
import functools
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from absl import logging as absl_logging

from diffusion_jax.command_line import Options, parse_flags
from diffusion_jax.compilation_cache import compile_fast_on_gpus, keep_chosen_kernels, use_compilation_cache
from diffusion_jax.config import read_experiment
from diffusion_jax.exits import exit_code
from diffusion_jax.experiment import STAGES, Experiment, Pretrained, check_stages
from diffusion_jax.generation.stored_grids import stored_grids
from diffusion_jax.hosts import any_process, connect, raise_together, shutdown
from diffusion_jax.interruption import Interrupted, stop_requests
from diffusion_jax.settings import read_section
from diffusion_jax.sharding import local_mesh, make_mesh
from diffusion_jax.stages import evaluate, likelihood, networks, sample, train, train_classifier
from diffusion_jax.stages.run import Run
from diffusion_jax.stored_networks import DIFFUSION, TRAINED_BY, stored_classes, stored_path
from diffusion_jax.streams import PatientStream
from diffusion_jax.workdir import lock

logger = logging.getLogger('diffusion_jax')

MODULES: dict[str, ModuleType] = dict(
    zip(STAGES, (train, train_classifier, sample, evaluate, likelihood), strict=True)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with command line arguments, the program's name first; returns its exit code."""
    code = exit_code(functools.partial(_main, sys.argv if argv is None else argv))
    if jax.distributed.is_initialized():
        shutdown(code)
    return code


def _main(argv: Sequence[str]) -> None:
    set_up()
    options = parse_flags(argv)
    experiment = read_experiment(_with_stored_grid(options), _stored_classes(options))
    if experiment.deterministic:
        keep_chosen_kernels(options.workdir.absolute() / 'compiled')
    if options.hosts is not None:
        connect(options.hosts)
    run_experiment(experiment, options.workdir, options.stages)


def set_up() -> None:
    """Prints messages of this package alone (libraries raise what they log) and keeps compiled programs."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    # Orbax leaves its other writes unstarted when one of them fails, which is reported once, as an error.
    warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [logging.StreamHandler(PatientStream(sys.stderr))]
    use_compilation_cache()
    compile_fast_on_gpus()


def _stored_classes(options: Options) -> tuple[str, ...]:
    """The names of the classes of the networks that a run uses; () if it trains: the images name them."""
    pretrained = read_section(Pretrained, options.config.get('pretrained', {}), 'config.pretrained')
    planned = _planned(options.stages, options.config.get('stages', ()), pretrained)
    if not set(planned).isdisjoint(TRAINED_BY.values()):
        return ()
    paths = [networks.find_network(options.workdir, name, pretrained) for name in TRAINED_BY]
    if base := options.config.get('base', {}).get('diffusion'):
        paths.append(stored_path(base, DIFFUSION))
    return next(filter(None, map(stored_classes, paths)), ())


def _with_stored_grid(options: Options) -> dict[str, Any]:
    """The config with the stored grid that its setting sample.respacing names, if it names one."""
    pretrained = read_section(Pretrained, options.config.get('pretrained', {}), 'config.pretrained')
    grids = stored_grids(networks.find_network(options.workdir, DIFFUSION, pretrained))
    sample = options.config.get('sample')
    if isinstance(sample, Mapping) and (grid := grids.get(str(sample.get('respacing')))):
        return {**options.config, 'sample': {**sample, 'respacing': grid}}
    return options.config


def run_experiment(experiment: Experiment, workdir: Path, stages: Sequence[str] = ()) -> None:
    """Runs the named stages, by default those of the experiment, in one working directory."""
    check_stages(experiment, stages, '--stage')
    mesh = make_mesh(experiment.mesh.data, experiment.mesh.fsdp)
    first_host = jax.process_index() == 0
    logger.setLevel(logging.INFO if first_host else logging.WARNING)
    planned = _planned(stages, experiment.stages, experiment.pretrained)
    with contextlib.ExitStack() as held:
        stop = held.enter_context(stop_requests())
        run = Run(experiment, workdir.absolute(), mesh, stop, tuple(planned))
        with raise_together():
            if first_host:
                held.enter_context(lock(workdir))
            # Each host trains with all devices, and samples and evaluates with its own.
            own = run.on(local_mesh(mesh))
            runs = {stage: run if stage in TRAINED_BY.values() else own for stage in planned}
            for stage in planned:
                MODULES[stage].check(runs[stage])
        logger.info('%d %s device(s), results in %s', mesh.size, jax.default_backend(), workdir)
        for stage in planned:
            any_process(False)  # wait until all hosts have written what this stage reads
            with raise_together():
                results = MODULES[stage].locate(runs[stage])
                complete = MODULES[stage].complete(runs[stage], results)
            # All hosts decide before any of them changes what the others read.
            if any_process(not complete):
                MODULES[stage].main(runs[stage], results)
            else:
                logger.info('%s: complete already', stage)
            if stage != planned[-1] and any_process(stop()):
                raise Interrupted(f'stopped after the stage {stage}')
        any_process(False)  # the first host holds the lock until all have ended


def _planned(named: Sequence[str], stages: Sequence[str], pretrained: Pretrained) -> list[str]:
    """The stages that the command line names, or those of the config except training of given networks."""
    given = [stage for name, stage in TRAINED_BY.items() if getattr(pretrained, name)]
    return list(named) or [stage for stage in stages if stage not in given]


if __name__ == '__main__':
    sys.exit(main())
