"""A diffusion model with everything that sampling needs; see docs/python.md.

A program is compiled for the networks, the structure of a recipe, and the number of images. Seeds, classes
and all numbers in a recipe are arguments of it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import score_shift
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.process import align
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import Sampler
from diffusion_jax.diffusion.samplers.loop import Record, evaluations
from diffusion_jax.errors import UserError
from diffusion_jax.generation import functions, guides, options, requests, sampling
from diffusion_jax.generation.arguments import check_finite
from diffusion_jax.generation.cascade import then
from diffusion_jax.generation.description import describe_model
from diffusion_jax.generation.labels import Labels
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.populations import check_weights
from diffusion_jax.generation.program import jitted, reporting, run, to_rows
from diffusion_jax.generation.purification import purify_images
from diffusion_jax.generation.sampling import Parts, Request, Samples
from diffusion_jax.images import Size
from diffusion_jax.memory import OutOfMemory, out_of_memory
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig

_one_batch = functools.partial(
    out_of_memory, remedy='give fewer images: all are computed in one batch', raises=OutOfMemory
)

STATIC = 'unet diffusion mesh classifier recipes classes weak marks low_res_size grids'.split()


@functools.partial(jax.tree_util.register_dataclass, data_fields=['params'], meta_fields=STATIC)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Generator:
    """A diffusion model, an optional classifier that guides it, and their parameters on a mesh of devices.

    It is a pytree whose leaves are the parameters, so that a jitted function may take it as an argument.

    Attributes:
        params: 'diffusion', and 'classifier' and 'weak' if there is one; on the mesh as by `param_shardings`.
        recipes: by name; the first is the default. A released model has those of the paper, a model of a run
            that of the run's samples.
        classes: the names of the classes in label order; () if they are unknown.
        weak: the second diffusion model, for `AutoGuidance`.
        marks: of recipes by name: the published figure and its source, or 'not measured'.
        low_res_size: height and width of the images that an upsampler enlarges; None if unknown.
        grids: texts for `respacing` by name, as `save_grid` stored them.
    """

    unet: UNetConfig
    diffusion: DiffusionConfig
    params: dict[str, Params]
    mesh: jax.sharding.Mesh
    classifier: ClassifierConfig | None = None
    recipes: tuple[tuple[str, Recipe], ...] = (('default', Recipe()),)
    classes: tuple[str, ...] = ()
    weak: Networks | None = None
    marks: tuple[tuple[str, str], ...] = ()
    low_res_size: Size | None = None
    grids: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f'Generator({describe_model(self)})'

    @property
    def networks(self) -> Networks:
        return Networks(self.unet, self.diffusion, self.classifier, self.mesh, self.weak)

    def unguided(self) -> 'Generator':
        """The same model without the networks that guide it, and with recipes without guidance."""
        recipes = tuple((name, recipe.unguided()) for name, recipe in self.recipes)
        params = {'diffusion': self.params['diffusion']}
        return dataclasses.replace(self, classifier=None, weak=None, params=params, recipes=recipes, marks=())

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
        """Samples images, all in one batch; the result has arrays of the host.

        Args:
            images, start: uint8 [num_images, H, W, C] to start from, to which the seed's noise is added up to
                the first level of the grid with σ = sigma/alpha at most `start` (SDEdit, 2108.01073).
            record: (state, prediction, transition) → what to keep of every step, such as `trajectory`.
            floats: also returns x_0.
            progress: True shows a progress line on stderr; a function is called with (steps done, all steps).
            y, how: see `request`.

        Raises:
            UserError: an argument is missing, has another shape or type, is out of range or not finite, or
                is not used.
            NotFinite: images are not finite.
        """
        request = self.request(num_images, y, **how)
        recipe, done = request.recipe, 0
        grid = make_grid(self.diffusion, recipe.respacing, recipe.timesteps)
        if images is not None or start is not None:
            request, done = requests.from_images(self, request, grid.level, num_images, images, start)
        if record is None:
            with reporting(progress, num_images) as report:
                state = run(self.networks, self.params, request, done, len(grid.num_steps), report)
            x_0, records, log_weight = state.x, None, getattr(state, 'log_weight', None)
        elif done:
            raise UserError('record', 'given with images and start', 'leave them out: it keeps all steps')
        else:
            found = jitted(sampling.generate, self.networks, record=record)(self.params, request)
            x_0, records, log_weight = found.x_0, found.records, found.log_weight
        pixels, finite = jitted(sampling.finish)(x_0)
        index = to_rows(num_images, request.index)
        check_finite('samples', to_rows(num_images, finite), index, functions.not_finite(recipe))
        records = to_rows(num_images, records, len(finite))
        pixels, x_0, log_weight = to_rows(num_images, (pixels, x_0 if floats else None, log_weight))
        if log_weight is not None:
            check_weights(log_weight, recipe.sampler.population, index)
        return Samples(pixels, x_0, records, log_weight, evaluations(recipe.sampler, grid, done))

    then = then
    request = requests.make_request
    purify = purify_images

    def parts(self, request: Request) -> Parts:
        """Sampler, guided denoiser, grid, noise and x_T of a request, for a loop of your own."""
        parts = sampling.make_parts(self.networks, self.params, request)
        shifts_mean = parts.sampler.shifts_mean
        return parts._replace(denoise=parts.denoise if shifts_mean else score_shift(parts.denoise))

    def at(
        self, sigma: Any, y: Any = None, *, recipe: str | Recipe | None = None
    ) -> Callable[[Any], jax.Array]:
        """D(x; σ) of EDM (2206.00364): x → the estimate of x_0, x = x_0 + σ·eps, [B, H, W, C] in float32.

        It may be jitted, and sigma, y and x traced.

        Args:
            sigma: [] or [B], above 0. The network is evaluated at a fractional t.
            y: one class for all images or one for each; −1 is no class, if the model was trained with it.
            recipe: a name in `recipes`, or a Recipe; by default unguided and not clipped.
        """
        recipe = requests.read_recipe(self, Recipe(respacing='', clip=False) if recipe is None else recipe)
        y = requests.labels_at(self, sigma, y, recipe)

        def denoised(x: Any) -> jax.Array:
            shape = (*self.unet.image_size, self.unet.image_channels)
            if np.shape(x)[1:] != shape:
                raise UserError('x', f'got {np.shape(x)}', f'must be (B, {", ".join(map(str, shape))})')
            labels = jnp.broadcast_to(jnp.asarray(y, jnp.int32), x.shape[:1])
            weighted = guides.with_class_weights(recipe, len(x), self.classifier, self.classes)
            request = Request(jnp.uint32(0), jnp.arange(len(x)), labels, weighted)
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
        sampler: str | Sampler = 'ddim',
        respacing: str = 'ddim250',
        clip: bool = True,
        timesteps: str = 'fractional',
    ) -> np.ndarray:
        """The noise x_T, float32 [B, H, W, C], from which this sampler, unguided, makes these images.

        See `interpolate` for the noises between two of them.

        Args:
            sampler: one that solves the ODE, such as 'ddim', 'heun', 'unipc' or 'dpmpp_3s'.
            y, respacing, clip, timesteps: see `request`.
        """
        if self.unet.low_res:
            raise UserError('model', 'is an upsampler, which is not inverted')
        sampler = options.read_ode_sampler(sampler)
        options.check_inversion(self.diffusion, respacing, timesteps)
        recipe = Recipe(sampler, respacing=respacing, clip=clip, timesteps=timesteps)
        return self._of_images(sampling.invert, images, y, recipe)

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

        Returns the terms of `diffusion.variational_bound.bits_per_dimension`; without guidance.

        Args:
            index: [B], which noise of the seed each image gets; by default 0, 1, …
            respacing: the timesteps of the process; '' is all.
            y, clip, low_res: see `request`.
        """
        options.check_timesteps(self.diffusion, respacing)
        recipe = Recipe(respacing=respacing, clip=clip)
        how = {'index': index, 'seed': seed, 'low_res': low_res}
        return self._of_images(sampling.bits_per_dimension, images, y, recipe, **how)

    def _of_images(self, function: Callable[..., Any], images: np.ndarray, *how: Any, **options: Any) -> Any:
        """The finite results of a function of networks, params, a request and images, on the host."""
        request, pixels, num_images = requests.of_images(self, images, *how, **options)
        found = jitted(function, self.networks)(self.params, request, pixels)
        found, index = to_rows(num_images, (found, request.index))
        for rows in jax.tree.leaves(found):
            finite = np.isfinite(rows).reshape(num_images, -1).all(axis=1)
            check_finite('result', finite, index, 'use other weights')
        return found
