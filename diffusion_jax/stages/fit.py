"""Trains one network in its own folder, or resumes where an earlier run stopped."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from diffusion_jax.data.classes import check_same_classes, listed
from diffusion_jax.data.config import LOCATION_SETTINGS, READING_SETTINGS
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources import class_names, describe
from diffusion_jax.data.sources.wrappers import cached, skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.errors import UserError
from diffusion_jax.hosts import any_process, raise_together, synced_flag
from diffusion_jax.models import ClassifierConfig, UNetConfig, describe_network
from diffusion_jax.report import MetricsWriter, last_logged_step
from diffusion_jax.sharding import check_batch_size, put_batch
from diffusion_jax.stages.finetune import check_start, load_start
from diffusion_jax.stages.networks import check_classes, start_stamp
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.stamps import check_stamp, settings_of
from diffusion_jax.stored_networks import CHECKPOINTS, CLASSIFIER, DIFFUSION, TRAINED_BY
from diffusion_jax.training import loop
from diffusion_jax.training.checkpoints import latest_step
from diffusion_jax.training.config import OUTSIDE_THE_RESULT, TrainConfig
from diffusion_jax.training.loop import Call, Hook
from diffusion_jax.training.metrics import Sums, TooManySkipped
from diffusion_jax.training.objectives import Objective
from diffusion_jax.training.program import first_state, step_cost, train_program
from diffusion_jax.training.saving import Checkpoints
from diffusion_jax.training.step import TrainState
from diffusion_jax.training.timing import Profiler, Timer
from diffusion_jax.workdir import read_stamp, write_stamp

logger = logging.getLogger(__name__)

SECTIONS = {DIFFUSION: 'unet', CLASSIFIER: 'classifier'}  # of a config, by network


class Training(NamedTuple):
    """What is trained, and where.

    Attributes:
        directory: named after the network.
        stamp: what the parameters depend on.
        intervals: after how many steps each hook is called, by name; 0 is never.
    """

    directory: Path
    network: UNetConfig | ClassifierConfig
    objective: Objective
    config: TrainConfig
    stamp: dict[str, Any]
    intervals: dict[str, int]


def locate(
    run: Run, name: str, objective: Objective, process: dict[str, Any], intervals: dict[str, int]
) -> Training:
    """The training of a network by its name; process: the settings of the diffusion process that matter."""
    experiment, network = run.experiment, run.experiment.networks[name]
    config = getattr(experiment, TRAINED_BY[name])
    # What a description leaves out, or includes only if it is set.
    not_described = [key for key in ('dropout', 'dtype', 'label_dropout') if hasattr(network, key)]
    stamp = {
        'network': describe_network(network) | {key: getattr(network, key) for key in not_described},
        'diffusion': process,
        'data': settings_of(experiment.data, (*READING_SETTINGS, *LOCATION_SETTINGS)),
        'images': describe(run.source('train')),
        'train': settings_of(config, OUTSIDE_THE_RESULT),
        'pretrained': start_stamp(getattr(experiment.pretrained, name)),
        'seed': experiment.seed,
    }
    return Training(run.workdir / name, network, objective, config, stamp, intervals)


def check(run: Run, name: str) -> None:
    """Raises UserError if the devices, the images or the network to start from do not fit the training."""
    experiment, stage = run.experiment, TRAINED_BY[name]
    config, pretrained = getattr(experiment, stage), getattr(experiment.pretrained, name)
    key = f'{stage}.batch_size' + (f' / {stage}.microbatches' if config.microbatches > 1 else '')
    check_batch_size(run.mesh, config.batch_size // config.microbatches, key)
    # A host holds its part of a batch as uint8 and as float32.
    image_bytes = 5 * math.prod((*experiment.data.image_size, experiment.data.image_channels))
    needed = image_bytes * config.batch_size // jax.process_count()
    available = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    if needed > available:
        problem = f'{config.batch_size} images need {needed:,} bytes, and this machine has {available:,}'
        raise UserError(f'config.{stage}.batch_size', problem, 'lower it')
    if pretrained:
        check_start(Path(pretrained), experiment.networks[name], experiment.diffusion)
    check_classes(run)
    run.check_images('train')


def is_complete(run: Run, training: Training) -> bool:
    """Whether there is a checkpoint of the last step or a later one, and that step is logged, which follows
    its hooks. Those who read the checkpoint check that it is intact.

    Raises:
        UserError: it was trained with other settings.
    """
    _check_stamp(run, training)
    directory, num_steps = training.directory, training.config.num_steps
    step = latest_step(directory / CHECKPOINTS)
    saved = step is not None and (directory / CHECKPOINTS / str(step) / 'digests').is_dir()
    return saved and num_steps <= min(step, last_logged_step(directory))


def fit(run: Run, training: Training, make_calls: Callable[[MetricsWriter], dict[str, Call]]) -> None:
    """Trains to the last step, with checkpoints and logs in the training's folder.

    make_calls: returns what the hooks do, by name.
    """
    directory, network, config = training.directory, training.network, training.config
    with step_fits(run, directory.name):
        data = training_data(run, directory.name, functools.partial(put_batch, run.mesh))
    with Checkpoints(directory / CHECKPOINTS, keep=config.keep_checkpoints) as checkpoints:
        program = train_program(training.objective, network, config, run.mesh)
        cost, least_s = step_cost(program, run.mesh)
        logger.info('%s: %s', directory.name, cost)
        state, progress = _start(run, checkpoints, training, program.arguments[0])
        if progress:
            data.set_state(progress['data'])
        step, sums = int(jax.device_get(state.step)), progress.get('metrics', {})
        with raise_together():
            if jax.process_index() == 0:
                write_stamp(directory, training.stamp)
            writer = MetricsWriter(directory, resume_step=step - 1 if sums else step)

        def save(state: TrainState, sums: Sums) -> None:
            if any_process(not writer.flush()):  # a run that resumes from here does not write its lines again
                checkpoints.skip(int(jax.device_get(state.step)), 'the log cannot be written')
                return
            progress = {'data': data.get_state(), 'metrics': sums}
            checkpoints.save(state, progress, describe_network(network))

        with writer, explain_divergence(directory, checkpoints), step_fits(run, directory.name):
            calls = loop.Calls(
                save=save,
                poll=checkpoints.poll,
                stop=synced_flag(run.stop),
                hooks=[
                    Hook(name, training.intervals[name], call) for name, call in make_calls(writer).items()
                ],
                writer=writer,
                timer=Timer(config.batch_size, least_s),
                profiler=Profiler(config.profile, directory / 'profile'),
            )
            loop.run(state, program.jitted, data, config, calls, name=directory.name, sums=sums)


def step_fits(run: Run, name: str) -> AbstractContextManager[None]:
    """If a training step runs out of memory, names the settings to change; see `Run.fits`."""
    stage, section = TRAINED_BY[name], SECTIONS[name]
    remat = getattr(run.experiment, section).remat
    alternatives = f', raise config.{stage}.microbatches' + f', set config.{section}.remat=True' * (not remat)
    return run.fits(f'a training step of the {name} model', f'{stage}.batch_size', alternatives)


@contextlib.contextmanager
def explain_divergence(directory: Path, checkpoints: Checkpoints) -> Iterator[None]:
    """If too many steps were skipped, names the last good checkpoint and how to start from it."""
    try:
        yield
    except TooManySkipped as error:
        name, step = directory.name, checkpoints.latest_step
        good, start = 'no checkpoint was saved', 'start in another --workdir'
        if step is not None:
            good = f'the last good checkpoint is {checkpoints.directory / str(step)}'
            start += f' from it: --stage={TRAINED_BY[name]} --config.pretrained.{name}={directory}'
        remedy = f'{start}, with a smaller learning_rate, clip_norm or float32'
        raise UserError(str(directory), f'{error}; {good}', remedy) from error


def training_data(run: Run, name: str, place: Callable[[Any], Any]) -> Any:
    """This host's part of the batches on which the network of this name is trained.

    Threads load the next batches and `place` them while the devices compute.
    """
    experiment, source, stage = run.experiment, run.source('train'), TRAINED_BY[name]
    config: TrainConfig = getattr(experiment, stage)
    names = class_names(source)
    classes = f'{len(names)} classes: {listed(names)}' if names else 'no labels'
    skipped = f'; {source.skipped}' if source.skipped else ''
    logger.info('data: %s training images, %s%s', f'{len(source):,}', classes, skipped)
    if config.batch_size > len(source):
        logger.info(
            'config.%s.batch_size is %d, larger than the data set: a batch has each image %.3g times',
            stage,
            config.batch_size,
            config.batch_size / len(source),
        )
    if not config.random_crop:
        source = cached(source, experiment.data)
    return batches(
        skipping(source, experiment.data),
        config.batch_size,
        seed=experiment.seed,
        transform=make_transform(experiment.data, crop_randomly=config.random_crop, flip=config.flip),
        num_workers=max(experiment.data.num_workers, 1),  # making a batch takes 2 ms even from memory
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        place=place,
    )


def _start(
    run: Run, checkpoints: Checkpoints, training: Training, abstract: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """The state to start or resume from, and the progress of the run that is resumed."""
    name, experiment = training.directory.name, run.experiment
    alternatives = f', or raise config.mesh.fsdp ({experiment.mesh.fsdp}) with more devices'
    with run.fits(f'initializing the {name} model', f'{SECTIONS[name]}.model_channels', alternatives):
        if checkpoints.latest_step is not None:
            state, progress = checkpoints.restore(abstract)
            logger.info('%s: resuming from step %d', name, int(state.step))
            return state, progress
        key, params = jax.random.key(experiment.seed), None
        if start := getattr(experiment.pretrained, name):
            classes = class_names(run.source('train'))
            init_key, _ = jax.random.split(key)
            params = load_start(Path(start), training.network, classes, init_key, run.mesh)
        return first_state(training.objective, training.network, training.config, abstract, key, params), {}


def _check_stamp(run: Run, training: Training) -> None:
    """Raises UserError if the folder holds a training with other settings or on other images."""
    directory, stamp = training.directory, training.stamp
    stored = read_stamp(directory) or stamp
    name = directory.name
    other = f'train in another --workdir from these parameters: --stage={TRAINED_BY[name]} '
    other += f'--config.pretrained.{name}={directory}'
    if 'images' in stored:
        had, now = stored['images'], stamp['images']
        try:
            check_same_classes('config.data', now['classes'], str(directory), had['classes'])
        except UserError as error:
            raise UserError(error.where, error.problem, f'restore the names, or {other}') from error
        if had != now:
            problem = f'its {now["count"]:,} training images are not the {had["count"]:,} of {directory}'
            remedy = f'restore the files that were added, removed or renamed, or {other}'
            raise UserError('config.data', problem, remedy)
    else:  # written by an older version, which identified images by their place
        data = settings_of(run.experiment.data)
        places = {key: data[key] for key in LOCATION_SETTINGS if key in stored['data']}
        stamp = stamp | {'data': stamp['data'] | places}
        logger.info('%s: its stamp does not identify its images; the present ones are used', directory)
    check_stamp(directory, stamp, f'restore them, or {other}')
