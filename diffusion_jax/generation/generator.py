"""A diffusion model with all that it draws images with: what notebooks hold, and what the stage sample uses.

    model = load('256x256_diffusion.safetensors', '256x256_classifier.safetensors')
    show(model.sample(8, 207, sampler='ddim'))
    show(model.sample(8, 207, sampler='ddim', scale=6.0))    # compiles nothing

Compiled programs are kept by what they are compiled for: the networks, the sampler, its steps, an own
log-probability and the number of images. Seeds, classes, scales and eta are arguments of such a program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.checks import INT32, one_of
from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import label_of, listed
from diffusion_jax.data.transforms import to_uint8
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import LogProb
from diffusion_jax.diffusion.process import Level
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
from diffusion_jax.generation.generate import (
    Recipe,
    Request,
    Trajectory,
    make_advance,
    make_invert,
    make_start,
    make_trajectory,
)
from diffusion_jax.generation.likelihood import Judged, make_bound
from diffusion_jax.memory import OutOfMemory, out_of_memory
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig
from diffusion_jax.report import Progress
from diffusion_jax.sharding import batch_sharding, fetch, put_whole
from diffusion_jax.weights.released import Sampling

OUTPUTS = ('uint8', 'float32', 'trajectory')
MAX_PARTS = 50  # of a batch: progress is reported after each

Labels = int | str | Sequence[int | str] | np.ndarray


_one_batch = functools.partial(
    out_of_memory, remedy='give fewer images: all are computed in one batch', raises=OutOfMemory
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Generator:
    """A diffusion model, the classifier that guides it, if any, and their parameters on a mesh of devices.

    Attributes:
        params: 'diffusion', and 'classifier' where there is one; on every device of the mesh.
        sampling: the sampler, steps and scales of a call that names none: those of the paper for a released
            model, those of the run for a model of a run.
        classes: the names of the classes in label order; () where they are not known.
    """

    unet: UNetConfig
    diffusion: DiffusionConfig
    params: dict[str, Params]
    mesh: jax.sharding.Mesh
    classifier: ClassifierConfig | None = None
    sampling: Sampling = Sampling(scale=1.0, ddim_scale=1.0)
    classes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        height, width = self.unet.image_size
        guided = 'unguided' if self.classifier is None else 'guided by a classifier'
        classes = f', {len(self.classes)} classes: {listed(self.classes)}' if self.classes else ''
        return f'Generator({height}×{width}×{self.unet.image_channels}, {guided}{classes})'

    def unguided(self) -> Generator:
        """The same model without its classifier."""
        return dataclasses.replace(self, classifier=None, params={'diffusion': self.params['diffusion']})

    @_one_batch('sampling')
    def sample(
        self,
        num_images: int,
        y: Labels | None = None,
        *,
        first: int = 0,
        seed: int = 0,
        sampler: str | None = None,
        respacing: str | None = None,
        scale: float | Sequence[float] | np.ndarray | None = None,
        eta: float | None = None,
        clip: bool | None = None,
        log_prob: LogProb | None = None,
        low_res: np.ndarray | None = None,
        x_T: np.ndarray | None = None,
        output: str = 'uint8',
        progress: bool | Callable[[int, int], None] = False,
    ) -> np.ndarray | Trajectory:
        """Samples images [num_images, H, W, C], all in one batch. Defaults are those of `sampling`.

        Args:
            y: one class for all images or one for each, by number or by name; needed by a model that is
                conditional or guided.
            first: the images are those with the indices first, first + 1, … of the seed, from 0 to 2³¹ − 1.
            seed: from 0 to 2³² − 1.
            sampler: 'ddpm' or 'ddim'.
            respacing: the steps, such as '250' or 'ddim25'.
            scale: of guidance, at least 0, one for all images or one for each. Without a classifier
                `log_prob` has scale 1 by default.
            eta: of DDIM, from 0, deterministic, to 1.
            clip: clamps x_0 to [−1, 1] in every step, before guidance.
            log_prob: (x_t, level) → [B], differentiable by JAX, guides the images in addition to the
                classifier and at the same scale; `unguided()` has no classifier. x_t is float32
                [B, H, W, C]; the level has t, signal and noise, [B] each: x_t = signal·x_0 + noise·eps. It
                is compiled with the sampler, and what it refers to is a constant of the program: the same
                function compiles nothing again, and does not see what changed since.
            low_res: uint8 [num_images, h, w, C], needed by an upsampler; of the size that it was trained to
                enlarge, which its weights do not say.
            x_T: float32 [num_images, H, W, C], the noise to start from instead of the seed's.
            output: 'uint8' images; 'float32' images, about from −1 to 1; or the 'trajectory'.
            progress: True shows a progress line on stderr; a function is called with the number of steps
                done and that of all steps.

        Raises:
            UserError: an argument is missing, has another shape or type, is out of range or not finite, or
                has nothing to act on.
            NotFinite: images are not finite; this is a UserError, too.
        """
        one_of('output', output, OUTPUTS)
        num_images = whole_number('num_images', num_images, 1)
        first = whole_number('first', first, below=INT32 - num_images + 1)
        seed = whole_number('seed', seed, below=2**32)
        default = self.sampling
        eta = real_number('eta', default.eta if eta is None else eta, 0, most=1)
        clip = default.clip if clip is None else clip
        sampler = default.sampler if sampler is None else sampler
        one_of('sampler', sampler, SAMPLERS)
        steps, strength = default[:2]
        if sampler == 'ddim':
            steps, strength = default.ddim_respacing, default.ddim_scale
        respacing = steps if respacing is None else respacing
        check_respacing(self.diffusion, respacing)
        self._check_log_prob(log_prob, num_images)
        if self.classifier is None:
            strength = 0.0 if log_prob is None else 1.0
            if log_prob is None and np.any(scale):
                raise UserError(
                    f'scale is {scale}; there is no classifier that could guide, leave it out or give one to '
                    'load, or a log_prob'
                )
        rows = {
            'index': np.arange(first, first + num_images, dtype=np.int32),
            'y': self._labels(num_images, y),
            'scale': self._scale(num_images, strength if scale is None else scale),
            'low_res': self._low_res(num_images, low_res),
            'x_T': None if x_T is None else self._images('x_T', x_T, num_images, np.float32),
        }
        request = Request(seed=jnp.uint32(seed), eta=jnp.float32(eta), **self._put(rows))
        recipe = Recipe(self.unet, self.classifier, self.diffusion, sampler, respacing, clip, log_prob)
        if output == 'trajectory':
            x_0, steps = _compiled(make_trajectory, recipe)(self.params, request)
        else:
            with _reporting(progress, num_images) as report:
                x_0 = self._run(recipe, request, report)
        images, finite = _finish(x_0)
        guided = self.classifier is not None or log_prob is not None
        check_samples(fetch(finite)[:num_images], first, rows['scale'], eta, guided=guided)
        if output == 'trajectory':
            return _first(num_images, Trajectory(*steps, images))
        return fetch(x_0 if output == 'float32' else images)[:num_images]

    def trajectory(self, num_images: int, y: Labels | None = None, **arguments: Any) -> Trajectory:
        """The images that `sample` draws with these arguments, and x_t and the estimate of x_0 at every step.

        All steps are kept in memory: 8 bytes for each number in an image and each step.
        """
        return self.sample(num_images, y, output='trajectory', **arguments)

    def _run(self, recipe: Recipe, request: Request, report: Callable[[int, int], None] | None) -> jax.Array:
        """x_0, computed in parts."""
        sharding = batch_sharding(self.mesh)
        advance = _compiled(make_advance, recipe, out_shardings=sharding)
        x_t = _compiled(make_start, recipe, out_shardings=sharding)(request)
        request = request._replace(x_T=None)
        num_steps = len(recipe.table.level.t)
        stride = -(-num_steps // MAX_PARTS)
        for done in range(0, num_steps, stride):
            until = min(done + stride, num_steps)
            following = advance(self.params, request, x_t, np.int32(done), np.int32(until))
            jax.block_until_ready(x_t)  # of the part before: the device has its next work already
            if report:
                report(done, num_steps)
            x_t = following
        if report:
            jax.block_until_ready(x_t)
            report(num_steps, num_steps)
        return x_t

    @_one_batch('inversion')
    def invert(
        self, images: np.ndarray, y: Labels | None = None, *, respacing: str = 'ddim250', clip: bool = True
    ) -> np.ndarray:
        """The noise x_T, float32 [B, H, W, C], from which unguided DDIM in as many steps makes these images.

        Between two such noises a and b lie those of cos(θ)·a + sin(θ)·b, 0 ≤ θ ≤ π/2 (paper, appendix F).
        """
        if self.unet.low_res:
            raise UserError('an upsampler is not inverted: its images depend on others')
        check_respacing(self.diffusion, respacing)
        images = self._images('images', images, num_rows('images', images), np.uint8)
        rows = self._put({'images': images, 'y': self._labels(len(images), y)})
        invert = _compiled(make_invert, self.unet, self.diffusion, respacing, clip)
        noise = fetch(invert(self.params, rows['images'], rows['y']))[: len(images)]
        check_finite_rows('the noise x_T', noise, np.arange(len(images)))
        return noise

    @_one_batch('the likelihood')
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

    def _check_log_prob(self, log_prob: LogProb | None, num_images: int) -> None:
        if log_prob is None:
            return
        if not callable(log_prob) or not isinstance(log_prob, Hashable):
            raise UserError(f'log_prob is {log_prob!r}; give a function of (x_t, level) that is hashable')
        image = (num_images, *self.unet.image_size, self.unet.image_channels)
        x_t, number = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (image, (num_images,)))
        result = jax.eval_shape(log_prob, x_t, Level(number, number, number))
        if getattr(result, 'shape', None) != (num_images,) or not jnp.issubdtype(result.dtype, jnp.floating):
            raise UserError(f'log_prob returns {result}; it must return floats ({num_images},)')

    def _labels(self, num_images: int, y: Labels | None) -> np.ndarray:
        known = [network.num_classes for network in (self.unet, self.classifier) if network is not None]
        num_classes = next(filter(None, known), None)
        if num_classes is None:
            return np.zeros(num_images, np.int32)
        labels = one_for_each('y', -1 if y is None else self._numbers(y), num_images, np.int32)
        if labels.min() < 0 or labels.max() >= num_classes:
            raise UserError(f'y is {y}; give a class from 0 to {num_classes - 1} for every image')
        return labels

    def _numbers(self, y: Labels) -> Labels:
        """The classes with labels in place of names."""
        if isinstance(y, (list, tuple)):
            return [self._numbers(each) for each in y]
        if not isinstance(y, str):
            return y
        if not self.classes:
            raise UserError(f'y is {y!r}; the names of the classes of this model are not known, give numbers')
        return label_of(y, imagenet.synonyms(self.classes))

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
def _compiled(make: Callable[..., Callable], *args: Any, **jit: Any) -> Callable:
    """Grids during training, the stage sample and notebooks share what they compile."""
    return jax.jit(make(*args), **jit)


@jax.jit
def _finish(x_0: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images, uint8 [B, H, W, C], and whether each was finite, bool [B]."""
    return to_uint8(x_0), jnp.isfinite(x_0).all(axis=(1, 2, 3))


def _first(num_images: int, found: Trajectory) -> Trajectory:
    """On the host, without the images that only fill the devices."""
    found = jax.tree.map(fetch, found)
    return Trajectory(
        found.t, found.x_t[:, :num_images], found.x_0[:, :num_images], found.images[:num_images]
    )


@contextlib.contextmanager
def _reporting(
    progress: bool | Callable[[int, int], None], num_images: int
) -> Iterator[Callable[[int, int], None] | None]:
    """What `Generator._run` calls."""
    if progress is not True:
        yield progress or None
        return
    with Progress('sampling', num_images) as line:
        yield lambda done, total: line.within(done, total, num_images)
        line.update(num_images)
