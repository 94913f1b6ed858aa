"""Recipes of published models, each with its published figure and source, or 'not measured'."""

from typing import NamedTuple

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.guidance import ClassifierGuidance, EntropyGuidance, Guidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM, EDM_IMAGENET64, DPMSolverPP2M, Sampler
from diffusion_jax.images import Size
from diffusion_jax.models import ClassifierConfig, UNetConfig

# Recipes by name, the first being the default.
Recipes = tuple[tuple[str, Recipe], ...]

NOT_MEASURED = 'not measured'
ADM_TABLE_4, ADM_TABLE_5 = '2105.05233, table 4', '2105.05233, table 5'


class Published(NamedTuple):
    """A recipe of a model.

    Attributes:
        mark: the published figure of this model with this recipe, and its source; or 'not measured'.
        unguided: the same without the classifier, if the recipe needs one.
    """

    name: str
    recipe: Recipe
    mark: str = NOT_MEASURED
    unguided: str = NOT_MEASURED


class Released(NamedTuple):
    """A published model.

    Attributes:
        diffusion: the process that it was trained with; only its levels concern a classifier.
        config: the name of the config of its experiment; '' if there is none.
        published: its recipes, if it is a diffusion model.
        classifier: the name of the model that guides it.
        low_res_size: height and width of the images that an upsampler enlarges.
    """

    network: UNetConfig | ClassifierConfig
    diffusion: DiffusionConfig
    config: str = ''
    published: tuple[Published, ...] = ()
    classifier: str = ''
    low_res_size: Size | None = None

    @property
    def recipes(self) -> Recipes:
        return tuple((each.name, each.recipe) for each in self.published)

    def marks(self, guided: bool = True) -> tuple[tuple[str, str], ...]:
        """The mark of each recipe by its name; guided: with the classifier that it may need."""
        return tuple(
            (each.name, each.mark if guided or not each.recipe.needs_classifier else each.unguided)
            for each in self.published
        )


def fid(value: str, source: str = ADM_TABLE_5) -> str:
    """The mark of a published FID of 50,000 images."""
    return f'FID {value} ({source})'


# Second order with one evaluation a step, unguided; no FID of these is published for any of the models.
FAST = tuple(Published(f'fast-{n}', Recipe(DPMSolverPP2M(), (), f'log_snr:{n}')) for n in (10, 15))

# Options that EDM's README recommends for its own ImageNet-64 network; those behind 1.55 may differ.
EDM_64 = Published(
    'edm',
    Recipe(EDM_IMAGENET64, (), 'karras:256', timesteps='nearest'),
    'FID 1.55 (2206.00364, abstract: the minimum of three; the options here are those of its own network)',
)


def eds(name: str, sampler: Sampler, respacing: str, scale: float, mark: str) -> Published:
    """Entropy-driven scaling (2206.11474) with the noisy classifier as it was released."""
    return Published(name, Recipe(sampler, (EntropyGuidance(scale),), respacing), mark)


def paper(
    respacing: str = '250',
    scale: float = 0.0,
    ddim_scale: float | None = None,
    *marks: str,
    ddim: str = NOT_MEASURED,
    more: tuple[Published, ...] = (),
) -> tuple[Published, ...]:
    """Ancestral sampling (2105.05233, table 14), DDIM in 25 steps, `more`, and a fast solver.

    Args:
        scale, ddim_scale: of classifier guidance, 0 for none.
        marks: of the first, and of the first without its classifier.
        ddim: the mark of the second.
    """
    ddim_scale = scale if ddim_scale is None else ddim_scale
    return (
        Published('paper', Recipe(DDPM(), _classifier(scale), respacing), *marks),
        Published('paper-ddim', Recipe(DDIM(), _classifier(ddim_scale), 'ddim25'), ddim),
        *more,
        *FAST,
    )


def unguided(mark: str = NOT_MEASURED) -> tuple[Published, ...]:
    """DDPM-250 with this mark, DDIM-25 and a fast solver."""
    ddpm = Published('ddpm', Recipe(DDPM(), (), '250'), mark)
    return ddpm, Published('ddim', Recipe(DDIM(), (), 'ddim25')), *FAST


def _classifier(scale: float) -> tuple[Guidance, ...]:
    return (ClassifierGuidance(scale),) if scale else ()
