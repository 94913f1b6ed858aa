"""Trains one network in its own folder, or resumes where an earlier run stopped."""

import contextlib
import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from diffusion_jax.data.classes import check_same_classes, listed
from diffusion_jax.data.config import LOCATION_SETTINGS, READING_SETTINGS
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources import class_names, describe, resolve
from diffusion_jax.data.sources.wrappers import cached, skipping
from diffusion_jax.data.transforms import make_transform
from diffusion_jax.errors import UserError
from diffusion_jax.hosts import raise_together, synced_flag
from diffusion_jax.models import ClassifierConfig, UNetConfig, describe_network
from diffusion_jax.models.description import NEWER
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
from diffusion_jax.training.loop import Hook
from diffusion_jax.training.metrics import Sums, TooManySkipped
from diffusion_jax.training.objectives import Objective
from diffusion_jax.training.program import first_state, step_cost, train_program
from diffusion_jax.training.saving import Checkpoints
from diffusion_jax.training.step import TrainState
from diffusion_jax.training.timing import Profiler, Timer
from diffusion_jax.workdir import read_stamp, write_stamp

logger = logging.getLogger(__name__)

SECTIONS = {DIFFUSION: 'unet', CLASSIFIER: 'classifier'}  # of the config, that describe the networks


class Training(NamedTuple):
    """What is trained, and where: in a folder named after the network. The stamp is what it depends on."""

    directory: Path
    network: UNetConfig | ClassifierConfig
    objective: Objective
    config: TrainConfig
    stamp: dict[str, Any]


def locate(run: Run, name: str, objective: Objective, process: dict[str, Any]) -> Training:
    """The training of the network of this name, for which these settings of the process matter."""
    experiment, network = run.experiment, run.experiment.networks[name]
    config = getattr(experiment, TRAINED_BY[name])
    # What a description leaves out, or includes only if it is set.
    not_described = [key for key in ('dropout', 'dtype', *NEWER) if hasattr(network, key)]
    stamp = {
        'network': describe_network(network) | {key: getattr(network, key) for key in not_described},
        'diffusion': process,
        'data': settings_of(resolve(experiment.data), (*READING_SETTINGS, *LOCATION_SETTINGS)),
        'images': describe(run.source('train')),
        'train': settings_of(config, OUTSIDE_THE_RESULT),
        'pretrained': start_stamp(getattr(experiment.pretrained, name)),
        'seed': experiment.seed,
    }
    return Training(run.workdir / name, network, objective, config, stamp)


def check(run: Run, name: str) -> None:
    """Raises UserError if the devices, the images or the network to start from do not fit the training."""
    experiment, stage = run.experiment, TRAINED_BY[name]
    config, start = getattr(experiment, stage), getattr(experiment.pretrained, name)
    key = f'{stage}.batch_size' + (f' / {stage}.microbatches' if config.microbatches > 1 else '')
    check_batch_size(run.mesh, config.batch_size // config.microbatches, key)
    if start:
        check_start(Path(start), experiment.networks[name], experiment.diffusion)
    check_classes(run)
    if config.random_crop and (size := run.source('train').cropped):
        problem = 'got True, but the prepared images were cropped to {}×{}'.format(*size)
        remedy = 'prepare them with --size=full, or set it to False'
        raise UserError(f'config.{stage}.random_crop', problem, remedy)
    _check_batch_fits(run, stage, config.batch_size // jax.process_count())
    run.check_images('train')


def _check_batch_fits(run: Run, stage: str, num_images: int) -> None:
    """Raises UserError if the host cannot hold its part of a batch, as uint8 and as float32."""
    data, available = run.experiment.data, os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    needed = 5 * num_images * math.prod((*data.image_size, data.image_channels))
    if needed > available:
        problem = f'its images need {needed / 1e9:,.0f} GB of the {available / 1e9:,.0f} GB of memory'
        raise UserError(f'config.{stage}.batch_size', problem, 'lower it')


def complete(run: Run, training: Training) -> bool:
    """Whether the last step is saved, and logged, which follows its hooks. Its readers check the checkpoint.

    Raises UserError if the folder holds a training with other settings or on other images.
    """
    directory, name, now = training.directory, training.directory.name, training.stamp
    other = f'train in another --workdir from its parameters: --stage={TRAINED_BY[name]} '
    other += f'--config.pretrained.{name}={directory}'
    images = (read_stamp(directory) or now).get('images', now['images'])
    try:
        check_same_classes('config.data', now['images']['classes'], str(directory), images['classes'])
    except UserError as error:
        raise UserError(error.where, error.problem, f'restore the names, or {other}') from error
    if images != now['images']:
        problem = f'its {now["images"]["count"]:,} images are not the {images["count"]:,} of {directory}'
        remedy = f'restore the files that were added, removed or renamed, or {other}'
        raise UserError('config.data', problem, remedy)
    check_stamp(directory, now, f'restore them, or {other}')
    step, num_steps = latest_step(directory / CHECKPOINTS), training.config.num_steps
    if step is None or not (directory / CHECKPOINTS / str(step) / 'digests').is_dir():
        return False
    return num_steps <= min(step, last_logged_step(directory))


def fit(run: Run, training: Training, make_hooks: Callable[[MetricsWriter], Sequence[Hook]]) -> None:
    """Trains to the last step, with checkpoints and logs in the training's folder."""
    directory, network, config = training.directory, training.network, training.config
    folder = Checkpoints(directory / CHECKPOINTS, keep=config.keep_checkpoints)
    with training_fits(run, directory.name), folder as checkpoints:
        data = training_data(run, directory.name, functools.partial(put_batch, run.mesh))
        program = train_program(training.objective, network, config, run.mesh)
        cost, least_s = step_cost(program, run.mesh)
        logger.info('%s: %s', directory.name, cost)
        with initialization_fits(run, directory.name):
            state, progress = _start(run, checkpoints, training, program.arguments[0])
        if progress:
            data.set_state(progress['data'])
        step, sums = int(jax.device_get(state.step)), progress.get('metrics', {})
        with raise_together():
            if jax.process_index() == 0:
                write_stamp(directory, training.stamp)
            writer = MetricsWriter(directory, resume_step=step - 1 if sums else step)

        def save(state: TrainState, sums: Sums) -> None:
            writer.flush()  # a run that resumes from here does not write these lines again
            progress = {'data': data.get_state(), 'metrics': sums}
            checkpoints.save(state, progress, describe_network(network))

        with writer, explain_divergence(directory, checkpoints):
            calls = loop.Calls(
                save=save,
                poll=checkpoints.poll,
                stop=synced_flag(run.stop),
                hooks=make_hooks(writer),
                writer=writer,
                timer=Timer(config.batch_size, least_s),
                profiler=Profiler(config.profile, directory / 'profile'),
            )
            loop.run(state, program.jitted, data, config, calls, name=directory.name, sums=sums)


def training_data(run: Run, name: str, place: Callable[[Any], Any]) -> Any:
    """This host's part of the batches on which the network of this name is trained.

    Threads load the next batches and `place` them while the devices compute.
    """
    source, data, config = run.source('train'), run.experiment.data, getattr(run.experiment, TRAINED_BY[name])
    names, uses = class_names(source), config.batch_size / len(source)
    facts = [f'{len(names)} classes: {listed(names)}' if names else 'no labels', source.skipped]
    if uses > 1:
        facts.append(f'config.{TRAINED_BY[name]}.batch_size uses each {uses:.3g} times in a batch')
    logger.info('data: %s training images, %s', f'{len(source):,}', '; '.join(filter(None, facts)))
    if not config.random_crop:
        source = cached(source, data)
    return batches(
        skipping(source, data),
        config.batch_size,
        seed=run.experiment.seed,
        transform=make_transform(data, crop_randomly=config.random_crop, flip=config.flip),
        num_workers=max(data.num_workers, 1),  # making a batch takes 2 ms even from memory
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        place=place,
    )


def _start(
    run: Run, checkpoints: Checkpoints, training: Training, abstract: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """The state to start or resume from, and the progress of the run that is resumed."""
    name, experiment = training.directory.name, run.experiment
    if checkpoints.latest_step is not None:
        state, progress = checkpoints.restore(abstract)
        logger.info('%s: resuming from step %d', name, int(state.step))
        return state, progress
    key, params = jax.random.key(experiment.seed), None
    if start := getattr(experiment.pretrained, name):
        classes, init_key = class_names(run.source('train')), jax.random.split(key)[0]
        params = load_start(Path(start), training.network, classes, init_key, run.mesh)
    return first_state(training.objective, training.network, training.config, abstract, key, params), {}


def training_fits(run: Run, name: str) -> contextlib.AbstractContextManager[None]:
    """If training runs out of memory, names the settings to change; see `Run.fits`."""
    stage = TRAINED_BY[name]
    alternatives = f', raise config.{stage}.microbatches or config.mesh.fsdp'
    if not run.experiment.networks[name].remat:
        alternatives += f', or set config.{SECTIONS[name]}.remat=True'
    return run.fits(f'training the {name} model', f'{stage}.batch_size', alternatives)


def initialization_fits(run: Run, name: str) -> contextlib.AbstractContextManager[None]:
    """The same for the state, whose size does not depend on the batch."""
    alternatives = f', or raise config.mesh.fsdp ({run.experiment.mesh.fsdp}) with more devices'
    return run.fits(f'initializing the {name} model', f'{SECTIONS[name]}.model_channels', alternatives)


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
