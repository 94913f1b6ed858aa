"""Extractors: from images to the features that metrics compare."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.evaluation.inception import network
from diffusion_jax.evaluation.inception.files import InceptionWeights
from diffusion_jax.sharding import put_batch, replicated

FEATURES, SPATIAL = 'features', 'spatial'
PIXELS = 'pixels in [0, 1]'  # in the protocol


class Extractor(NamedTuple):
    """Attributes:
    name: unique per feature definition; usable as a directory name.
    protocol: what the features depend on other than the images, for the reader of a result.
    dimensions: the number of features; None if it depends on the images.
    batch_size: the largest number of images in a call of `apply`.
    apply: uint8 [B, H, W, C] → features by name, float32 [B, D] each.
    logits: FEATURES → logits of classes, float32 [N, K]; None for features without classes.
    """

    name: str
    protocol: Mapping[str, Any]
    dimensions: int | None
    batch_size: int
    apply: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    logits: Callable[[np.ndarray], np.ndarray] | None = None


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] to features, float32 [N, H·W·C] in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def pixel_extractor(*, rgb: bool = False) -> Extractor:
    """For images too small for Inception; rgb converts grey images to RGB."""

    def apply(images: np.ndarray) -> dict[str, np.ndarray]:
        return {FEATURES: pixels(_to_rgb(images) if rgb else images)}

    name = 'pixels-rgb' if rgb else 'pixels'
    return Extractor(name, {'features': f'{PIXELS}, grey as RGB' if rgb else PIXELS}, None, 1024, apply)


def inception_extractor(weights: InceptionWeights, mesh: Mesh, resize: str, batch_size: int) -> Extractor:
    """Inception v3 on all devices of a mesh: pool_3 as FEATURES, and SPATIAL for sFID."""
    params = jax.device_put(weights.params, replicated(mesh))
    compute = jax.jit(lambda params, images: network.apply(params, images, resize))
    head = jax.jit(network.logits)

    def apply(images: np.ndarray) -> dict[str, np.ndarray]:
        padding = np.repeat(images[-1:], -len(images) % mesh.size, axis=0)
        features = compute(params, put_batch(mesh, _to_rgb(np.concatenate([images, padding]))))
        named = {FEATURES: features.pool, SPATIAL: features.spatial}
        return {name: np.asarray(array)[: len(images)] for name, array in named.items()}

    origin = {'source': weights.source, 'source_sha256': weights.source_sha256, 'sha256': weights.sha256}
    return Extractor(
        name=f'inception-{weights.sha256[:8]}-{resize}',
        protocol={'features': 'Inception v3 (2015-12-05)', 'inception': origin | {'resize': resize}},
        dimensions=weights.params['logits']['kernel'].shape[0],
        batch_size=batch_size,
        apply=apply,
        logits=lambda pool: np.asarray(head(params, pool)),
    )


def _to_rgb(images: np.ndarray) -> np.ndarray:
    return np.broadcast_to(images, (*images.shape[:-1], 3))
