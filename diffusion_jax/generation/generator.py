"""A diffusion model with everything that sampling needs; used by notebooks and the stage `sample`.

    model = load('256x256_diffusion.safetensors', '256x256_classifier.safetensors')
    show(model.sample(8, 207, recipe='paper-ddim'))
    show(model.sample(8, 207, recipe='paper-ddim', scale=6.0))    # compiles nothing

A program is compiled for the networks, the structure of a recipe, and the number of images. Seeds, classes
and all numbers in a recipe are arguments of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.data.classes import listed
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import score_shift
from diffusion_jax.diffusion.process import align
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers.loop import Record, evaluations
from diffusion_jax.errors import UserError
from diffusion_jax.generation import arguments, options, program, requests, running, sampling
from diffusion_jax.generation.labels import Labels
from diffusion_jax.generation.likelihood import Judged
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.sampling import Parts, Request, Samples
from diffusion_jax.memory import OutOfMemory, out_of_memory
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig
from diffusion_jax.sharding import to_host

_one_batch = functools.partial(
    out_of_memory, remedy='give fewer images: all are computed in one batch', raises=OutOfMemory
)
_recorded = jax.jit(sampling.generate, static_argnums=0, static_argnames='record')
_invert = jax.jit(sampling.invert, static_argnums=0)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=['params'],
    meta_fields=['unet', 'diffusion', 'mesh', 'classifier', 'recipes', 'classes'],
)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Generator:
    """A diffusion model, an optional classifier that guides it, and their parameters on a mesh of devices.

    It is a pytree whose leaves are the parameters, so that a jitted function may take it as an argument.

    Attributes:
        params: 'diffusion', and 'classifier' where there is one; on the mesh as `param_shardings` says. With
            fsdp every step gathers them and frees them again.
        recipes: by name; the first is the default. A released model has those of the paper, a
            model of a run that of the run's samples.
        classes: the names of the classes in label order; () where they are not known.
    """

    unet: UNetConfig
    diffusion: DiffusionConfig
    params: dict[str, Params]
    mesh: jax.sharding.Mesh
    classifier: ClassifierConfig | None = None
    recipes: tuple[tuple[str, Recipe], ...] = (('default', Recipe()),)
    classes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        height, width = self.unet.image_size
        guided = 'no classifier' if self.classifier is None else 'with a classifier'
        classes = f', {len(self.classes)} classes: {listed(self.classes)}' if self.classes else ''
        recipes = ', '.join(name for name, _ in self.recipes)
        return (
            f'Generator({height}×{width}×{self.unet.image_channels}, {guided}{classes}; recipes: {recipes})'
        )

    @property
    def networks(self) -> Networks:
        return Networks(self.unet, self.diffusion, self.classifier, self.mesh)

    def unguided(self) -> Generator:
        """The same model without its classifier, and with recipes without guidance."""
        recipes = tuple((name, recipe.unguided()) for name, recipe in self.recipes)
        params = {'diffusion': self.params['diffusion']}
        return dataclasses.replace(self, classifier=None, params=params, recipes=recipes)

    @_one_batch('sampling')
    def sample(
        self,
        num_images: int,
        y: Labels | None = None,
        *,
        images: np.ndarray | None = None,
        start: float | None = None,
        record: Record | None = None,
        floats: bool = False,
        progress: bool | Callable[[int, int], None] = False,
        **how: Any,
    ) -> Samples:
        """Samples images, all in one batch.

        Args:
            y: one class for all images or one for each, by number or by name; needed by a model that is
                conditional or guided by a classifier.
            images, start: uint8 [num_images, H, W, C] to begin with, to which the seed's noise is added up to
                the first level of the grid whose σ = sigma/alpha is not above `start` (SDEdit, 2108.01073).
            record: (state, prediction, transition) → what to keep of every step; `trajectory` keeps x_t and
                the estimate of x_0. All steps are then kept in memory.
            floats: also returns float32 images, about from −1 to 1.
            progress: True shows a progress line on stderr; a function is called with the number of steps
                done and that of all steps.
            how: see `request`.

        Returns:
            Samples with arrays of the host.

        Raises:
            UserError: an argument is missing, has another shape or type, is out of range or not finite, or
                has nothing to act on.
            NotFinite: images are not finite; this is a UserError, too.
        """
        request = self.request(num_images, y, **how)
        recipe, done = request.recipe, 0
        grid = options.check_respacing(self.diffusion, recipe.respacing, recipe.timesteps)
        if images is not None or start is not None:
            request, done = running.from_images(self, request, grid.level, num_images, images, start)
        if record is not None:
            arguments.check_function('record', record, '(state, prediction, transition)')
        if record is not None and done:
            raise UserError('record keeps the steps of a whole sampling; leave out images and start')
        records = None
        if record is None:
            with running.reporting(progress, num_images) as report:
                number = len(grid.level.t)
                state = running.run(self.networks, self.params, request, done, number, report)
            x_0, log_weight = state.x, getattr(state, 'log_weight', None)
        else:
            found = _recorded(self.networks, self.params, request, record=record)
            x_0, records, log_weight = found.x_0, found.records, found.log_weight
        result, finite = running.finish(x_0)
        arguments.check_samples(to_host(finite)[:num_images], how.get('first', 0), recipe)
        return Samples(
            running.first_rows(num_images, result),
            running.first_rows(num_images, x_0) if floats else None,
            running.first_records(num_images, len(finite), records),
            running.first_rows(num_images, log_weight),
            evaluations(recipe.sampler, grid, done),
        )

    def request(self, num_images: int, y: Labels | None = None, **how: Any) -> Request:
        """The arguments of `generate`, checked, on the devices: see `requests.make_request` for `how`."""
        for name in how:
            if name not in requests.ARGUMENTS:
                raise UserError(f'no argument {name!r}; there are {", ".join(requests.ARGUMENTS)}')
        return requests.make_request(self, num_images, y, **how)

    def parts(self, request: Request) -> Parts:
        """What a loop of your own needs: sampler, guided denoiser, grid, noise and x_T of a request."""
        parts = sampling.make_parts(self.networks, self.params, request)
        shifts_mean = parts.sampler.shifts_mean
        return parts._replace(denoise=parts.denoise if shifts_mean else score_shift(parts.denoise))

    def at(
        self, sigma: Any, y: Any = None, *, recipe: str | Recipe | None = None
    ) -> Callable[[Any], jax.Array]:
        """D(x; σ) of EDM (2206.00364): x → the estimate of x_0, x = x_0 + σ·eps, [B, H, W, C] in float32.

        For loops of your own: it may be jitted, and sigma, y and x traced.

        Args:
            sigma: [] or [B], above 0. The network is asked at the fractional t that lies there.
            y: [B] or [], labels as whole numbers; −1 is no class, for a model that knows the null class.
            recipe: a name in `recipes`, or a Recipe; by default unguided and not clipped.
        """
        recipe = requests.read_recipe(self, Recipe(respacing='', clip=False) if recipe is None else recipe)
        requests.check_at(self, sigma, y, recipe)

        def denoised(x: Any) -> jax.Array:
            if np.shape(x)[1:] != (shape := (*self.unet.image_size, self.unet.image_channels)):
                raise UserError(f'x is {np.shape(x)}; it must be (B, {", ".join(map(str, shape))})')
            labels = jnp.broadcast_to(jnp.asarray(0 if y is None else y, jnp.int32), x.shape[:1])
            request = Request(jnp.uint32(0), jnp.arange(len(x)), labels, recipe)
            denoise = score_shift(sampling.guided_denoiser(self.networks, self.params, request))
            level = denoise.level_at(-2 * jnp.log(jnp.asarray(sigma, jnp.float32)))
            x_t = align(level.alpha, x) * x
            return denoise(x_t, level, denoise.init(x_t))[0].x_0

        return denoised

    @_one_batch('inversion')
    def invert(
        self,
        images: np.ndarray,
        y: Labels | None = None,
        *,
        respacing: str = 'ddim250',
        clip: bool = True,
        timesteps: str = 'fractional',
    ) -> np.ndarray:
        """The noise x_T, float32 [B, H, W, C], from which unguided DDIM in these steps makes these images.

        Between two such noises a and b lie those of cos(θ)·a + sin(θ)·b, 0 ≤ θ ≤ π/2 (paper, appendix F).
        """
        if self.unet.low_res:
            raise UserError('an upsampler is not inverted: its images depend on others')
        grid = options.check_respacing(self.diffusion, respacing, timesteps)
        if len(grid.level.t) < 2:
            raise UserError(f'respacing is {respacing!r}; an inversion needs at least two levels')
        num_images = arguments.num_rows('images', images)
        images = requests.full_images(self, 'images', images, num_images, np.uint8)
        rows = requests.put(self, {'images': images, 'y': requests.labels(self, num_images, y)})
        recipe = Recipe(respacing=respacing, clip=clip, timesteps=timesteps)
        noise = to_host(_invert(self.networks, self.params, rows['images'], rows['y'], recipe))[: len(images)]
        arguments.check_finite_rows('the noise x_T', noise, np.arange(len(images)))
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
            respacing: the timesteps of the process that is evaluated; '' is all.
            clip, low_res: see `request`.
        """
        seed = arguments.whole_number('seed', seed, below=2**32)
        options.check_timesteps(self.diffusion, respacing)
        num_images = arguments.num_rows('images', images)
        images = requests.full_images(self, 'images', images, num_images, np.uint8)
        index = np.arange(len(images)) if index is None else index
        index = arguments.check_array('index', index, (len(images),), np.int32)
        arguments.whole_number('the smallest index', index.min())
        rows = {
            'index': index,
            'images': images,
            'y': requests.labels(self, num_images, y),
            'low_res': requests.low_res_images(self, num_images, low_res),
        }
        judged = Judged(seed=jnp.uint32(seed), **requests.put(self, rows))
        bound = program.bound(self.networks, respacing, clip)
        terms = bound(self.params['diffusion'], judged)
        terms = {name: to_host(term)[: len(images)] for name, term in terms.items()}
        for name, term in terms.items():
            arguments.check_finite_rows(f"the bound's term '{name}'", term, index)
        return terms
