"""Stage `sample`: images from the trained networks, in shards, as one file on request, and as a picture."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.classes import listed
from diffusion_jax.data.image_sets.samples import open_samples
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.generator import Generator
from diffusion_jax.generation.grid import image_grid, save_png
from diffusion_jax.generation.images import count_pngs, write_pngs
from diffusion_jax.generation.shards import Draw, draw_samples, join
from diffusion_jax.hosts import any_process, raise_together
from diffusion_jax.report import Progress
from diffusion_jax.sharding import local_mesh
from diffusion_jax.shards import SHARDS, gaps
from diffusion_jax.stages import limits
from diffusion_jax.stages.networks import load_network, network_path, network_stamp
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample_inputs import Inputs, content_digest, sample_inputs
from diffusion_jax.stages.stamps import check_stamp, results_directory
from diffusion_jax.stored_networks import CLASSIFIER, DIFFUSION, stored_classes
from diffusion_jax.workdir import write_stamp

logger = logging.getLogger(__name__)

SAMPLES_FILE, GRID_FILE, PNG_FOLDER = 'samples.npz', 'grid.png', 'png'
UNGUIDED = 'unguided'
MAX_ROWS = 20  # of a picture
_OUTSIDE_THE_RESULT = (
    'name',
    'recipe',
    'batch_size',
    'base_samples',
    'npz',
    'png',
    'unguided',
    'grid_columns',
)


def main(run: Run) -> None:
    run = run.on(local_mesh(run.mesh))
    config = run.experiment.sample
    stamp = sample_stamp(run)
    directory = samples_directory(run.workdir, config.name, stamp)
    check_stamp(directory, stamp)
    names = sample_classes(run)
    if config.recipe:
        settings = f'{config.sampler}, {config.respacing or "all timesteps"}, scale {config.scale:g}'
        logger.info('recipe %s: %s', config.recipe, settings)
    if config.classes and names:
        logger.info('classes: %s', listed([f'{names[label]} ({label})' for label in config.classes]))
    params = {name: load_network(run, name) for name in _networks(config)}
    if jax.process_index() == 0:
        write_stamp(directory, stamp)
        if config.with_unguided:
            write_stamp(directory / UNGUIDED, _unguided_stamp(stamp))
    generator = make_generator(run, params)
    if config.with_unguided:
        _draw(run, directory / UNGUIDED, generator.unguided())
    _draw(run, directory, generator)


def complete(run: Run) -> bool:
    stamp = sample_stamp(run)
    directory = samples_directory(run.workdir, run.experiment.sample.name, stamp)
    check_stamp(directory, stamp)
    folders = [directory] + [directory / UNGUIDED] * run.experiment.sample.with_unguided
    config = run.experiment.sample
    return all(
        is_complete(folder, config.num_samples)
        and (folder / GRID_FILE).exists()
        and (not config.npz or (folder / SAMPLES_FILE).exists())
        and (not config.png or count_pngs(folder / PNG_FOLDER) == config.num_samples)
        for folder in folders
    )


def sample_stamp(run: Run) -> dict[str, Any]:
    """What the samples depend on: the networks' parameters, the process, the sampler's settings and the files
    that they name."""
    experiment = run.experiment
    sample = dataclasses.asdict(experiment.sample)
    process = dataclasses.asdict(experiment.diffusion)
    stamp = {
        'sample': {name: value for name, value in sample.items() if name not in _OUTSIDE_THE_RESULT},
        'process': {name: value for name, value in process.items() if name != 'loss'},
    } | {name: network_stamp(run, name) for name in _networks(experiment.sample)}
    if experiment.unet.low_res:
        stamp['base_samples'] = content_digest(experiment.sample.base_samples)
    elif experiment.sample.labels_from_file:
        stamp['labels'] = content_digest(experiment.sample.labels)
    classes = sample_classes(run)
    return stamp | ({'classes': list(classes)} if classes else {})


def sample_classes(run: Run) -> tuple[str, ...]:
    """The names of the classes of the samples, by label; () where they are not known."""
    known = [stored_classes(network_path(run, name)) for name in _networks(run.experiment.sample)]
    return next(filter(None, known), ())


def _unguided_stamp(stamp: dict[str, Any]) -> dict[str, Any]:
    """That of the same samples without guidance."""
    without = {name: part for name, part in stamp.items() if name != CLASSIFIER}
    return without | {'sample': stamp['sample'] | {'scale': 0.0, 'guidance': SampleConfig.guidance}}


def _networks(config: SampleConfig) -> list[str]:
    return [DIFFUSION, CLASSIFIER] if config.guided else [DIFFUSION]


def samples_directory(workdir: Path, name: str, stamp: dict[str, Any]) -> Path:
    """samples/<name>; without a name samples/, or a folder in it; see `results_directory`."""
    base = workdir / 'samples'
    return base / name if name else results_directory(base, 'sample', stamp)


def make_generator(run: Run, params: dict[str, Any]) -> Generator:
    """The networks of the experiment; guided where the classifier's parameters are given.

    params: as training and `load_network` have them on the run's mesh.
    """
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


def make_draw(run: Run, generator: Generator, inputs: Inputs, progress: Progress | None = None) -> Draw:
    """Sample indices [B], one after the other → (images uint8 [B, H, W, C], labels [B]).

    progress: shows the steps within the batch.
    """
    config = run.experiment.sample

    def draw(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, low_res = inputs(index)
        within = progress is not None and (lambda step, steps: progress.within(step, steps, len(index)))
        with limits.sampling(run.experiment):
            samples = generator.sample(
                len(index), y, first=int(index[0]), seed=config.seed, low_res=low_res, progress=within
            )
        return samples.images, y

    return draw


def _draw(run: Run, directory: Path, generator: Generator) -> None:
    config = run.experiment.sample
    guided = generator.classifier is not None
    # Agreed before any of them changes what the others look at.
    if any_process(not is_complete(directory, config.num_samples)):
        title = f'samples, {_guidance(config) if generator.recipes[0][1].guidance else UNGUIDED}'
        batch_size = min(config.batch_size, -(-config.num_samples // run.mesh.size) * run.mesh.size)
        hosts = {'host': jax.process_index(), 'num_hosts': jax.process_count()}
        progress = Progress(title, config.num_samples)
        draw = make_draw(run, generator, sample_inputs(run), progress)
        with limits.sampling(run.experiment):
            draw_samples(
                directory, title, draw, config.num_samples, batch_size, run.stop, progress=progress, **hosts
            )
    with raise_together():
        if jax.process_index() == 0:
            _finish(run, directory, named=guided or run.experiment.unet.num_classes is not None)


def _guidance(config: SampleConfig) -> str:
    return f'scale {config.scale:g}' if config.guidance == 'classifier' else config.guidance


def _finish(run: Run, directory: Path, *, named: bool) -> None:
    """Writes what is made of all shards together. named: whether the images are of their labels' classes."""
    config, samples = run.experiment.sample, open_samples(directory)
    if config.npz and not (directory / SAMPLES_FILE).exists():
        join(directory, directory / SAMPLES_FILE)
    names = sample_classes(run) if named else None
    save_png(directory / GRID_FILE, picture(samples.take, samples.labels, config.grid_columns, names))
    if config.png:
        write_pngs(samples, directory / PNG_FOLDER, run.stop, labelled=named)
    pngs = directory / PNG_FOLDER if config.png else f'diffusion-jax images {directory} --out DIR'
    logger.info('%s: %d images; look at %s', directory, len(samples.labels), GRID_FILE)
    logger.info('  arrays: %s/*.npz (arr_0: uint8 images, arr_1: labels)', directory / SHARDS)
    logger.info('  PNG files: %s', pngs)


def is_complete(directory: Path, num_samples: int) -> bool:
    """Whether all samples are there."""
    return not gaps(directory / SHARDS, num_samples, num_samples)


def picture(
    take: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, columns: int, names: Sequence[str] | None
) -> np.ndarray:
    """The first images of the first classes, one class a row; just the first images where that makes no rows.

    Args:
        take: indices → these images.
        names: of the classes by label, () where they are not known; None where the images are of no class,
            and the rows only correspond to those of guided samples.
    """
    classes = np.unique(labels)[:MAX_ROWS]
    per_class = min(columns, *(np.sum(labels == label) for label in classes))
    if len(classes) == 1 or per_class == 1:
        first = np.arange(min(columns * columns, len(labels)))
        return image_grid(take(first), min(columns, len(first)))
    chosen = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in classes])
    row_labels = None if names is None else [names[label] if names else str(label) for label in classes]
    return image_grid(take(chosen), per_class, row_labels=row_labels)
