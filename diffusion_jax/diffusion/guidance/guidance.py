"""A guidance is a function from denoiser to denoiser; in a recipe it is a part whose `wrap` applies it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from diffusion_jax.diffusion.denoiser import Denoiser, LogProb
from diffusion_jax.diffusion.log_probs import of_clean_images
from diffusion_jax.diffusion.parts import Number, Part, option, static


class Models(NamedTuple):
    """Models that a guidance may use in addition to the denoiser that it wraps. Denoisers are not clipped.

    Attributes:
      log_prob: LogProb, log p(y|x_t) of the noise-aware classifier for the sampled classes.
      null: Denoiser, the diffusion model without a class (label −1).
      keys: typed keys [B], one for each image, for guidances that sample random numbers. An evaluation folds
        in a count, which the guidance keeps in its memory.
      logits: (x_t, level) → [B, K], the unnormalized log-probabilities of the classifier for all classes.
      y: int32 [B], the sampled classes.
      weak: Denoiser, the second diffusion model, for the same classes.
      conditional: labels [B] → Denoiser, the diffusion model for other classes.
      num_classes: K of the diffusion model.
      perturbed: blocks → Denoiser, the diffusion model whose self-attention in these blocks is the identity.
      attended: block → ((x_t, level) → (Prediction, received)), the diffusion model and the attention that
        each pixel of a block receives, [B, h, w], of mean 1.
    """

    log_prob: Any = None
    null: Any = None
    keys: Any = None
    logits: Any = None
    y: Any = None
    weak: Any = None
    conditional: Any = None
    num_classes: Any = None
    perturbed: Any = None
    attended: Any = None


class Guidance(Part):
    """A part of a recipe. `wrap` is called while a program is traced.

    Attributes:
      before_clip: x_0 is clipped after this guidance, which changes the prediction; otherwise before it.
      needs: the fields of Models that must not be None.
      asks_once: it evaluates the wrapped denoiser exactly once, at the same x_t and level, and does not
        differentiate it. Modifiers then evaluate the denoiser outside of their branches.
      has_gradient: it may add to the prediction's gradient, so that modifiers of gradients can act on it.
    """

    @property
    def before_clip(self) -> bool:
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def asks_once(self) -> bool:
        return False

    @property
    def has_gradient(self) -> bool:
        return not self.before_clip

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        raise NotImplementedError


class LogProbGuidance(Guidance):
    """A guidance by a log-probability.

    Attributes:
      scale: the factor of the log-probability.
      log_prob: (images, level) → [B], differentiable; by default the classifier's.
    """

    scale: Number = option(default=1.0, per_image=True)
    log_prob: LogProb | None = static(default=None)

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.log_prob else ('log_prob',)


class EstimateGuidance(LogProbGuidance):
    """A guidance by a log-probability of the estimate of x_0.

    log_prob is of (x̂_0, level of x_t); by default it is the classifier's, of a clean image.
    """

    def log_prob_of(self, models: Models) -> LogProb:
        """The caller's function, or that of the classifier."""
        return self.log_prob or of_clean_images(models.log_prob)


class Function(Guidance):
    """A guidance from a function from denoiser to denoiser."""

    function: Callable[[Denoiser], Denoiser] = static()

    def wrap(self, denoise: Denoiser, models: Models) -> Denoiser:
        return self.function(denoise)
