"""One training step, the same for every network: draw, differentiate, update, average.

It is a pure function of (state, batch). The compiler inserts the collectives for arguments that are sharded.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.diffusion import timestep_samplers
from diffusion_jax.models import Params
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.metrics import Metrics
from diffusion_jax.training.objectives import Inputs, Losses, Objective
from diffusion_jax.training.optimizer import learning_rate, make_optimizer, num_updates, update_ema


class TrainState(NamedTuple):
    """Everything that training carries from step to step."""

    step: jax.Array
    params: Params
    ema: dict[str, Params]
    opt_state: Any
    timestep_sampler: dict[str, jax.Array]
    key: jax.Array


def init_state(params: Params, config: TrainConfig, num_timesteps: int, key: jax.Array) -> TrainState:
    """The state before the first step; every average starts as a copy of the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema={str(rate): jax.tree.map(jnp.copy, params) for rate in config.ema_rates},
        opt_state=make_optimizer(config).init(params),
        timestep_sampler=timestep_samplers.init(config.timestep_sampler, num_timesteps),
        key=key,
    )


def mean_gradients(
    losses: Losses, params: Params, inputs: Inputs, key: jax.Array | None, microbatches: int
) -> tuple[Params, dict[str, jax.Array]]:
    """Gradient of mean(weight·loss) over the batch, and every loss [B].

    Microbatch i holds the examples i, i+n, i+2n, …, so that examples stay on their devices.
    """

    def weighted_loss(params: Params, inputs: Inputs, key: jax.Array | None) -> tuple[jax.Array, Inputs]:
        values = losses(params, inputs, key)
        return jnp.mean(inputs['weight'] * values['loss']), values

    gradient = jax.grad(weighted_loss, has_aux=True)
    if microbatches == 1:
        return gradient(params, inputs, key)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0)

    def merge(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

    def accumulate(total: Params, part: tuple[jax.Array, Inputs]) -> tuple[Params, Inputs]:
        index, inputs = part
        grads, values = gradient(params, inputs, None if key is None else jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, grads), values

    zeros = jax.tree.map(jnp.zeros_like, params)
    parts = (jnp.arange(microbatches), jax.tree.map(split, inputs))
    total, values = jax.lax.scan(accumulate, zeros, parts)
    return jax.tree.map(lambda g: g / microbatches, total), jax.tree.map(merge, values)


def batch_metrics(values: dict[str, jax.Array], inputs: Inputs, num_timesteps: int) -> Metrics:
    """Weighted mean of every loss, over all t and by quartile of t (q0: least noise), as (total, count)."""
    quartile = 4 * inputs['t'] // num_timesteps
    metrics = {}
    for name, value in values.items():
        value = value * inputs['weight']
        metrics[name] = (jnp.sum(value), jnp.asarray(value.size))
        for q in range(4):
            metrics[f'{name}_q{q}'] = (jnp.sum(value * (quartile == q)), jnp.sum(quartile == q))
    return metrics


def make_train_step(
    objective: Objective, config: TrainConfig
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]:
    """(state, uint8 batch) → (state, metrics). Every draw of step n comes from `fold_in(key, n)`.

    A step whose loss or gradient is not finite is skipped: it changes only the step number, so that the next
    step has other data and draws, and its metrics have the count 0.
    """
    optimizer, rate = make_optimizer(config), learning_rate(config)

    def train_step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        t_key, noise_key, dropout_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        t, weight = timestep_samplers.draw(state.timestep_sampler, t_key, batch['image'].shape[0])
        inputs = objective.draw(noise_key, batch, t) | {'weight': weight}
        grads, values = mean_gradients(
            objective.losses, state.params, inputs, dropout_key, config.microbatches
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        number = num_updates(opt_state)
        updated = state._replace(
            params=params,
            ema=update_ema(state.ema, params, number, warmup=config.ema_warmup),
            opt_state=opt_state,
            timestep_sampler=timestep_samplers.update(state.timestep_sampler, t, values['loss']),
        )
        metrics = batch_metrics(values, inputs, objective.num_timesteps) | {
            'grad_norm': (optax.tree.norm(grads), jnp.asarray(1)),
            'param_norm': (optax.tree.norm(params), jnp.asarray(1)),
            'learning_rate': (jnp.asarray(rate(number - 1)), jnp.asarray(1)),
        }
        # Both are sums, which one term that is not finite makes not finite.
        finite = jnp.isfinite(metrics['loss'][0]) & jnp.isfinite(metrics['grad_norm'][0])
        # Selected, not branched with lax.cond: donated arrays are updated in place.
        state = jax.tree.map(functools.partial(jnp.where, finite), updated, state)
        metrics = jax.tree.map(lambda value: jnp.where(finite, value, 0), metrics)
        return state._replace(step=state.step + 1), metrics

    return train_step


def skipped_steps(state: TrainState) -> int:
    """The number of steps so far that changed nothing: those that the optimizer did not count."""
    steps, updates = jax.device_get((state.step, num_updates(state.opt_state)))
    return int(steps) - int(updates)
