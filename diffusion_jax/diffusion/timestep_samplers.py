"""Timesteps to train on: uniform, or by importance.

The importance of a timestep is p_t ∝ √E[L_t²] over its last losses (Improved DDPM, 2102.09672, eq. 18). An
example at t has the weight 1/(T·p_t), so that the expected loss is that of uniform sampling.

The state is a dict of arrays, part of the training state:
  uniform: {'weights': [T]}, all ones;
  loss_second_moment: {'history': float32 [T, 10], the last losses, 'counts': int32 [T], their number}.
"""

import jax
import jax.numpy as jnp
from jax import Array

State = dict[str, Array]


def init(kind: str, num_timesteps: int, history_length: int = 10) -> State:
    """The initial state; kind is 'uniform' or 'loss_second_moment'."""
    if kind == 'uniform':
        return {'weights': jnp.ones(num_timesteps)}
    history = jnp.zeros((num_timesteps, history_length))
    return {'history': history, 'counts': jnp.zeros(num_timesteps, jnp.int32)}


def weights(state: State, uniform_probability: float = 0.001) -> Array:
    """The unnormalized probability of every timestep, [T]: uniform until every history is full."""
    if 'weights' in state:
        return state['weights']
    history, counts = state['history'], state['counts']
    num_timesteps, history_length = history.shape
    importance = jnp.sqrt(jnp.mean(history**2, axis=1))
    importance /= jnp.sum(importance)
    importance = importance * (1 - uniform_probability) + uniform_probability / num_timesteps
    return jnp.where(jnp.all(counts == history_length), importance, 1.0)


def draw(state: State, key: Array, batch: int) -> tuple[Array, Array]:
    """Timesteps, int32 [B], and the weights of their losses, float32 [B]."""
    w = weights(state)
    t = jax.random.choice(key, len(w), (batch,), p=w / jnp.sum(w))
    return t, jnp.mean(w) / w[t]


def update(state: State, t: Array, losses: Array) -> State:
    """Records the unweighted losses [B] of the timesteps t [B], in order, of the global batch."""
    if 'history' not in state:
        return state

    def record(state: State, pair: tuple[Array, Array]) -> tuple[State, None]:
        t, loss = pair
        history, counts = state['history'], state['counts']
        length = history.shape[1]
        losses = jnp.where(counts[t] == length, jnp.roll(history[t], -1), history[t])
        losses = losses.at[jnp.minimum(counts[t], length - 1)].set(loss)
        return {
            'history': history.at[t].set(losses),
            'counts': counts.at[t].set(jnp.minimum(counts[t] + 1, length)),
        }, None

    return jax.lax.scan(record, state, (t, losses))[0]
