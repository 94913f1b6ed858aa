"""A recipe: how images are sampled, as data."""

import dataclasses

from diffusion_jax.diffusion.guidance import ClassifierGuidance, Guidance, innermost, scaled
from diffusion_jax.diffusion.parts import Number, Part, options, static
from diffusion_jax.diffusion.samplers import DDPM, Sampler

CLASSIFIER = frozenset({'log_prob', 'logits'})  # the fields of `Models` that are a classifier's


class Recipe(Part):
    """How images are sampled. Its numbers are traced; everything else selects a compiled program.

    Attributes:
      guidance: the innermost first.
      respacing: the grid of noise levels; see `diffusion.grids`.
      clip: x_0 is clamped to [−1, 1] in every step, before guidance by gradients.
      timesteps: 'fractional' or 'nearest', for levels between trained timesteps; see `diffusion.grids`.
    """

    sampler: Sampler = DDPM()
    guidance: tuple[Guidance, ...] = ()
    respacing: str = static(default='250')
    clip: bool = static(default=True)
    timesteps: str = static(default='fractional')

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `Models` that the guidances need."""
        return frozenset(need for guidance in self.guidance for need in guidance.needs)

    @property
    def needs_classifier(self) -> bool:
        return not self.needs.isdisjoint(CLASSIFIER)

    @property
    def scale(self) -> Number:
        """The scale of the first guidance that has one; 1 if none has."""
        inner = map(innermost, self.guidance)
        return next((guidance.scale for guidance in inner if 'scale' in options(guidance)), 1.0)

    def with_scale(self, scale: Number) -> 'Recipe':
        """The recipe whose guidances have this scale; classifier guidance is added if there is none."""
        guidance = tuple(scaled(each, scale) for each in self.guidance) or (ClassifierGuidance(scale),)
        return dataclasses.replace(self, guidance=guidance)

    def unguided(self) -> 'Recipe':
        """The recipe without guidance."""
        return dataclasses.replace(self, sampler=self.sampler.unguided(), guidance=())

    def without_classifier(self) -> 'Recipe':
        """The recipe without the guidances that need a classifier, and without particles if none is left."""
        guidance = tuple(each for each in self.guidance if CLASSIFIER.isdisjoint(each.needs))
        weighted = guidance or self.sampler.population == 1
        sampler = self.sampler if weighted else self.sampler.unguided()
        return dataclasses.replace(self, sampler=sampler, guidance=guidance)
