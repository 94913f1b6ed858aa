"""A record of all steps of a sampling."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from diffusion_jax.diffusion.process import Prediction, Transition


class Trajectory(NamedTuple):
    """Every step of a batch of images; N is the number of steps, and the noisiest is the first.

    Attributes:
        t: float32 [N], the timesteps, as the networks see them.
        x_t: float32 [N, B, H, W, C], the start of each step; x_t[0] is x_T.
        x_0: float32 [N, B, H, W, C], the estimate of the image at each step, before a guidance by gradients
            changes it.
    """

    t: jax.Array
    x_t: jax.Array
    x_0: jax.Array


def trajectory(state: Any, prediction: Prediction, transition: Transition) -> Trajectory:
    """The `record` of `generate` and `Generator.sample` that keeps a Trajectory."""
    return Trajectory(transition.level.t, state.x, prediction.x_0)
