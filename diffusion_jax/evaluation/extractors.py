"""From images to features: what metrics compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax.evaluation.inception import network
from diffusion_jax.evaluation.inception.files import InceptionWeights
from diffusion_jax.sharding import put_batch, replicated

FEATURES, SPATIAL = 'features', 'spatial'
PIXELS = 'pixels in [0, 1]'  # in the protocol

# uint8 [B, H, W, C] → features by name, float32 [B, D] each.
Apply = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class Extractor(NamedTuple):
    """Attributes:
    name: another for other features; good as the name of a folder.
    protocol: what features rest on beside the images, and the reader of a result must know.
    dimensions: how many features an image has; None where that depends on the image.
    batch_size: how many images are looked at together at most.
    logits: 'features' → the classes' logits, float32 [N, K]; None where the features know no classes.
    """

    name: str
    protocol: Mapping[str, Any]
    dimensions: int | None
    batch_size: int
    apply: Apply
    logits: Callable[[np.ndarray], np.ndarray] | None = None


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] to features, float32 [N, H·W·C] in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def pixel_extractor(*, rgb: bool = False) -> Extractor:
    """For images too small for Inception; not comparable with its metrics.

    rgb: takes grey images as RGB.
    """

    def apply(images: np.ndarray) -> dict[str, np.ndarray]:
        return {FEATURES: pixels(_as_rgb(images) if rgb else images)}

    name = 'pixels-rgb' if rgb else 'pixels'
    return Extractor(name, {'features': f'{PIXELS}, grey as RGB' if rgb else PIXELS}, None, 1024, apply)


def _as_rgb(images: np.ndarray) -> np.ndarray:
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def inception_extractor(
    inception: InceptionWeights, mesh: jax.sharding.Mesh, *, resize: str = 'tensorflow', batch_size: int = 64
) -> Extractor:
    """Inception v3 on all devices of a mesh: pool_3 as 'features', and 'spatial' for sFID."""
    params = jax.device_put(inception.params, replicated(mesh))
    compute = jax.jit(lambda params, images: network.apply(params, images, resize))

    def apply(images: np.ndarray) -> dict[str, np.ndarray]:
        rgb = _as_rgb(images)
        padding = -len(rgb) % mesh.size
        batch = np.concatenate([rgb, np.repeat(rgb[-1:], padding, axis=0)])
        found = compute(params, put_batch(mesh, batch))
        return {FEATURES: np.asarray(found.pool)[: len(rgb)], SPATIAL: np.asarray(found.spatial)[: len(rgb)]}

    protocol = {
        'features': 'Inception v3 (2015-12-05)',
        'inception': {
            'source': inception.source,
            'source_sha256': inception.source_sha256,
            'sha256': inception.sha256,
            'resize': resize,
        },
    }
    head = jax.jit(network.logits)
    name = f'inception-{inception.sha256[:8]}-{resize}'
    dimensions = inception.params['logits']['kernel'].shape[0]
    return Extractor(
        name, protocol, dimensions, batch_size, apply, lambda pool: np.asarray(head(params, pool))
    )
