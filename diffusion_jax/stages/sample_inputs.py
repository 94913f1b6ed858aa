"""What samples are made of beside noise: their classes, and the images that an upsampler enlarges."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffusion_jax.data.image_sets import open_images
from diffusion_jax.data.image_sets.archive import read_archive, read_array
from diffusion_jax.data.image_sets.base import file_identity
from diffusion_jax.data.image_sets.samples import shard_folder
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.classes import Sampled
from diffusion_jax.generation.sampling import make_labels
from diffusion_jax.shards import found
from diffusion_jax.stages.run import Run

logger = logging.getLogger(__name__)

# Sample indices [B] → their classes [B], and the images that an upsampler enlarges.
Inputs = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def sample_inputs(run: Run) -> Inputs:
    """The classes that the config asks for; of an upsampler, the base samples and theirs."""
    config, data = run.experiment.sample, run.experiment.data
    if not run.experiment.unet.low_res and config.labels_from_file:
        given = load_labels(run)
        return lambda index: (given[index % len(given)], None)
    if not run.experiment.unet.low_res:
        return lambda index: (np.asarray(make_labels(config, data.num_classes, index)), None)
    images, labels = load_base(run)
    if len(images) < config.num_samples:
        logger.info('%d base samples for %d images: they are used again', len(images), config.num_samples)
    return lambda index: (labels[index % len(images)], images[index % len(images)])


def classes_to_sample(run: Run, num_samples: int, *, guided: bool) -> Sampled | None:
    """The classes of the first samples, before any is drawn; None where the networks know no classes."""
    experiment, config = run.experiment, run.experiment.sample
    if experiment.unet.num_classes is None and not guided:
        return None
    num_classes = experiment.data.num_classes
    if experiment.unet.low_res:
        labels = open_images(config.base_samples).labels if config.base_samples else None
        if experiment.unet.num_classes is None or labels is None:
            return None
    elif config.labels_from_file:
        labels = load_labels(run)
    else:
        labels = np.array(config.classes or range(num_classes))
    if config.labels != 'random':  # of what is drawn at random some may be missing by chance
        labels = labels[:num_samples]
    return Sampled(tuple(np.unique(labels).tolist()), num_classes)


def load_base(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the samples that an upsampler enlarges. UserError where they do not fit."""
    experiment = run.experiment
    data, path = experiment.data, experiment.sample.base_samples
    if not path:
        raise UserError(
            'config.sample.base_samples is not set; an upsampler needs the samples that it enlarges, such as '
            'runs/imagenet64/samples'
        )
    if Path(path).is_dir() and shard_folder(Path(path)) is None:
        raise UserError(f'{path}: no samples there; give a folder of samples, or an npz')
    base = open_images(path)
    images = base.read_all()
    shape = (*data.low_res_size, data.image_channels)
    if images.shape[1:] != shape:
        raise UserError(f'{path}: its images are {list(images.shape[1:])}; needed are {list(shape)}')
    if experiment.unet.num_classes is None:
        return images, np.zeros(len(images), np.int64)
    if base.labels is None:
        raise UserError(f'{path}: has no labels (arr_1); this upsampler needs the class of each image')
    check_labels(path, base.labels, data.num_classes)
    return images, base.labels


def load_labels(run: Run) -> np.ndarray:
    """The labels that config.sample.labels names a file of, int [N]. UserError where they do not fit."""
    path = Path(run.experiment.sample.labels)
    labels = read_array(path) if path.suffix == '.npy' else read_archive(path, ['arr_1']).get('arr_1')
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in 'iu' or not len(labels):
        raise UserError(f'{path}: holds no labels; give an .npy of them, or an npz that has them as arr_1')
    check_labels(path, labels, run.experiment.data.num_classes)
    return labels


def check_labels(path: str | Path, labels: np.ndarray, num_classes: int) -> None:
    """UserError unless all are classes."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise UserError(
            f'{path}: label {wrong[0]} is {labels[wrong[0]]}; labels are from 0 to {num_classes - 1}'
        )


def content_digest(path: str | Path) -> str:
    """Stands for the content of a file, or of all shards in a folder of samples."""
    folder = shard_folder(Path(path)) if Path(path).is_dir() else None
    files = [shard.path for shard in found(folder)] if folder else [Path(path)]
    digests = ''.join(_digest(file, file_identity(file)) for file in files)
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


@functools.cache  # asked for by every stage, and base samples are gigabytes
def _digest(path: Path, identity: str) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
