"""Conditioning for sampling: class labels, and low-resolution images for upsamplers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.image_sets.archive import open_archive, open_samples, shard_folder
from diffusion_jax.data.image_sets.base import ImageSet
from diffusion_jax.data.npz import read_archive, read_array
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.classes import Sampled
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.sampling import sample_keys
from diffusion_jax.shards import list_shards
from diffusion_jax.stages.run import Run

# Sample indices [B] → labels [B], and for an upsampler the images that it enlarges, uint8 [B, h, w, C].
Conditioning = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def make_conditioning(run: Run) -> Conditioning:
    """The labels that the config requests; for an upsampler the base samples and their labels.

    Raises:
        UserError: the files of labels or base samples do not exist or do not fit.
    """
    config, num_classes = run.experiment.sample, run.experiment.data.num_classes
    if run.experiment.unet.low_res:
        base, labels = open_base(run)
        return lambda index: (labels[index % len(base)], base.take(index % len(base)))
    if config.labels_from_file:
        labels = load_labels(run)
        return lambda index: (labels[index % len(labels)], None)
    return lambda index: (make_labels(config, num_classes, index), None)


def make_labels(config: SampleConfig, num_classes: Any, index: np.ndarray) -> np.ndarray:
    """The class of each sample, int32 [B]; like the image, it depends on the seed and the index alone."""
    classes = np.asarray(config.classes or range(num_classes), np.int32)
    if config.labels == 'balanced':
        return classes[index % len(classes)]
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(classes)))
    return classes[np.asarray(draw(sample_keys(config.seed, index)))]


def classes_to_sample(run: Run, num_samples: int, *, guided: bool) -> Sampled | None:
    """The classes that the first samples will have; None if the networks know no classes."""
    config, unet = run.experiment.sample, run.experiment.unet
    num_classes: Any = run.experiment.data.num_classes
    if unet.num_classes is None and (unet.low_res or not guided):
        return None
    if unet.low_res:
        labels = open_base(run)[1]
    else:
        labels = (
            load_labels(run) if config.labels_from_file else np.array(config.classes or range(num_classes))
        )
    if config.labels != 'random':  # any class may occur among random labels
        labels = labels[: num_samples // config.as_recipe().sampler.population]
    return Sampled(tuple(np.unique(labels).tolist()), num_classes)


def open_base(run: Run) -> tuple[ImageSet, np.ndarray]:
    """The images that an upsampler enlarges, and their labels [N]. Reads only the first image.

    Raises:
        UserError: they do not exist or do not fit the upsampler.
    """
    data, path = run.experiment.data, run.experiment.sample.base_samples
    assert data.low_res_size is not None
    if not path:
        problem = 'is not set, but an upsampler needs images to enlarge'
        remedy = 'give a folder of samples such as runs/imagenet64/samples'
        raise UserError('config.sample.base_samples', problem, remedy)
    base = open_samples(Path(path)) if Path(path).is_dir() else open_archive(Path(path))
    shape, expected = base.take(np.arange(1)).shape[1:], (*data.low_res_size, data.image_channels)
    if shape != expected:
        raise UserError(path, f'the images have shape {shape}', f'this upsampler needs {expected}')
    if run.experiment.unet.num_classes is None:
        return base, np.zeros(len(base), np.int64)
    return base, _checked(path, base.labels, data.num_classes)


def load_labels(run: Run) -> np.ndarray:
    """The labels in the file config.sample.labels, int [N]. Raises UserError if they cannot be used."""
    path = Path(run.experiment.sample.labels)
    labels = read_array(path) if path.suffix == '.npy' else read_archive(path, ['arr_1']).get('arr_1')
    return _checked(str(path), labels, run.experiment.data.num_classes)


def _checked(path: str, labels: np.ndarray | None, num_classes: Any) -> np.ndarray:
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in 'iu' or not len(labels):
        raise UserError(path, 'has no labels', 'they are a vector of integers, in an npz as arr_1')
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        problem = f'label {wrong[0]} is {labels[wrong[0]]}'
        raise UserError(path, problem, f'labels must be from 0 to {num_classes - 1}')
    return labels


def content_digest(path: str) -> str:
    """Stands for the content of a file, or of all shards in a folder of samples."""
    folder = shard_folder(Path(path)) if Path(path).is_dir() else None
    digests = []
    for file_path in [shard.path for shard in list_shards(folder)] if folder else [path]:
        with open(file_path, 'rb') as file:
            digests.append(hashlib.file_digest(file, 'sha256').hexdigest())
    return hashlib.sha256(''.join(digests).encode()).hexdigest()[:16]
