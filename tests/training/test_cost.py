import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from diffusion_jax.chips import CHIPS
from diffusion_jax.program import Program
from diffusion_jax.sharding import make_mesh
from diffusion_jax.training import program as programs
from diffusion_jax.training.program import step_cost, train_program
from tests.tiny import TRAIN, UNET
from tests.training.test_step import objective_of, params_of


def test_a_step_of_a_network():
    program, mesh = train_program(objective_of(UNET), UNET, TRAIN, make_mesh()), make_mesh()
    text, seconds = step_cost(program, mesh)
    parameters, flops = re.fullmatch('(.*) parameters, (.*) TFLOP a step', text).groups()
    assert parameters == f'{sum(leaf.size for leaf in jax.tree.leaves(params_of(UNET))):,}'
    assert seconds is None  # the peak of CPUs is unknown
    counted = program.lower().cost_analysis()['flops']  # including more than products, without padding
    assert 0.8 * counted < float(flops) * 1e12 < 1.2 * counted


class State(NamedTuple):
    params: jax.Array


def test_the_step_is_traced_once():
    traced = []

    def step(state, x):
        traced.append(1)
        return state.params @ x

    matrix = jnp.ones((8, 8))
    shape = jax.ShapeDtypeStruct(matrix.shape, matrix.dtype)
    program = Program(jax.jit(step), (State(shape), shape))
    assert step_cost(program, make_mesh()) == ('64 parameters, 1.02e-09 TFLOP a step', None)
    program.jitted(State(matrix), matrix)
    assert len(traced) == 1


def test_the_least_time_is_that_of_all_devices_at_their_peak(monkeypatch):
    monkeypatch.setattr(programs, 'chip_of', lambda kind: CHIPS['h100'])
    monkeypatch.setattr(programs, 'count_flops', lambda jaxpr: 8 * 989e12 / 20)
    mesh = make_mesh()
    text, seconds = step_cost(train_program(objective_of(UNET), UNET, TRAIN, mesh), mesh)
    assert seconds == pytest.approx(0.05)
    assert text.endswith('396 TFLOP a step, at least 50 ms at the bfloat16 peak of 8 cpu')
