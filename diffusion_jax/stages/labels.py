"""The classes that the section sample of a config requests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.data.npz import read_archive, read_array
from diffusion_jax.errors import UserError
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.generation.sampling import sample_keys
from diffusion_jax.stages.run import Run


def requested_labels(run: Run) -> Callable[[np.ndarray], np.ndarray]:
    """Indices [B] → their labels [B]. Raises UserError if the file of labels cannot be used."""
    config, num_classes = run.experiment.sample, run.experiment.data.num_classes
    if config.labels_from_file:
        labels = load_labels(run)
        return lambda index: labels[index % len(labels)]
    return lambda index: make_labels(config, num_classes, index)


def make_labels(config: SampleConfig, num_classes: Any, index: np.ndarray) -> np.ndarray:
    """The class of each sample, int32 [B]; like the image, it depends on the seed and the index alone."""
    classes = np.asarray(config.classes or range(num_classes), np.int32)
    if config.labels == 'balanced':
        return classes[index % len(classes)]
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(classes)))
    return classes[np.asarray(draw(sample_keys(config.seed, index)))]


def load_labels(run: Run) -> np.ndarray:
    """The labels in the file config.sample.labels, int [N]. Raises UserError if they cannot be used."""
    path = Path(run.experiment.sample.labels)
    labels = read_array(path) if path.suffix == '.npy' else read_archive(path, ['arr_1']).get('arr_1')
    return checked_labels(str(path), labels, run.experiment.data.num_classes)


def checked_labels(path: str, labels: np.ndarray | None, num_classes: Any) -> np.ndarray:
    """Labels of a file. Raises UserError unless they are classes."""
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in 'iu' or not len(labels):
        raise UserError(path, 'has no labels', 'they are a vector of integers, in an npz as arr_1')
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        problem = f'label {wrong[0]} is {labels[wrong[0]]}'
        raise UserError(path, problem, f'labels must be from 0 to {num_classes - 1}')
    return labels
