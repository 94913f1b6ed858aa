"""Stage `sample`: images from the trained networks, in shards, as one file on request, and as a picture."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.classes import listed
from diffusion_jax.data.image_sets.samples import open_samples
from diffusion_jax.errors import UserError
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.generator import Generator
from diffusion_jax.generation.grid import image_grid, save_png
from diffusion_jax.generation.images import count_pngs, write_pngs
from diffusion_jax.generation.requests import check_null_class
from diffusion_jax.generation.shards import Draw, draw_samples, join
from diffusion_jax.hosts import any_process, raise_together
from diffusion_jax.interruption import interruptible
from diffusion_jax.report import Progress
from diffusion_jax.sharding import check_batch_size
from diffusion_jax.shards import SHARDS, gaps
from diffusion_jax.stages import stamps
from diffusion_jax.stages.conditioning import (
    Conditioning,
    content_digest,
    load_labels,
    make_conditioning,
    open_base,
)
from diffusion_jax.stages.networks import (
    check_classes,
    check_network,
    load_network,
    network_path,
    network_stamp,
)
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.stamps import Results, check_stamp, settings_of
from diffusion_jax.stored_networks import CLASSIFIER, DIFFUSION, TRAINED_BY, describe_stored, stored_classes
from diffusion_jax.training.step import TrainState
from diffusion_jax.workdir import write_stamp

logger = logging.getLogger(__name__)

SAMPLES_FILE, GRID_FILE, PNG_FOLDER = 'samples.npz', 'grid.png', 'png'
UNGUIDED = 'unguided'
MAX_ROWS = 20  # of a picture
OUTSIDE_THE_RESULT = (
    'name',
    'recipe',
    'batch_size',
    'base_samples',
    'npz',
    'png',
    'unguided',
    'grid_columns',
)


def check(run: Run) -> None:
    """Raises UserError if the devices, the networks or the conditioning do not fit the config."""
    config = run.experiment.sample
    check_batch_size(run.mesh, config.batch_size, 'sample.batch_size')
    for name in _networks(config):
        check_network(run, name)
    if 'null' in config.as_recipe().needs and TRAINED_BY[DIFFUSION] not in run.stages:
        path = network_path(run, DIFFUSION)
        try:
            check_null_class(describe_stored(path).network)
        except UserError as error:
            raise UserError(f'{path}: {error}') from error
    check_classes(run)
    if run.experiment.unet.low_res:
        open_base(run)
    elif config.labels_from_file:
        load_labels(run)


def locate(run: Run) -> Results:
    """The folder of the samples: samples/<name>, or samples/ and folders in it; see `stamps.locate`.

    Their stamp has the networks' parameters, the process, the sampler's settings and the files they name.
    """
    experiment, config = run.experiment, run.experiment.sample
    stamp = {
        'sample': settings_of(config, OUTSIDE_THE_RESULT),
        'process': settings_of(experiment.diffusion, ('loss',)),
    } | {name: network_stamp(run, name) for name in _networks(config)}
    if experiment.unet.low_res:
        stamp['base_samples'] = content_digest(config.base_samples)
    elif config.labels_from_file:
        stamp['labels'] = content_digest(config.labels)
    if classes := sample_classes(run):
        stamp['classes'] = list(classes)
    base = run.workdir / 'samples'
    if not config.name:
        return stamps.locate(base, 'sample', stamp)
    check_stamp(base / config.name, stamp)
    return Results(base / config.name, stamp)


def sample_classes(run: Run) -> tuple[str, ...]:
    """The names of the classes of the samples, by label; () if they are unknown."""
    known = [stored_classes(network_path(run, name)) for name in _networks(run.experiment.sample)]
    return next(filter(None, known), ())


def complete(run: Run, results: Results) -> bool:
    """Whether all samples and the files made of them exist."""
    config = run.experiment.sample
    return all(
        is_complete(folder, config.num_samples)
        and (folder / GRID_FILE).exists()
        and (not config.npz or (folder / SAMPLES_FILE).exists())
        and (not config.png or count_pngs(folder / PNG_FOLDER) == config.num_samples)
        for folder in [results.directory, results.directory / UNGUIDED][: 1 + config.with_unguided]
    )


def is_complete(directory: Path, num_samples: int) -> bool:
    """Whether all samples exist."""
    return not gaps(directory / SHARDS, num_samples, num_samples)


def main(run: Run, results: Results) -> None:
    config, (directory, stamp) = run.experiment.sample, results
    if config.recipe:
        settings = f'{config.sampler}, {config.respacing or "all timesteps"}, scale {config.scale:g}'
        logger.info('recipe %s: %s', config.recipe, settings)
    if config.classes and (names := stamp.get('classes')):
        logger.info('classes: %s', listed([f'{names[label]} ({label})' for label in config.classes]))
    generator = make_generator(run, {name: load_network(run, name) for name in _networks(config)})
    # The same samples without guidance.
    sample = stamp['sample'] | {'scale': 0.0, 'guidance': SampleConfig.guidance}
    unguided = {name: part for name, part in stamp.items() if name != CLASSIFIER} | {'sample': sample}
    if jax.process_index() == 0:
        write_stamp(directory, stamp)
        if config.with_unguided:
            write_stamp(directory / UNGUIDED, unguided)
    if config.with_unguided:
        _draw(run, directory / UNGUIDED, generator.unguided())
    _draw(run, directory, generator)


def make_generator(run: Run, params: dict[str, Any]) -> Generator:
    """The networks of the experiment, with guidance if the classifier's parameters are given."""
    experiment, recipe = run.experiment, run.experiment.sample.as_recipe()
    guided = CLASSIFIER in params
    return Generator(
        unet=experiment.unet,
        diffusion=experiment.diffusion,
        params=params,
        mesh=run.mesh,
        classifier=experiment.classifier if guided else None,
        recipes=(('run', recipe if guided else recipe.without_classifier()),),
    )


def make_draw(
    run: Run, generator: Generator, conditioning: Conditioning, progress: Progress | None = None
) -> Draw:
    """Returns a function from consecutive sample indices [B] to (images uint8 [B, H, W, C], labels [B]).

    progress: shows the steps within the batch.
    """

    def draw(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, low_res = conditioning(index)
        within = progress is not None and (lambda step, steps: progress.within(step, steps, len(index)))
        seed, first = run.experiment.sample.seed, int(index[0])
        with run.fits('sampling', 'sample.batch_size'):
            samples = generator.sample(
                len(index), y, first=first, seed=seed, low_res=low_res, progress=within
            )
        return samples.images, y

    return draw


def draw_while_training(
    run: Run, state: TrainState, conditioning: Conditioning, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unguided samples and their labels, from the average that sampling will use."""
    params = state.ema.get(str(run.experiment.sample.ema_rate), state.params)
    draw = make_draw(run, make_generator(run, {DIFFUSION: params}).unguided(), conditioning)
    return interruptible(functools.partial(draw, index))


def _networks(config: SampleConfig) -> list[str]:
    return [DIFFUSION, CLASSIFIER] if config.guided else [DIFFUSION]


def _draw(run: Run, directory: Path, generator: Generator) -> None:
    """Draws the missing samples of a folder, and makes the files of all of them."""
    config, num_samples = run.experiment.sample, run.experiment.sample.num_samples
    # Hosts agree before one of them changes what the others see.
    if any_process(not is_complete(directory, num_samples)):
        guidance = f'scale {config.scale:g}' if config.guidance == 'classifier' else config.guidance
        title = f'samples, {guidance if generator.recipes[0][1].guidance else UNGUIDED}'
        progress = Progress(title, num_samples)
        draw = make_draw(run, generator, make_conditioning(run), progress)
        draw_samples(
            directory,
            title,
            draw,
            num_samples,
            run.batch_size('sample', num_samples),
            run.stop,
            progress=progress,
            host=jax.process_index(),
            num_hosts=jax.process_count(),
        )
    with raise_together():
        if jax.process_index() == 0:
            known = generator.classifier is not None or run.experiment.unet.num_classes is not None
            _finish(run, directory, sample_classes(run) if known else None)


def _finish(run: Run, directory: Path, names: Sequence[str] | None) -> None:
    """Writes the files made of all shards; for names see `picture`."""
    config, samples = run.experiment.sample, open_samples(directory)
    if config.npz and not (directory / SAMPLES_FILE).exists():
        join(directory, directory / SAMPLES_FILE)
    save_png(directory / GRID_FILE, picture(samples.take, samples.labels, config.grid_columns, names))
    if config.png:
        write_pngs(samples, directory / PNG_FOLDER, run.stop, labelled=names is not None)
    pngs = directory / PNG_FOLDER if config.png else f'diffusion-jax images {directory} --out DIR'
    logger.info('%s: %d images, the first in %s', directory, len(samples.labels), GRID_FILE)
    logger.info('  arrays: %s/*.npz (arr_0: uint8 images, arr_1: labels)', directory / SHARDS)
    logger.info('  PNG files: %s', pngs)


def picture(
    take: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, columns: int, names: Sequence[str] | None
) -> np.ndarray:
    """A grid with a row for each of the first classes, or simply of the first images if rows would be short.

    Args:
        take: indices → these images.
        names: of the classes by label, () if they are unknown; None if the images belong to no class, and the
            rows only correspond to those of guided samples.
    """
    classes = np.unique(labels)[:MAX_ROWS]
    per_class = min(columns, *(np.sum(labels == label) for label in classes))
    if len(classes) == 1 or per_class == 1:
        first = np.arange(min(columns * columns, len(labels)))
        return image_grid(take(first), min(columns, len(first)))
    chosen = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in classes])
    row_labels = None if names is None else [names[label] if names else str(label) for label in classes]
    return image_grid(take(chosen), per_class, row_labels=row_labels)
