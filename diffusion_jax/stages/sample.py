"""Stage `sample`: images from the trained networks, in samples.npz and as a picture."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.generate import Request, make_generate, make_labels
from diffusion_jax.generation.grid import image_grid, save_png
from diffusion_jax.generation.shards import Draw, draw_samples, load_samples
from diffusion_jax.report import Progress
from diffusion_jax.sharding import put_batch
from diffusion_jax.stages.networks import CLASSIFIER, DIFFUSION, load_network, network_stamp
from diffusion_jax.stages.run import Run
from diffusion_jax.workdir import check_stamp, read_stamp, stamp_difference, write_stamp

logger = logging.getLogger(__name__)

SAMPLES_FILE = 'samples.npz'
UNGUIDED = 'unguided'
MAX_ROWS = 20  # of a picture
_OUTSIDE_THE_RESULT = ('name', 'batch_size', 'unguided', 'grid_columns')


def main(run: Run) -> None:
    config = run.experiment.sample
    stamp = sample_stamp(run)
    directory = samples_directory(run.workdir, config.name, stamp)
    check_stamp(directory, stamp)
    params = {name: load_network(run, name) for name in _networks(config)}
    write_stamp(directory, stamp)
    if config.with_unguided:
        _draw(run, directory / UNGUIDED, params, guided=False)
    _draw(run, directory, params, guided=config.guided)


def complete(run: Run) -> bool:
    stamp = sample_stamp(run)
    directory = samples_directory(run.workdir, run.experiment.sample.name, stamp)
    check_stamp(directory, stamp)
    folders = [directory] + [directory / UNGUIDED] * run.experiment.sample.with_unguided
    return all((folder / SAMPLES_FILE).exists() for folder in folders)


def sample_stamp(run: Run) -> dict[str, Any]:
    """What the samples rest on: the networks' parameters, the process and the sampler's settings."""
    experiment = run.experiment
    sample = dataclasses.asdict(experiment.sample)
    process = dataclasses.asdict(experiment.diffusion)
    return {
        'sample': {name: value for name, value in sample.items() if name not in _OUTSIDE_THE_RESULT},
        'process': {name: value for name, value in process.items() if name != 'loss'},
    } | {name: network_stamp(run, name) for name in _networks(experiment.sample)}


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


@functools.lru_cache
def compiled_generate(*args: Any) -> Callable[[dict[str, Any], Request], jax.Array]:
    """`make_generate`, jitted; the grids of training and this stage share one compiled program."""
    return jax.jit(make_generate(*args))


def make_draw(run: Run, params: dict[str, Any], *, guided: bool) -> Draw:
    """Sample indices [batch_size] → (images uint8 [batch_size, H, W, C], labels [batch_size])."""
    experiment, config = run.experiment, run.experiment.sample
    classifier = experiment.classifier if guided else None
    generate = compiled_generate(
        experiment.unet, classifier, experiment.diffusion, config.sampler, config.respacing, config.clip
    )

    def draw(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index = put_batch(run.mesh, index.astype(np.int32))
        y = make_labels(config, experiment.data.num_classes, index)
        request = Request(
            jnp.uint32(config.seed), index, y, jnp.float32(config.scale), jnp.float32(config.eta)
        )
        return np.asarray(generate(params, request)), np.asarray(y)

    return draw


def _draw(run: Run, directory: Path, params: dict[str, Any], *, guided: bool) -> None:
    config = run.experiment.sample
    if not (directory / SAMPLES_FILE).exists():
        title = f'samples, scale {config.scale:g}' if guided else 'samples, unguided'
        with Progress(title, config.num_samples) as progress:
            draw = make_draw(run, params, guided=guided)
            draw_samples(directory, draw, config.num_samples, config.batch_size, progress, run.stop)
    images, labels = load_samples(directory / SAMPLES_FILE)
    named = guided or run.experiment.unet.num_classes is not None
    save_png(directory / 'grid.png', picture(images, labels, config.grid_columns, named=named))
    logger.info('%s: %d images; look at grid.png', directory, len(images))


def picture(images: np.ndarray, labels: np.ndarray, columns: int, *, named: bool) -> np.ndarray:
    """The first images of the first classes, one class a row.

    Args:
        named: whether the images are of these classes; if not, the rows only follow those of guided samples.
    """
    classes = np.unique(labels)[:MAX_ROWS]
    columns = min(columns, *(np.sum(labels == label) for label in classes))
    chosen = [index for label in classes for index in np.flatnonzero(labels == label)[:columns]]
    return image_grid(
        images[chosen], columns, row_labels=[str(label) for label in classes] if named else None
    )
