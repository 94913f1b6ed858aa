"""AdamW, its learning rate over the run, and averages of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.models import Params
from diffusion_jax.training.config import TrainConfig


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """The learning rate of each step, counted from 0.

    'linear' is the authors' annealing, lr·(1 − step/num_steps), without its lag of one step.
    """
    steps = config.num_steps - config.warmup_steps
    decay = {
        'constant': optax.constant_schedule(config.learning_rate),
        'linear': optax.linear_schedule(config.learning_rate, 0.0, steps),
        'cosine': optax.cosine_decay_schedule(config.learning_rate, steps),
    }[config.learning_rate_schedule]
    if not config.warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), after optional clipping by global norm."""
    adamw = optax.adamw(learning_rate(config), b1=0.9, b2=0.999, eps=1e-8, weight_decay=config.weight_decay)
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, adamw)


def num_updates(opt_state: Any) -> jax.Array:
    """The number of updates of an optimizer of `make_optimizer`, int32."""
    return optax.tree.get(opt_state, 'ScaleByAdamState').count


def update_ema(ema: dict[str, Params], params: Params, number: jax.Array, warmup: bool) -> dict[str, Params]:
    """ema ← rate·ema + (1−rate)·params for every rate, the key of its average.

    With `warmup` the rate of update `number` (from 1) is min(rate, (1+number)/(10+number)).
    """

    def average(rate: float, old: Params) -> Params:
        r = jnp.minimum(rate, (1 + number) / (10 + number)) if warmup else rate
        return jax.tree.map(lambda a, p: r * a + (1 - r) * p, old, params)

    return {name: average(float(name), old) for name, old in ema.items()}
