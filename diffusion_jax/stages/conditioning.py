"""Conditioning for sampling: class labels, and low-resolution images for upsamplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion_jax.evaluation.classes import Sampled
from diffusion_jax.stages import base
from diffusion_jax.stages.labels import load_labels, requested_labels
from diffusion_jax.stages.run import Run

# Sample indices [B] → labels [B], and for an upsampler the images that it enlarges, uint8 [B, h, w, C].
Conditioning = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def make_conditioning(run: Run) -> Conditioning:
    """The labels that the config requests; for an upsampler the base images and their labels.

    Raises:
        UserError: the files of labels or base images do not exist or do not fit.
    """
    if run.experiment.unet.low_res:
        images, labels = base.open_base(run)
        return lambda index: (labels[index % len(images)], images.take(index % len(images)))
    requested = requested_labels(run)
    return lambda index: (requested(index), None)


def classes_to_sample(run: Run, num_samples: int, *, guided: bool) -> Sampled | None:
    """The classes that the first samples will have; None if the networks know no classes."""
    config, unet = run.experiment.sample, run.experiment.unet
    num_classes: Any = run.experiment.data.num_classes
    if unet.num_classes is None and (unet.low_res or not guided):
        return None
    if unet.low_res and not base.is_sampled(run):
        labels = base.open_base(run)[1]
    else:
        labels = (
            load_labels(run) if config.labels_from_file else np.array(config.classes or range(num_classes))
        )
    if config.labels != 'random':  # any class may occur among random labels
        labels = labels[: num_samples // config.as_recipe().sampler.population]
    return Sampled(tuple(np.unique(labels).tolist()), num_classes)
