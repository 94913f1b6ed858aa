"""A diffusion model with all that it draws images with: what notebooks hold, and what the stage sample uses.

    model = load('256x256_diffusion.safetensors', '256x256_classifier.safetensors')
    show(model.sample(8, 207, sampler='ddim'))
    show(model.sample(8, 207, sampler='ddim', scale=6.0))    # compiles nothing

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

from diffusion_jax.checks import INT32, one_of
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import (
    check_array,
    check_finite_rows,
    check_samples,
    num_rows,
    one_for_each,
    real_number,
    whole_number,
)
from diffusion_jax.generation.config import SAMPLERS, check_respacing
from diffusion_jax.generation.generate import Request, make_generate, make_invert
from diffusion_jax.generation.likelihood import Judged, make_bound
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig
from diffusion_jax.models.config import DTYPES
from diffusion_jax.sharding import fetch, make_mesh, put_whole, replicated
from diffusion_jax.weights.files import Weights, load_weights
from diffusion_jax.weights.released import RELEASED, Sampling

Labels = int | Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """A diffusion model, the classifier that guides it, if any, and their parameters on a mesh of devices.

    Attributes:
        params: 'diffusion', and 'classifier' where there is one; on every device of the mesh.
        sampling: the paper's steps and scales for this model; used where a call names none.
    """

    unet: UNetConfig
    diffusion: DiffusionConfig
    params: dict[str, Params] = dataclasses.field(repr=False)
    mesh: jax.sharding.Mesh
    classifier: ClassifierConfig | None = None
    sampling: Sampling = Sampling(scale=1.0, ddim_scale=1.0)

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
            first: the images are those with the indices first, first + 1, … of the seed, from 0 to 2³¹ − 1.
            seed: from 0 to 2³² − 1.
            sampler: 'ddpm' or 'ddim'.
            respacing: the steps, such as '250' or 'ddim25'; by default the paper's for the model and sampler.
            scale: of guidance, at least 0, one for all images or one for each; by default likewise.
            eta: of DDIM, from 0, deterministic, to 1.
            clip: clamps x_0 to [−1, 1] in every step, before guidance.
            low_res: uint8 [num_images, h, w, C], needed by an upsampler; of the size that it was trained to
                enlarge, which its weights do not say.
            x_T: float32 [num_images, H, W, C], the noise to start from instead of the seed's.

        Raises:
            UserError: an argument is missing, has another shape or type, is out of range or not finite, or
                has nothing to act on.
            NotFinite: images are not finite; this is a UserError, too.
        """
        num_images = whole_number('num_images', num_images, 1)
        first = whole_number('first', first, below=INT32 - num_images + 1)
        seed, eta = whole_number('seed', seed, below=2**32), real_number('eta', eta, 0, most=1)
        one_of('sampler', sampler, SAMPLERS)
        paper = self.sampling
        default = (paper.ddim_respacing, paper.ddim_scale) if sampler == 'ddim' else paper[:2]
        respacing = default[0] if respacing is None else respacing
        check_respacing(self.diffusion, respacing)
        if self.classifier is None and np.any(scale):
            raise UserError(f'scale is {scale}; there is no classifier that could guide, leave it out')
        rows = {
            'index': np.arange(first, first + num_images, dtype=np.int32),
            'y': self._labels(num_images, y),
            'scale': self._scale(num_images, default[1] if scale is None else scale),
            'low_res': self._low_res(num_images, low_res),
            'x_T': None if x_T is None else self._images('x_T', x_T, num_images, np.float32),
        }
        request = Request(seed=jnp.uint32(seed), eta=jnp.float32(eta), **self._put(rows))
        generate = _compiled(
            make_generate, self.unet, self.classifier, self.diffusion, sampler, respacing, clip
        )
        images, finite = map(fetch, generate(self.params, request))
        check_samples(finite[:num_images], first, rows['scale'], eta, guided=self.classifier is not None)
        return images[:num_images]

    def invert(
        self, images: np.ndarray, y: Labels | None = None, *, respacing: str = 'ddim250', clip: bool = True
    ) -> np.ndarray:
        """The noise x_T, float32 [B, H, W, C], from which unguided DDIM in as many steps makes these images.

        Between two such noises a and b lie those of cos(θ)·a + sin(θ)·b, 0 ≤ θ ≤ π/2 (paper, appendix F).
        """
        if self.unet.low_res:
            raise UserError('an upsampler is not inverted: its images rest on others')
        check_respacing(self.diffusion, respacing)
        images = self._images('images', images, num_rows('images', images), np.uint8)
        rows = self._put({'images': images, 'y': self._labels(len(images), y)})
        invert = _compiled(make_invert, self.unet, self.diffusion, respacing, clip)
        noise = fetch(invert(self.params, rows['images'], rows['y']))[: len(images)]
        check_finite_rows('the noise x_T', noise, np.arange(len(images)))
        return noise

    def bits_per_dimension(
        self,
        images: np.ndarray,
        y: Labels | None = None,
        *,
        index: Sequence[int] | np.ndarray | None = None,
        seed: int = 0,
        respacing: str = '',
        clip: bool = True,
        low_res: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """The variational bound on −log₂ p(x_0) per dimension of uint8 images [B, H, W, C], and its terms.

        Unguided, like the terms of `diffusion.likelihood.bits_per_dimension`, which are returned.

        Args:
            y: the images' classes, needed by a conditional model.
            index: [B], which noise of the seed each image gets; by default 0, 1, …
            respacing: the steps of the process that is judged; '' is all.
            clip, low_res: see `sample`.
        """
        seed = whole_number('seed', seed, below=2**32)
        check_respacing(self.diffusion, respacing)
        images = self._images('images', images, num_rows('images', images), np.uint8)
        index = np.arange(len(images)) if index is None else index
        index = check_array('index', index, (len(images),), np.int32)
        whole_number('the smallest index', index.min())
        rows = {
            'index': index,
            'images': images,
            'y': self.unguided()._labels(len(images), y),
            'low_res': self._low_res(len(images), low_res),
        }
        bound = _compiled(make_bound, self.unet, self.diffusion, respacing, clip)
        terms = bound(self.params['diffusion'], Judged(seed=jnp.uint32(seed), **self._put(rows)))
        terms = {name: fetch(term)[: len(images)] for name, term in terms.items()}
        for name, term in terms.items():
            check_finite_rows(f"the bound's term '{name}'", term, index)
        return terms

    def _labels(self, num_images: int, y: Labels | None) -> np.ndarray:
        known = [network.num_classes for network in (self.unet, self.classifier) if network is not None]
        num_classes = next(filter(None, known), None)
        if num_classes is None:
            return np.zeros(num_images, np.int32)
        labels = one_for_each('y', -1 if y is None else y, num_images, np.int32)
        if labels.min() < 0 or labels.max() >= num_classes:
            raise UserError(f'y is {y}; give a class from 0 to {num_classes - 1} for every image')
        return labels

    def _scale(self, num_images: int, scale: float | Sequence[float] | np.ndarray) -> np.ndarray:
        scales = one_for_each('scale', scale, num_images, np.float32)
        if scales.min() < 0:
            raise UserError(f'scale is {scale}; it must be at least 0')
        return scales

    def _images(self, name: str, images: Any, num_images: int, dtype: type) -> np.ndarray:
        shape = (num_images, *self.unet.image_size, self.unet.image_channels)
        return check_array(name, images, shape, dtype)

    def _low_res(self, num_images: int, low_res: np.ndarray | None) -> np.ndarray | None:
        if self.unet.low_res != (low_res is not None):
            problem = 'is missing; this model enlarges images' if self.unet.low_res else 'is of no use here'
            raise UserError(f'low_res {problem}')
        if low_res is None:
            return None
        size = np.shape(low_res)[1:3] if np.ndim(low_res) == 4 else ('h', 'w')
        return check_array('low_res', low_res, (num_images, *size, self.unet.image_channels), np.uint8)

    def _put(self, rows: dict[str, np.ndarray | None]) -> dict[str, jax.Array | None]:
        """Rows on the devices, repeated until their number is a multiple of the devices'."""

        def fill(row: np.ndarray) -> np.ndarray:
            padding = -len(row) % self.mesh.size
            return np.concatenate([row, np.repeat(row[-1:], padding, axis=0)])

        return put_whole(self.mesh, jax.tree.map(fill, rows))


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
        dtype: of the computation; 'bfloat16' is meant for TPUs and GPUs.
        mesh: by default over all devices.

    Raises:
        UserError: a file cannot be read, is of the other kind of network, or the two do not fit together.
    """
    one_of('dtype', dtype, DTYPES)
    mesh = make_mesh() if mesh is None else mesh
    model = load_weights(diffusion)
    if not isinstance(model.network, UNetConfig):
        raise UserError(f'{diffusion}: holds a classifier; give it as the second argument')
    networks = {'diffusion': model}
    if classifier is not None:
        guide = load_weights(classifier)
        check_guide(guide, model, classifier)
        networks['classifier'] = guide
    released = RELEASED.get(model.name)
    configs = {name: dataclasses.replace(weights.network, dtype=dtype) for name, weights in networks.items()}
    return Generator(
        unet=configs['diffusion'],
        diffusion=model.diffusion,
        params={name: jax.device_put(w.params, replicated(mesh)) for name, w in networks.items()},
        mesh=mesh,
        classifier=configs.get('classifier'),
        **({'sampling': released.sampling} if released else {}),
    )


def check_guide(guide: Weights, model: Weights, path: str | Path) -> None:
    """UserError unless a classifier can guide a model."""
    if not isinstance(guide.network, ClassifierConfig):
        raise UserError(f'{path}: holds no classifier; give it as the first argument')
    shared = ('image_size', 'image_channels', 'num_classes')
    theirs = {name: getattr(guide.network, name) for name in shared} | guide.diffusion.levels
    ours = {name: getattr(model.network, name) for name in shared} | model.diffusion.levels
    for name, value in ours.items():
        if value is not None and theirs[name] != value:
            raise UserError(f'{path}: {name} is {theirs[name]}; that of the diffusion model is {value}')
