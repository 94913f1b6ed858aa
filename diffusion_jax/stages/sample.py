"""Stage `sample`: images from the trained networks, in shards, as one file on request, and as a picture."""

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.classes import listed
from diffusion_jax.data.image_sets.archive import open_samples
from diffusion_jax.diffusion.samplers import SAMPLERS
from diffusion_jax.errors import UserError
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.generator import Generator
from diffusion_jax.generation.grid import class_grid, save_png
from diffusion_jax.generation.guides import check_network
from diffusion_jax.generation.images import count_pngs, write_pngs
from diffusion_jax.generation.networks import WEAK, Networks
from diffusion_jax.generation.options import text_of
from diffusion_jax.generation.shards import join
from diffusion_jax.hosts import raise_together
from diffusion_jax.interruption import interruptible
from diffusion_jax.sharding import check_batch_size
from diffusion_jax.shards import SHARDS
from diffusion_jax.stages import base, networks, stamps
from diffusion_jax.stages.drawing import draw_missing, is_complete
from diffusion_jax.stages.labels import requested_labels
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.stamps import Results
from diffusion_jax.stored_networks import CLASSIFIER, DIFFUSION, TRAINED_BY, describe_stored, stored_classes
from diffusion_jax.training.step import TrainState
from diffusion_jax.workdir import write_stamp

logger = logging.getLogger(__name__)

SAMPLES_FILE, GRID_FILE, PNG_FOLDER = 'samples.npz', 'grid.png', 'png'
UNGUIDED = 'unguided'
# Settings that do not change the samples.
FILES = ('name', 'recipe', 'batch_size', 'weak', 'base_samples', 'npz', 'png', 'unguided', 'grid_columns')

# Sample indices [B] → labels [B], and for an upsampler the images that it enlarges, uint8 [B, h, w, C].
Conditioning = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def check(run: Run) -> None:
    """Raises UserError if the devices, the networks or the conditioning do not fit the config."""
    config = run.experiment.sample
    check_batch_size(run.mesh, config.batch_size, 'sample.batch_size')
    for name in _networks(config):
        networks.check_network(run, name)
    if 'null' in config.as_recipe().needs and TRAINED_BY[DIFFUSION] not in run.stages:
        path = networks.network_path(run, DIFFUSION)
        try:
            unet: Any = describe_stored(path).network
            check_network(unet, config.as_recipe())
        except UserError as error:
            raise UserError(str(path), error.problem, error.remedy) from error
    networks.check_classes(run)
    if run.experiment.unet.low_res:
        base.check(run)
    else:
        make_conditioning(run)
    networks.report_unread_images(run)


def locate(run: Run) -> Results:
    """The samples of the present settings, networks and files; see `stamps.locate`."""
    experiment, config = run.experiment, run.experiment.sample
    average = {'ema_rate': networks.average_of(run, DIFFUSION)}
    stamp: dict[str, Any] = {
        'sample': stamps.settings_of(config, FILES) | average,
        'process': stamps.settings_of(experiment.diffusion, ('loss',)),
    } | {name: networks.network_stamp(run, name) for name in _networks(config)}
    if experiment.unet.low_res:
        stamp['base_samples'] = base.identity(run)
    if config.labels_from_file:
        stamp['labels'] = base.content_digest(config.labels)
    if classes := sample_classes(run):
        stamp['classes'] = list(classes)
    return stamps.locate(run.workdir / 'samples', 'sample', stamp, config.name)


def sample_classes(run: Run) -> tuple[str, ...]:
    """The names of the classes of the samples, by label; () if they are unknown."""
    known = [stored_classes(networks.network_path(run, name)) for name in _networks(run.experiment.sample)]
    return next(filter(None, known), ())


def complete(run: Run, results: Results) -> bool:
    """Whether all samples and the files made of them exist."""
    config, folder = run.experiment.sample, results.directory
    return all(
        is_complete(folder, config.num_samples)
        and (folder / GRID_FILE).exists()
        and (not config.npz or (folder / SAMPLES_FILE).exists())
        and (not config.png or count_pngs(folder / PNG_FOLDER) == config.num_samples)
        for folder in ([folder, folder / UNGUIDED] if config.with_unguided else [folder])
    )


def main(run: Run, results: Results) -> None:
    experiment, (directory, stamp) = run.experiment, results
    config = experiment.sample
    names = stamp.get('classes', ())
    if config.classes and names:
        logger.info('classes: %s', listed([f'{names[label]} ({label})' for label in config.classes]))
    if experiment.unet.low_res and base.is_sampled(run):
        base.draw(run)
    generator = make_generator(run, {name: networks.load_network(run, name) for name in _networks(config)})
    if jax.process_index() == 0:
        write_stamp(directory, stamp)
        if config.with_unguided:
            without = {name: part for name, part in stamp.items() if name not in (CLASSIFIER, WEAK)}
            sample = stamp['sample'] | {'scale': 0.0, 'guidance': SampleConfig.guidance}
            sampler = config.as_recipe().sampler
            if sampler.population > 1:
                sample['sampler'] = text_of(sampler.unguided(), SAMPLERS)
            write_stamp(directory / UNGUIDED, without | {'sample': sample})
    if config.with_unguided:
        _draw_all(run, directory / UNGUIDED, generator.unguided(), names)
    _draw_all(run, directory, generator, names)


def make_conditioning(run: Run) -> Conditioning:
    """The labels that the config requests; for an upsampler the base images and their labels."""
    if run.experiment.unet.low_res:
        images, labels = base.open_base(run)
        return lambda index: (labels[index % len(images)], images.take(index % len(images)))
    requested = requested_labels(run)
    return lambda index: (requested(index), None)


def make_generator(run: Run, params: dict[str, Any]) -> Generator:
    """The networks of the experiment, with guidance if the classifier's parameters are given."""
    experiment, recipe = run.experiment, run.experiment.sample.as_recipe()
    guided, weak = CLASSIFIER in params, None
    if WEAK in params:
        process = describe_stored(networks.network_path(run, WEAK)).diffusion
        weak = Networks(networks.network_of(run, WEAK), process, mesh=run.mesh)
    return Generator(
        unet=experiment.unet,
        diffusion=experiment.diffusion,
        params=params,
        mesh=run.mesh,
        classifier=experiment.classifier if guided else None,
        weak=weak,
        recipes=(('run', recipe if guided else recipe.without_classifier()),),
        low_res_size=experiment.data.low_res_size,
    )


def draw(
    run: Run,
    generator: Generator,
    condition: Conditioning,
    index: np.ndarray,
    progress: Callable[[int, int], None] | bool = False,
    population: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """The samples of consecutive indices, uint8 [B, H, W, C], and their labels [B].

    population: the number of consecutive samples that share a label.
    """
    y, low_res = condition(index // population)
    config = run.experiment.sample
    how: dict[str, Any] = {'first': int(index[0]), 'seed': base.seed(run)}
    if low_res is not None:
        how |= {'low_res': low_res, 'low_res_noise': config.low_res_noise}
    with run.fits('sampling', 'sample.batch_size'):
        return generator.sample(len(index), y, progress=progress, **how).images, y


def draw_while_training(
    run: Run, state: TrainState, condition: Conditioning, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unguided samples from the average that sampling will use, and their labels; see `draw`."""
    params = state.ema.get(str(networks.average_of(run, DIFFUSION)), state.params)
    generator = make_generator(run, {DIFFUSION: params}).unguided()
    return interruptible(functools.partial(draw, run, generator, condition, index))


def _networks(config: SampleConfig) -> list[str]:
    return [DIFFUSION, *([CLASSIFIER] if config.guided else []), *([WEAK] if config.weak else [])]


def _draw_all(run: Run, directory: Path, generator: Generator, names: Sequence[str]) -> None:
    """Draws the missing samples of a folder, and writes the files made of all of them."""
    config = run.experiment.sample
    guidance = f'scale {config.scale:g}' if config.guidance == 'classifier' else config.guidance
    title = f'samples, {guidance if generator.recipes[0][1].guidance else UNGUIDED}'
    particles = config.as_recipe().sampler.population  # unguided samples have the same labels
    batch = functools.partial(draw, run, generator, make_conditioning(run), population=particles)
    draw_missing(run, directory, title, batch, particles)
    with raise_together():
        if jax.process_index() == 0:
            has_classes = generator.classifier is not None or run.experiment.unet.num_classes is not None
            _write_files(run, directory, names if has_classes else None)


def _write_files(run: Run, directory: Path, names: Sequence[str] | None) -> None:
    """Writes the files made of all samples; for names see `class_grid`."""
    config, samples = run.experiment.sample, open_samples(directory)
    assert samples.labels is not None
    if config.npz and not (directory / SAMPLES_FILE).exists():
        join(directory, directory / SAMPLES_FILE)
    save_png(directory / GRID_FILE, class_grid(samples.take, samples.labels, config.grid_columns, names))
    if config.png:
        write_pngs(samples, directory / PNG_FOLDER, run.stop, labelled=names is not None)
    pngs = directory / PNG_FOLDER if config.png else f'diffusion-jax images {directory} --out DIR'
    logger.info('%s: %d images, the first in %s', directory, len(samples), GRID_FILE)
    logger.info('  arrays: %s/*.npz (arr_0: uint8 images, arr_1: labels)', directory / SHARDS)
    logger.info('  PNG files: %s', pngs)
