"""The training step as a program on a mesh, and the state that it starts from."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffusion_jax import models
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig
from diffusion_jax.program import Program
from diffusion_jax.sharding import abstract_on, batch_sharding, gather_in_step, param_shardings, replicated
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.objectives import Objective
from diffusion_jax.training.step import TrainState, init_state, make_train_step


def train_program(
    objective: Objective, network: UNetConfig | ClassifierConfig, config: TrainConfig, mesh: Mesh
) -> Program:
    """`make_train_step` on a mesh, with its arguments: the state, which a step uses up, and a batch.

    The devices of the mesh need not exist to compile it.
    """
    state = jax.eval_shape(functools.partial(_new_state, objective, network, config), jax.random.key(0))
    shardings = param_shardings(mesh, state)
    batch = {
        'image': jax.ShapeDtypeStruct(
            (config.batch_size, *network.image_size, network.image_channels), jnp.uint8
        ),
        'label': jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }
    step = make_train_step(objective._replace(losses=gather_in_step(mesh, objective.losses)), config)
    jitted = jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
    return Program(jitted, (abstract_on(shardings, state), abstract_on(batch_sharding(mesh), batch)))


def first_state(
    objective: Objective,
    network: UNetConfig | ClassifierConfig,
    config: TrainConfig,
    abstract: TrainState,
    key: jax.Array,
    params: Params | None = None,
) -> TrainState:
    """The state before the first step, of given parameters or of `models.init`'s.

    Args:
        abstract: the state among the arguments of `train_program`; says where each array lies.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    new_state = functools.partial(_new_state, objective, network, config)
    return jax.jit(new_state, out_shardings=shardings)(key, params)


def _new_state(
    objective: Objective,
    network: UNetConfig | ClassifierConfig,
    config: TrainConfig,
    key: jax.Array,
    params: Params | None = None,
) -> TrainState:
    init_key, state_key = jax.random.split(key)
    params = models.init(network, init_key) if params is None else params
    return init_state(params, config, objective.num_timesteps, state_key)
