"""A diffusion model with all that it draws images with: what notebooks hold, and what the stage sample uses.

    model = load('256x256_diffusion.safetensors', '256x256_classifier.safetensors')
    images = model.sample(8, 207, sampler='ddim', respacing='ddim25')
    show(images)
    images = model.sample(8, 207, sampler='ddim', respacing='ddim25', scale=6.0)    # compiles nothing

Compiled programs are kept by what they are compiled for: the networks, the sampler, its steps and the number
of images. Seeds, classes, scales and eta are arguments of such a program.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.checks import one_of
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.generation.config import SAMPLERS
from diffusion_jax.generation.generate import Request, make_generate, make_invert
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig
from diffusion_jax.sharding import make_mesh, put_batch, replicated
from diffusion_jax.weights.files import Weights, load_weights
from diffusion_jax.weights.released import RELEASED, Sampling

Labels = int | Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Generator:
    """A diffusion model, the classifier that guides it, if any, and their parameters on a mesh of devices.

    Attributes:
        params: 'diffusion', and 'classifier' where there is one; on every device of the mesh.
        sampling: the scales at which the paper guides this model; used where a call names none.
    """

    unet: UNetConfig
    diffusion: DiffusionConfig
    params: dict[str, Params]
    mesh: jax.sharding.Mesh
    classifier: ClassifierConfig | None = None
    sampling: Sampling = Sampling(respacing='250', scale=1.0, ddim_scale=1.0)

    def unguided(self) -> Generator:
        """The same model without its classifier."""
        return dataclasses.replace(self, classifier=None, params={'diffusion': self.params['diffusion']})

    def sample(
        self,
        num_images: int,
        y: Labels | None = None,
        *,
        first: int = 0,
        seed: int = 0,
        sampler: str = 'ddpm',
        respacing: str | None = None,
        scale: float | Sequence[float] | np.ndarray | None = None,
        eta: float = 0.0,
        clip: bool = True,
        low_res: np.ndarray | None = None,
        x_T: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draws uint8 images [num_images, H, W, C], all in one batch.

        Args:
            y: one class for all images or one for each; needed by a model that is conditional or guided.
            first: the images are those with the indices first, first + 1, … of the seed.
            sampler: 'ddpm' or 'ddim'.
            respacing: the steps, such as '250' or 'ddim25'; by default the paper's for this model.
            scale: of guidance, one for all images or one for each; by default the paper's for this model.
            eta: of DDIM; 0 is deterministic.
            clip: clamps x_0 to [−1, 1] in every step, before guidance.
            low_res: uint8 [num_images, h, w, C], needed by an upsampler.
            x_T: float32 [num_images, H, W, C], the noise to start from instead of the seed's.
        """
        one_of('sampler', sampler, SAMPLERS)
        if self.unet.low_res and low_res is None:
            raise UserError('low_res is missing; this model enlarges images')
        respacing = self.sampling.respacing if respacing is None else respacing
        if scale is None:
            scale = self.sampling.ddim_scale if sampler == 'ddim' else self.sampling.scale
        rows = {
            'index': np.arange(first, first + num_images, dtype=np.int32),
            'y': self._labels(num_images, y),
            'scale': np.broadcast_to(np.asarray(scale, np.float32), num_images),
            'low_res': low_res,
            'x_T': None if x_T is None else np.asarray(x_T, np.float32),
        }
        request = Request(seed=jnp.uint32(seed), eta=jnp.float32(eta), **self._put(rows))
        generate = _compiled(
            make_generate, self.unet, self.classifier, self.diffusion, sampler, respacing, clip
        )
        return np.asarray(generate(self.params, request))[:num_images]

    def invert(
        self, images: np.ndarray, y: Labels | None = None, *, respacing: str = 'ddim250', clip: bool = True
    ) -> np.ndarray:
        """The noise x_T, float32 [B, H, W, C], from which unguided DDIM in as many steps makes these images.

        Between two such noises a and b lie those of cos(θ)·a + sin(θ)·b, 0 ≤ θ ≤ π/2 (paper, appendix F).
        """
        rows = self._put({'images': images, 'y': self._labels(len(images), y)})
        invert = _compiled(make_invert, self.unet, self.diffusion, respacing, clip)
        return np.asarray(invert(self.params, rows['images'], rows['y']))[: len(images)]

    def _labels(self, num_images: int, y: Labels | None) -> np.ndarray:
        known = [network.num_classes for network in (self.unet, self.classifier) if network is not None]
        num_classes = next(filter(None, known), None)
        labels = np.broadcast_to(np.asarray(0 if y is None else y, np.int32), num_images)
        if num_classes and (y is None or labels.min() < 0 or labels.max() >= num_classes):
            raise UserError(f'y is {y}; give a class from 0 to {num_classes - 1} for every image')
        return labels

    def _put(self, rows: dict[str, np.ndarray | None]) -> dict[str, jax.Array | None]:
        """Rows on the devices, repeated until their number is a multiple of the devices'."""

        def fill(row: np.ndarray) -> np.ndarray:
            padding = -len(row) % self.mesh.size
            return np.concatenate([row, np.repeat(row[-1:], padding, axis=0)])

        return put_batch(self.mesh, jax.tree.map(fill, rows))


@functools.lru_cache
def _compiled(make: Callable[..., Callable], *args: Any) -> Callable:
    """Grids during training, the stage sample and notebooks share what they compile."""
    return jax.jit(make(*args))


def load(
    diffusion: str | Path,
    classifier: str | Path | None = None,
    *,
    dtype: str = 'float32',
    mesh: jax.sharding.Mesh | None = None,
) -> Generator:
    """A generator from files of weights, such as `diffusion-jax convert` writes.

    Args:
        dtype: of the computation; 'bfloat16' is faster on TPUs and GPUs.
        mesh: by default over all devices.

    Raises:
        UserError: a file cannot be read, is of the other kind of network, or the two do not fit together.
    """
    mesh = make_mesh() if mesh is None else mesh
    model = load_weights(diffusion)
    if not isinstance(model.network, UNetConfig):
        raise UserError(f'{diffusion}: holds a classifier; give it as the second argument')
    networks = {'diffusion': model}
    if classifier is not None:
        guide = load_weights(classifier)
        check_guide(guide, model.network, classifier)
        networks['classifier'] = guide
    sampling = RELEASED[model.name].sampling if model.name else None
    configs = {name: dataclasses.replace(weights.network, dtype=dtype) for name, weights in networks.items()}
    return Generator(
        unet=configs['diffusion'],
        diffusion=model.diffusion,
        params={name: jax.device_put(w.params, replicated(mesh)) for name, w in networks.items()},
        mesh=mesh,
        classifier=configs.get('classifier'),
        **({'sampling': sampling} if sampling else {}),
    )


def check_guide(guide: Weights, unet: UNetConfig, path: str | Path) -> None:
    """UserError unless a classifier can guide a model."""
    if not isinstance(guide.network, ClassifierConfig):
        raise UserError(f'{path}: holds no classifier; give it as the first argument')
    for name in ('image_size', 'image_channels', 'num_classes'):
        theirs, ours = getattr(guide.network, name), getattr(unet, name)
        if ours is not None and theirs != ours:
            raise UserError(f'{path}: {name} is {theirs}; that of the diffusion model is {ours}')
