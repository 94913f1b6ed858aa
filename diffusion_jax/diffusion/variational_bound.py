"""The variational bound on −log p(x_0), in bits per dimension.

    L_vlb = L_0 + L_1 + … + L_{T-1} + L_prior                           Improved DDPM (2102.09672), eq. 4-7

Each transition has one term (`losses.vb_term`; L_0 is the decoder of uint8 pixels). L_prior is
KL(q(x_T|x_0) ‖ N(0, 1)) at the noisiest level.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.losses import image_mean, normal_kl, vb_term
from diffusion_jax.diffusion.process import Gaussian, Transition, add_noise, marginal
from diffusion_jax.diffusion.schedules import row


def prior_term(x_0: Array, transitions: Transition) -> Array:
    """KL(q(x_T|x_0) ‖ N(0, 1)) at the noisiest level, [B] in bits per dimension."""
    standard = Gaussian(jnp.zeros(()), jnp.ones(()), jnp.zeros(()))
    return image_mean(normal_kl(marginal(x_0, row(transitions, -1).level), standard)) / math.log(2)


def bits_per_dimension(
    denoise: Denoiser, x_0: Array, transitions: Transition, noise: Callable[[Array], Array], variance: str
) -> dict[str, Array]:
    """The bound for images x_0 in [−1, 1], with one draw of noise for each transition.

    Args:
      noise: row of the table, int32 [] → eps like x_0.
      variance: see `posterior`.

    Returns:
      'total' and 'prior', [B]; the terms 'vb' [B, T], the first timestep first; the mean squared errors
      'x_0_mse' and 'eps_mse' of the predictions, [B, T].
    """

    def term(_: None, index: Array) -> tuple[None, dict[str, Array]]:
        transition = row(transitions, jnp.full(len(x_0), index))
        eps = noise(index)
        x_t = add_noise(x_0, eps, transition.level)
        prediction, _ = denoise(x_t, transition.level, denoise.init(x_t))
        return None, {
            'vb': vb_term(prediction, x_0, x_t, transition, variance),
            'x_0_mse': image_mean((prediction.x_0 - x_0) ** 2),
            'eps_mse': image_mean((prediction.eps - eps) ** 2),
        }

    _, terms = jax.lax.scan(term, None, jnp.arange(len(transitions.level.t)))
    terms = jax.tree.map(jnp.transpose, terms)
    prior = prior_term(x_0, transitions)
    return {'total': jnp.sum(terms['vb'], axis=1) + prior, 'prior': prior, **terms}
