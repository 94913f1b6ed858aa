"""Stage `sample`: images from the trained networks, in samples.npz and as a picture."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.generate import make_labels
from diffusion_jax.generation.generator import Generator
from diffusion_jax.generation.grid import image_grid, save_png
from diffusion_jax.generation.shards import Draw, draw_samples, load_samples, load_samples_of
from diffusion_jax.report import Progress
from diffusion_jax.stages.networks import CLASSIFIER, DIFFUSION, load_network, network_stamp
from diffusion_jax.stages.run import Run
from diffusion_jax.workdir import check_stamp, read_stamp, stamp_difference, write_stamp

logger = logging.getLogger(__name__)

# Sample indices [B] → their classes [B], and the images that an upsampler enlarges.
Inputs = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]

SAMPLES_FILE = 'samples.npz'
UNGUIDED = 'unguided'
MAX_ROWS = 20  # of a picture
_OUTSIDE_THE_RESULT = ('name', 'batch_size', 'base_samples', 'unguided', 'grid_columns')


def main(run: Run) -> None:
    config = run.experiment.sample
    stamp = sample_stamp(run)
    directory = samples_directory(run.workdir, config.name, stamp)
    check_stamp(directory, stamp)
    params = {name: load_network(run, name) for name in _networks(config)}
    write_stamp(directory, stamp)
    generator = make_generator(run, params)
    if config.with_unguided:
        _draw(run, directory / UNGUIDED, generator.unguided())
    _draw(run, directory, generator)


def complete(run: Run) -> bool:
    stamp = sample_stamp(run)
    directory = samples_directory(run.workdir, run.experiment.sample.name, stamp)
    check_stamp(directory, stamp)
    folders = [directory] + [directory / UNGUIDED] * run.experiment.sample.with_unguided
    return all((folder / SAMPLES_FILE).exists() for folder in folders)


def sample_stamp(run: Run) -> dict[str, Any]:
    """What the samples rest on: the networks' parameters, the process and the sampler's settings; of an
    upsampler also the samples that it enlarges."""
    experiment = run.experiment
    sample = dataclasses.asdict(experiment.sample)
    process = dataclasses.asdict(experiment.diffusion)
    stamp = {
        'sample': {name: value for name, value in sample.items() if name not in _OUTSIDE_THE_RESULT},
        'process': {name: value for name, value in process.items() if name != 'loss'},
    } | {name: network_stamp(run, name) for name in _networks(experiment.sample)}
    if experiment.unet.low_res:
        with open(experiment.sample.base_samples, 'rb') as file:
            stamp['base_samples'] = hashlib.file_digest(file, 'sha256').hexdigest()[:16]
    return stamp


def _networks(config: SampleConfig) -> list[str]:
    return [DIFFUSION, CLASSIFIER] if config.guided else [DIFFUSION]


def samples_directory(workdir: Path, name: str, stamp: dict[str, Any]) -> Path:
    """samples/<name>; without a name, samples/ for the first sampling of a workdir and, for any other one,
    a folder in it that is named after what differs from the first, such as samples/scale=2.0."""
    base = workdir / 'samples'
    first = read_stamp(base)
    if name or first is None:
        return base / name
    difference = stamp_difference(first, stamp)
    settings = {key: new for key, (_, new) in difference.items() if key.startswith('sample.')}
    settings = settings or {key: new for key, (_, new) in difference.items()}
    text = ','.join(f'{key.removeprefix("sample.")}={value}' for key, value in settings.items())
    text = re.sub(r'[^\w=.,-]+', '-', text.replace('[', '').replace(']', '').replace(', ', '+'))
    return base / (text if len(text) <= 80 else f'{text[:70]}-{zlib.crc32(text.encode()):08x}')


def make_generator(run: Run, params: dict[str, Any]) -> Generator:
    """The networks of the experiment; guided where the classifier's parameters are given."""
    experiment = run.experiment
    return Generator(
        unet=experiment.unet,
        diffusion=experiment.diffusion,
        params=params,
        mesh=run.mesh,
        classifier=experiment.classifier if CLASSIFIER in params else None,
    )


def sample_inputs(run: Run) -> Inputs:
    """The classes that the config asks for; of an upsampler, the base samples and theirs."""
    config, data = run.experiment.sample, run.experiment.data
    if not run.experiment.unet.low_res:
        return lambda index: (np.asarray(make_labels(config, data.num_classes, index)), None)
    images, labels = load_base(run)
    if len(images) < config.num_samples:
        logger.info('%d base samples for %d images: they are used again', len(images), config.num_samples)
    return lambda index: (labels[index % len(images)], images[index % len(images)])


def load_base(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the samples that an upsampler enlarges. UserError where they do not fit."""
    experiment = run.experiment
    data, path = experiment.data, experiment.sample.base_samples
    if not path:
        raise UserError(
            'config.sample.base_samples is not set; an upsampler needs the samples that it enlarges, such as '
            'runs/imagenet64/samples/samples.npz'
        )
    return load_samples_of(path, (*data.low_res_size, data.image_channels), experiment.unet.num_classes)


def make_draw(run: Run, generator: Generator, inputs: Inputs) -> Draw:
    """Sample indices [B], one after the other → (images uint8 [B, H, W, C], labels [B])."""
    config = run.experiment.sample

    def draw(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, low_res = inputs(index)
        images = generator.sample(
            len(index),
            y,
            first=int(index[0]),
            seed=config.seed,
            sampler=config.sampler,
            respacing=config.respacing,
            scale=config.scale if generator.classifier else None,
            eta=config.eta,
            clip=config.clip,
            low_res=low_res,
        )
        return images, y

    return draw


def _draw(run: Run, directory: Path, generator: Generator) -> None:
    config = run.experiment.sample
    guided = generator.classifier is not None
    if not (directory / SAMPLES_FILE).exists():
        title = f'samples, scale {config.scale:g}' if guided else 'samples, unguided'
        batch_size = min(config.batch_size, -(-config.num_samples // run.mesh.size) * run.mesh.size)
        with Progress(title, config.num_samples) as progress:
            draw = make_draw(run, generator, sample_inputs(run))
            draw_samples(directory, draw, config.num_samples, batch_size, progress, run.stop)
    images, labels = load_samples(directory / SAMPLES_FILE)
    named = guided or run.experiment.unet.num_classes is not None
    save_png(directory / 'grid.png', picture(images, labels, config.grid_columns, named=named))
    logger.info('%s: %d images; look at grid.png', directory, len(images))


def picture(images: np.ndarray, labels: np.ndarray, columns: int, *, named: bool) -> np.ndarray:
    """The first images of the first classes, one class a row; just the first images where that makes no rows.

    Args:
        named: whether the images are of these classes; if not, the rows only follow those of guided samples.
    """
    classes = np.unique(labels)[:MAX_ROWS]
    per_class = min(columns, *(np.sum(labels == label) for label in classes))
    if len(classes) == 1 or per_class == 1:
        return image_grid(images[: columns * columns], min(columns, len(images)))
    chosen = [index for label in classes for index in np.flatnonzero(labels == label)[:per_class]]
    return image_grid(
        images[chosen], per_class, row_labels=[str(label) for label in classes] if named else None
    )
