"""The training step as a program on a mesh, and the state that it starts from."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffusion_jax import models
from diffusion_jax.chips import chip_of
from diffusion_jax.flops import count_flops
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig
from diffusion_jax.program import Program
from diffusion_jax.sharding import abstract_on, batch_sharding, gather_in_step, param_shardings, replicated
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.objectives import Objective
from diffusion_jax.training.step import TrainState, init_state, make_train_step


def train_program(
    objective: Objective, network: UNetConfig | ClassifierConfig, config: TrainConfig, mesh: Mesh
) -> Program:
    """`make_train_step` on a mesh, of devices that need not exist, and its arguments: the state, which is
    donated, and a batch."""
    state = jax.eval_shape(functools.partial(_new_state, objective, network, config), jax.random.key(0))
    shardings, size = param_shardings(mesh, state), config.batch_size
    batch = {
        'image': jax.ShapeDtypeStruct((size, *network.image_size, network.image_channels), jnp.uint8),
        'label': jax.ShapeDtypeStruct((size,), jnp.int32),
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
    """The state before the first step, with given parameters or those of `models.init`.

    abstract: the state in the arguments of `train_program`, with the sharding of each array.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    new_state = jax.jit(functools.partial(_new_state, objective, network, config), out_shardings=shardings)
    return new_state(key, params)


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


def step_cost(program: Program, mesh: Mesh) -> tuple[str, float | None]:
    """A text with the parameters and FLOPs of `train_program`, and its least seconds at the devices' bfloat16
    peak, if that is known. Traces the program; the first call reuses the trace."""
    flops = count_flops(program.jitted.trace(*program.arguments).jaxpr)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(program.arguments[0].params))
    text = f'{parameters:,} parameters, {flops / 1e12:.3g} TFLOP a step'
    chips = [chip_of(device.device_kind) for device in mesh.devices.flat]
    peaks = [chip.bfloat16 for chip in chips if chip]
    if len(peaks) < mesh.size:
        return text, None
    seconds = flops / sum(peaks)
    devices = f'{mesh.size} {mesh.devices.flat[0].device_kind}'
    return f'{text}, at least {1000 * seconds:.3g} ms at the bfloat16 peak of {devices}', seconds
