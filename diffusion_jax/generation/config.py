"""Settings of sampling, and of the likelihood of images."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_jax.checks import INT32, between, one_of
from diffusion_jax.diffusion.guidance import GUIDANCES, innermost
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import SAMPLERS, SMC
from diffusion_jax.errors import UserError
from diffusion_jax.generation import options
from diffusion_jax.settings import FilePath

DECIDED = ('sampler', 'respacing', 'timesteps', 'eta', 'scale', 'guidance', 'clip')  # by a recipe
RESERVED = ('unguided', 'shards', 'features', 'png')  # folders in a folder of samples


@dataclass(frozen=True)
class SampleConfig:
    """Which images are sampled, and how.

    Attributes:
        name: samples are written to samples/<name>; '' is samples/, or, if it holds other samples, a folder
            named after what differs.
        recipe: a published recipe by name, such as 'paper-ddim' ("recipes" below lists those of a model): it
            decides sampler, respacing, timesteps, eta, scale, guidance and clip, except those that are
            given in addition; '' is none.
        sampler: by name, with options after a colon: 'ddpm', 'ddim', 'heun:s_churn=40', 'dpmpp_2m', …; see
            docs/sampling.md. The particles of a population of 'smc' have one label: population i has that of
            image i.
        respacing: the noise levels: '250', 'ddim25' or '90,60,60,20,20' of the process's timesteps, '' for
            all of them; or 'karras:18', 'log_snr:20', 'uniform:20', 'quadratic:20', 't:900,500,0',
            'sigma:9,1,0.1'; or 'travel:250/10,2', the grid 250 in segments of 10 steps that are taken twice.
        timesteps: for levels between trained timesteps: 'fractional' or 'nearest'.
        eta: noise of DDIM, from 0 (deterministic) to 1 (as random as DDPM); `ddim:eta=0.5` takes precedence.
            0 is the default of each sampler, which is 1 for those of the SDE.
        scale: of guidances that give none themselves; s ≥ 0 of classifier guidance, where 0 turns it off.
        guidance: by a classifier: 'classifier', 'entropy', 'mixture:7=0.5,8=0.5', 'clean', 'calibrated' or
            'reconstruction'; by extrapolation: 'classifier_free:scale=2', 'icg', 'pag', 'sag' or 'auto'; or
            several joined by +, the innermost first. '/interval:low=0.2,high=5', '/reuse:every=2',
            '/ramp:noisy=0,clean=2', '/normalized' and '/adam' act on the one before them;
            '/rescale:phi=0.7' and '/apg:momentum=-0.5' act on an extrapolation.
        clip: x_0 is clamped to [−1, 1] in every step, before guidance by gradients.
        num_samples: the number of images.
        batch_size: images sampled at a time, over all devices of a host.
        seed: of the noise and of random labels.
        labels: 'balanced' (image i is of class i mod K), 'random', or a file of the labels of image 0, 1, …:
            .npy, or .npz with arr_1. It is repeated if it has too few.
        classes: only these, by number or by name; () is all classes.
        ema_rate: the average of the diffusion model's parameters that is used; 0 is the parameters, None the
            largest rate that is trained, or that a pretrained folder of training has.
        classifier_ema_rate: the same for the classifier.
        weak: for the guidance 'auto', a second diffusion model of the same images and noise levels: a file of
            weights, a folder of training, or a run. Of a training, the average of the highest rate is used.
        base_samples: the images that an upsampler enlarges: a folder of samples such as
            runs/imagenet64/samples; or pictures of any size, cropped to `data.low_res_size` as for training:
            an image file, a folder of them, in the order of their names, or an npz. Image i enlarges image i
            modulo their number, of its class. Where they have no labels, `classes` or `labels` gives those
            of picture 0, 1, …. The section base samples images to enlarge instead.
        low_res_noise: standard deviation of noise that is added to these images, below 1; for an upsampler
            that was trained with `train.low_res_noise`.
        npz: also writes samples.npz, all images and labels in one file of the authors' format.
        png: also writes every image as a file, png/<index>_<label>.png.
        unguided: also samples the same images without guidance, to samples/unguided.
        grid_columns: the number of images of each class in samples/grid.png.
    """

    name: str = ''
    recipe: str = ''
    sampler: str = 'ddpm'
    respacing: str = '250'
    timesteps: str = 'fractional'
    eta: float = 0.0
    scale: float = 1.0
    guidance: str = 'classifier'
    clip: bool = True
    num_samples: int = 64
    batch_size: int = 64
    seed: int = 0
    labels: FilePath = 'balanced'
    classes: tuple[int | str, ...] = ()
    ema_rate: float | None = None
    classifier_ema_rate: float = 0.0
    weak: FilePath = ''
    base_samples: FilePath = ''
    low_res_noise: float = 0.0
    npz: bool = False
    png: bool = False
    unguided: bool = False
    grid_columns: int = 10

    @property
    def labels_from_file(self) -> bool:
        return self.labels.endswith(('.npy', '.npz'))

    def as_recipe(self) -> Recipe:
        """The settings as a recipe. UserError if a sampler, a guidance or an option is not valid."""
        sampler = options.read_sampler(self.sampler, self.eta)
        if isinstance(sampler, SMC):
            sampler = dataclasses.replace(sampler, unweighted=True)  # stored samples have no weights
        guidance = options.read_guidance(self.guidance, self.scale)
        # Guidance by a gradient at scale 0 is none.
        guidance = tuple(
            each for each in guidance if each.before_clip or getattr(innermost(each), 'scale', 1.0) > 0
        )
        return Recipe(sampler, guidance, self.respacing, self.clip, self.timesteps)

    def with_recipe(self, recipe: Recipe, given: Collection[str] = ()) -> 'SampleConfig':
        """These settings with those that a published recipe decides; the `given` ones stay."""
        guidance = [options.text_of(each, GUIDANCES, omit='scale') for each in recipe.guidance]
        decided: dict[str, Any] = {
            'sampler': options.text_of(recipe.sampler, SAMPLERS),
            'respacing': recipe.respacing,
            'timesteps': recipe.timesteps,
            'eta': 0.0,
            'scale': recipe.scale if guidance else 0.0,
            'guidance': '+'.join(guidance) or SampleConfig.guidance,
            'clip': recipe.clip,
        }
        return dataclasses.replace(self, **{k: value for k, value in decided.items() if k not in given})

    @property
    def guided(self) -> bool:
        """Whether a classifier guides."""
        return self.as_recipe().needs_classifier

    @property
    def with_unguided(self) -> bool:
        return bool(self.as_recipe().guidance) and self.unguided


@dataclass(frozen=True)
class BaseConfig:
    """The model that samples the images which an upsampler enlarges; the stage sample runs it first.

    Its images are those of the seed, the classes and the labels in the section sample, in the folder base/.

    Attributes:
        diffusion: a run such as runs/imagenet64, a folder of training or a file of weights; '' is none:
            `sample.base_samples` are enlarged.
        classifier: the same for the classifier that guides it; '' is that of the run, if any.
        recipe: by name; '' is the first of the model, which for a run is that of its samples.
        scale: of its guidance; None is that of the recipe.
    """

    diffusion: FilePath = ''
    classifier: FilePath = ''
    recipe: str = ''
    scale: float | None = None


def check_base(config: BaseConfig) -> None:
    """Raises UserError for a setting that cannot work."""
    for key in ('classifier', 'recipe', 'scale'):
        if not config.diffusion and getattr(config, key) not in ('', None):
            raise UserError(key, f'got {getattr(config, key)!r}', 'has no effect without base.diffusion')
    between('scale', config.scale or 0.0, 0)


def beside_recipe(sample: Mapping[str, Any], changed: Collection[str] = ()) -> dict[str, Any]:
    """A section `sample` without settings that its recipe decides, except the changed ones.

    A section with all of these settings is complete: then none was given in addition to the recipe.
    """
    keep = changed if 'recipe' in changed or is_complete(sample) else sample
    return {name: value for name, value in sample.items() if name not in DECIDED or name in keep}


def is_complete(sample: Mapping[str, Any]) -> bool:
    """Whether a section `sample` has all settings that a recipe decides."""
    return all(name in sample for name in DECIDED)


@dataclass(frozen=True)
class LikelihoodConfig:
    """The variational bound of images, with the parameters that are sampled with.

    Attributes:
        split: 'test' or 'train'; images are neither mirrored nor cropped at random.
        num_images: the number of images, chosen at random; 0 is all. A larger number adds images to those of
            a smaller one.
        batch_size: images at a time, over all devices of a host.
        respacing: the timesteps of the process, as in the section sample; '' is all.
        seed: of the noise and of the choice of images.
        clip: x_0 is clamped to [−1, 1] in every step.
    """

    split: str = 'test'
    num_images: int = 0
    batch_size: int = 64
    respacing: str = ''
    seed: int = 0
    clip: bool = True


def check_sample(config: SampleConfig, num_classes: int) -> None:
    """Raises UserError for a setting that cannot work."""
    between('eta', config.eta, 0, most=1)
    between('scale', config.scale, 0)
    between('low_res_noise', config.low_res_noise, 0, below=1)
    sampler = config.as_recipe().sampler
    if config.eta and config.eta != getattr(sampler, 'eta', 0.0):
        remedy = f'the sampler {config.sampler!r} does not use it; set it to 0'
        raise UserError('eta', f'got {config.eta:g}', remedy)
    if not config.labels_from_file:
        one_of('labels', config.labels, ('balanced', 'random', '<a .npy or .npz file>'))
    elif config.classes:
        remedy = f'labels={config.labels} gives all; leave one out'
        raise UserError('classes', f'got {config.classes}', remedy)
    between('grid_columns', config.grid_columns, 1, below=INT32)
    for key in ('num_samples', 'batch_size'):
        between(key, getattr(config, key), 1, below=INT32)
        if getattr(config, key) % sampler.population:
            remedy = f'must be a multiple of {sampler.population}, the particles of the sampler'
            raise UserError(key, f'got {getattr(config, key)}', remedy)
    between('seed', config.seed, 0, below=2**32)
    for label in config.classes:
        between('classes', int(label), 0, below=num_classes)
    if '/' in config.name or config.name.startswith('.') or config.name in RESERVED:
        raise UserError('name', f'got {config.name!r}', 'must be a folder name without /')


def check_likelihood(config: LikelihoodConfig) -> None:
    """Raises UserError for a setting that cannot work."""
    one_of('split', config.split, ('train', 'test'))
    between('num_images', config.num_images, 0, below=INT32)
    if config.num_images == 1:
        raise UserError('num_images', 'got 1', 'must be 0 or at least 2, for the standard error of the mean')
    between('batch_size', config.batch_size, 1, below=INT32)
    between('seed', config.seed, 0, below=2**32)
