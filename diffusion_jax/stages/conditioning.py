"""Conditioning for sampling: class labels, and low-resolution images for upsamplers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.data.image_sets import open_images
from diffusion_jax.data.image_sets.archive import read_archive, read_array
from diffusion_jax.data.image_sets.base import ImageSet
from diffusion_jax.data.image_sets.samples import shard_folder
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.classes import Sampled
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.sampling import sample_keys
from diffusion_jax.shards import found
from diffusion_jax.stages.run import Run

logger = logging.getLogger(__name__)

# Sample indices [B] → labels [B], and the uint8 images [B, h, w, C] that an upsampler enlarges, if it is one.
Conditioning = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def make_conditioning(run: Run) -> Conditioning:
    """The labels that the config requests; for an upsampler the base samples and their labels."""
    config, num_classes = run.experiment.sample, run.experiment.data.num_classes
    if run.experiment.unet.low_res:
        base, labels = open_base(run)
        if len(labels) < config.num_samples:
            logger.info('%d base samples for %d images: they are reused', len(labels), config.num_samples)
        return lambda index: (labels[index % len(labels)], base.take(index % len(labels)))
    if config.labels_from_file:
        labels = load_labels(run)
        return lambda index: (labels[index % len(labels)], None)
    return lambda index: (make_labels(config, num_classes, index), None)


def make_labels(config: SampleConfig, num_classes: int, index: np.ndarray) -> np.ndarray:
    """The class of each sample, int32 [B]; like the image, it depends on the seed and the index alone."""
    classes = np.asarray(config.classes or range(num_classes), np.int32)
    if config.labels == 'balanced':
        return classes[index % len(classes)]
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(classes)))
    return classes[np.asarray(draw(sample_keys(config.seed, index)))]


def classes_to_sample(run: Run, num_samples: int, *, guided: bool) -> Sampled | None:
    """The classes of the first samples, before any is drawn; None if the networks know no classes."""
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
    if config.labels != 'random':  # any class may occur among random labels
        labels = labels[:num_samples]
    return Sampled(tuple(np.unique(labels).tolist()), num_classes)


def open_base(run: Run) -> tuple[ImageSet, np.ndarray]:
    """The images that an upsampler enlarges, and their labels [N]; reads only the first image.

    Raises:
        UserError: they do not exist or do not fit the upsampler.
    """
    data, path = run.experiment.data, run.experiment.sample.base_samples
    if not path:
        raise UserError(
            'config.sample.base_samples',
            'not set, but an upsampler needs images to enlarge',
            'give a folder of samples such as runs/imagenet64/samples',
        )
    if Path(path).is_dir() and shard_folder(Path(path)) is None:
        raise UserError(path, 'a folder without samples', 'give a folder of samples or an npz')
    base = open_images(path)
    shape, expected = base.take(np.arange(1)).shape[1:], (*data.low_res_size, data.image_channels)
    if shape != expected:
        raise UserError(path, f'the images have shape {shape}', f'this upsampler needs {expected}')
    if run.experiment.unet.num_classes is None:
        return base, np.zeros(len(base), np.int64)
    if base.labels is None:
        raise UserError(path, 'no labels (arr_1)', 'this upsampler needs the class of each image')
    _check_labels(path, base.labels, data.num_classes)
    return base, base.labels


def load_labels(run: Run) -> np.ndarray:
    """The labels in the file config.sample.labels, int [N]. Raises UserError if they cannot be used."""
    path = Path(run.experiment.sample.labels)
    labels = read_array(path) if path.suffix == '.npy' else read_archive(path, ['arr_1']).get('arr_1')
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in 'iu' or not len(labels):
        raise UserError(
            str(path), 'no labels', 'give an .npy with a vector of integers, or an npz with one as arr_1'
        )
    _check_labels(str(path), labels, run.experiment.data.num_classes)
    return labels


def _check_labels(path: str, labels: np.ndarray, num_classes: int) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        problem = f'label {wrong[0]} is {labels[wrong[0]]}'
        raise UserError(path, problem, f'labels must be from 0 to {num_classes - 1}')


def content_digest(path: str) -> str:
    """Stands for the content of a file, or of all shards in a folder of samples."""
    folder = shard_folder(Path(path)) if Path(path).is_dir() else None
    digests = []
    for file_path in [shard.path for shard in found(folder)] if folder else [Path(path)]:
        with open(file_path, 'rb') as file:
            digests.append(hashlib.file_digest(file, 'sha256').hexdigest())
    return hashlib.sha256(''.join(digests).encode()).hexdigest()[:16]
