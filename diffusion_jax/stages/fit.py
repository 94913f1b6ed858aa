"""Trains one network in its own folder, or goes on where an earlier run left it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from diffusion_jax.data.classes import check_same_classes, listed
from diffusion_jax.data.config import HOW_IMAGES_ARE_READ, WHERE_IMAGES_LIE
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources import Source, class_names, describe
from diffusion_jax.data.sources.wrappers import cached, skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment
from diffusion_jax.hosts import any_process, raise_together, synced_flag
from diffusion_jax.models import ClassifierConfig, UNetConfig, describe_network
from diffusion_jax.report import MetricsWriter, last_logged_step
from diffusion_jax.sharding import put_batch
from diffusion_jax.stages import limits
from diffusion_jax.stages.networks import STAGES, start_stamp
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.stamps import check_stamp
from diffusion_jax.stages.tuning import load_start
from diffusion_jax.stored_networks import CHECKPOINTS
from diffusion_jax.training import loop
from diffusion_jax.training.checkpoints import reached_end
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


class Training(NamedTuple):
    """What is trained, and where.

    Attributes:
        objective: what the network is trained to do.
        process: the settings of the diffusion process that the result depends on.
        intervals: after how many steps each hook is called, by name; 0 is never.
        pretrained: a folder of training or a file of weights to start from; '' to start from scratch.
    """

    directory: Path
    network: UNetConfig | ClassifierConfig
    objective: Objective
    config: TrainConfig
    process: dict[str, Any]
    pretrained: str
    intervals: dict[str, int]


def is_complete(run: Run, training: Training) -> bool:
    """Whether the newest checkpoint is of the last step or later and intact, and that step is logged, which
    follows its hooks.

    Raises:
        UserError: it was trained with other settings.
    """
    with raise_together():
        _check_stamp(run, training)
    config, directory = training.config, training.directory
    checkpoints = directory / CHECKPOINTS
    if not reached_end(checkpoints, training.network, config.num_steps, config.ema_rates, run.mesh):
        return False
    return not any_process(last_logged_step(directory) < config.num_steps)


def fit(run: Run, training: Training, make_calls: Callable[[MetricsWriter], dict[str, Call]]) -> None:
    """Trains to the last step, with checkpoints and logs in the training's folder.

    Args:
        make_calls: what the hooks do, by name.
    """
    directory, network, config = training.directory, training.network, training.config
    limits.check_batch(run.experiment, directory.name)
    with limits.training_step(run.experiment, directory.name):
        place = functools.partial(put_batch, run.mesh)
        data = training_data(run.experiment, directory.name, run.source('train'), place)
    with Checkpoints(directory / CHECKPOINTS, keep=config.keep_checkpoints) as checkpoints:
        with limits.initialisation(run.experiment, directory.name):
            program = train_program(training.objective, network, config, run.mesh)
            cost, least_s = step_cost(program, run.mesh)
            logger.info('%s: %s', directory.name, cost)
            state, progress = _start(run, checkpoints, training, program.arguments[0])
        if progress:
            data.set_state(progress['data'])
        step, sums = int(jax.device_get(state.step)), progress.get('metrics', {})
        with raise_together():
            if jax.process_index() == 0:
                write_stamp(directory, _stamp(run, training))
            writer = MetricsWriter(directory, resume_step=step - 1 if sums else step)

        def save(state: TrainState, sums: Sums) -> None:
            writer.flush()  # a run that resumes from here does not write these lines again
            progress = {'data': data.get_state(), 'metrics': sums}
            checkpoints.save(state, progress, describe_network(network))

        fits = limits.training_step(run.experiment, directory.name)
        with writer, way_out_named(directory, checkpoints), fits:
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


@contextlib.contextmanager
def way_out_named(directory: Path, checkpoints: Checkpoints) -> Iterator[None]:
    """Where training ends because it does not get ahead, says from where and how to go on."""
    try:
        yield
    except TooManySkipped as error:
        name, step = directory.name, checkpoints.latest_step
        good, start = 'there is no checkpoint yet', 'start anew in another --workdir'
        if step is not None:
            good = f'the last good checkpoint is of step {step}, {checkpoints.directory / str(step)}'
            start = (
                f'start from it in another --workdir, by --stage={STAGES[name]} '
                f'--config.pretrained.{name}={directory}'
            )
        raise UserError(
            f'{directory}: {error}; {good}; {start}, with a smaller learning_rate, clip_norm or float32'
        ) from error


def training_data(experiment: Experiment, name: str, source: Source, place: Callable[[Any], Any]) -> Any:
    """This host's part of the batches that the network of this name is trained on.

    Threads load the next batches and `place` them while the devices compute.
    """
    config: TrainConfig = getattr(experiment, STAGES[name])
    names = class_names(source)
    classes = f'{len(names)} classes: {listed(names)}' if names else 'no labels'
    skipped = f'; {source.skipped}' if source.skipped else ''
    logger.info('data: %s training images, %s%s', f'{len(source):,}', classes, skipped)
    times = config.batch_size / len(source)
    if times > 1:
        logger.info(
            'config.%s.batch_size is %d, larger than the data set: each image is used %s times in a batch',
            STAGES[name],
            config.batch_size,
            f'{times:.0f}' if times.is_integer() else f'about {times:.3g}',
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
    """The state to resume from, and the progress of its run, if any."""
    if checkpoints.latest_step is not None:
        state, progress = checkpoints.restore(abstract)
        logger.info('%s: resuming from step %d', checkpoints.directory.parent.name, int(state.step))
        return state, progress
    key, params = jax.random.key(run.experiment.seed), None
    if training.pretrained:
        classes = class_names(run.source('train'))
        init_key, _ = jax.random.split(key)
        params = load_start(Path(training.pretrained), training.network, classes, init_key, run.mesh)
    return first_state(training.objective, training.network, training.config, abstract, key, params), {}


def _stamp(run: Run, training: Training) -> dict[str, Any]:
    """What the trained parameters depend on. Where the images lie is no part of it, which they are is."""
    network, experiment = training.network, run.experiment
    train = dataclasses.asdict(training.config)
    data = dataclasses.asdict(experiment.data)
    outside = (*HOW_IMAGES_ARE_READ, *WHERE_IMAGES_LIE)
    # What a description leaves out, or names only where it is set.
    names = [name for name in ('dropout', 'dtype', 'label_dropout') if hasattr(network, name)]
    not_described = {name: getattr(network, name) for name in names}
    return {
        'network': describe_network(network) | not_described,
        'diffusion': training.process,
        'data': {key: value for key, value in data.items() if key not in outside},
        'images': describe(run.source('train')),
        'train': {key: value for key, value in train.items() if key not in OUTSIDE_THE_RESULT},
        'pretrained': start_stamp(training.pretrained),
        'seed': experiment.seed,
    }


def _check_stamp(run: Run, training: Training) -> None:
    """UserError where the folder holds a training with other settings or on other images."""
    directory, stamp = training.directory, _stamp(run, training)
    before = read_stamp(directory) or stamp
    if 'images' not in before:  # of an older version, which knew images by their place
        data = dataclasses.asdict(run.experiment.data)
        stamp['data'] |= {key: data[key] for key in WHERE_IMAGES_LIE if key in before['data']}
        logger.info('%s: does not say which images it was begun with; the present ones are used', directory)
    stored = before.get('images', stamp['images'])
    another = (
        f'to train on from its parameters: --workdir=ANOTHER --stage={STAGES[directory.name]} '
        f'--config.pretrained.{directory.name}={directory}'
    )
    images = f'the training images of {directory}'
    try:
        check_same_classes('config.data', stamp['images']['classes'], images, stored['classes'])
    except UserError as error:
        raise UserError(f'{error}; restore the names, or, {another}') from error
    if stored != stamp['images']:
        had, now = (f'{images["count"]:,}' for images in (stored, stamp['images']))
        raise UserError(
            f'config.data: its {now} training images are not the {had} of the training in {directory} (files '
            f'were added, removed or renamed); restore them, or, {another}'
        )
    check_stamp(directory, stamp, f'restore them; or, {another}')
