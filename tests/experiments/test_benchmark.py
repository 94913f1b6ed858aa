import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from benchmarking import programs
from benchmarking.measuring import Running, compile_case

from diffusion_jax import models
from diffusion_jax.data.config import DataConfig
from diffusion_jax.experiment import Experiment
from diffusion_jax.program import Program
from diffusion_jax.sharding import make_mesh
from experiments import benchmark
from tests import tiny

DIGITS = str(Path(__file__).parents[2] / 'configs' / 'digits.py')
# One level of 8×8 pixels, with attention in the middle only.
ONE_LEVEL = [
    f'--config.{network}.{setting}'
    for network in ('unet', 'classifier')
    for setting in ('channel_mult=(1.0,)', 'attention_resolutions=()')
]


def setup_of(unet, batch_size=8, classifier=None, low_res_size=None):
    experiment = Experiment(
        stages=(),
        data=DataConfig(name='folder', path='images', num_classes=10, low_res_size=low_res_size),
        diffusion=tiny.DIFFUSION,
        unet=unet,
        train=tiny.TRAIN,
        classifier=classifier,
        sample=tiny.SAMPLE,
    )
    return programs.Setup(experiment, make_mesh(), batch_size)


ALL_PARTS = ['forward', 'train', 'sample_step', 'guided_step', 'train_classifier']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('parts', 'choice'),
    [
        (['forward', 'train'], ['--parts=forward,train']),
        (ALL_PARTS, []),
    ],
)
def test_parts_of_a_config_give_rows(parts, choice, tmp_path, capsys):
    options = ['--batch-size=16', '--repeats=2', '--dtype=bfloat16', '--remat', f'--out={tmp_path}']
    assert benchmark.main([DIGITS, *choice, *options, *ONE_LEVEL]) == 0
    report = json.loads((tmp_path / 'benchmark.json').read_text())
    rows = {row['part']: row for row in report['rows']}
    assert list(rows) == parts
    for row in rows.values():
        numbers = [value for key, value in row.items() if key != 'part']
        assert all(math.isfinite(number) and number > 0 for number in numbers)
        assert row['batch_size'] == 16
        assert row['images_per_second'] * row['milliseconds'] == pytest.approx(16_000)
        slowest, fastest = row['images_per_second_min'], row['images_per_second_max']
        assert slowest <= row['images_per_second'] <= fastest
    # A gradient costs twice the forward pass, and remat repeats nearly all of that.
    assert 3.5 < rows['train']['flops_per_image'] / rows['forward']['flops_per_image'] < 4
    # Training holds the parameters, an average and two moments, once: a state that is used up leaves room.
    unet = programs.read(DIGITS, ONE_LEVEL).unet
    params_bytes = 4 * sum(leaf.size for leaf in jax.tree.leaves(models.param_shapes(unet)))
    assert params_bytes < rows['forward']['memory_bytes']
    assert 4 * params_bytes < rows['train']['memory_bytes'] < 8 * params_bytes
    for network in ('unet', 'classifier'):
        assert report['experiment'][network]['dtype'] == 'bfloat16'
        assert report['experiment'][network]['remat']
    table = capsys.readouterr().out.splitlines()[2:]
    assert [line.split('|')[1].strip() for line in table] == ['part', '---', *rows]
    assert len({line.count('|') for line in table}) == 1


def test_a_state_that_is_used_up_goes_round(monkeypatch):
    seen = []

    def count(state, _):
        return state + 1, state

    program = Program(jax.jit(count, donate_argnums=0), (jnp.int32(0), jnp.int32(0)))
    case = programs.Case(count, program, lambda: (jnp.int32(0), jnp.int32(0)), consumes=True)
    wait = jax.block_until_ready
    monkeypatch.setattr(jax, 'block_until_ready', lambda result: seen.append(int(result[1])) or wait(result))
    running = Running(case, compile_case(case))
    first = running.arguments[0]
    for _ in range(4):
        running.seconds()
    assert seen == [0, 1, 2, 3]
    assert first.is_deleted()


def test_an_upsampler_without_a_classifier():
    setup = setup_of(tiny.UPSAMPLER, low_res_size=(4, 4))
    parts = programs.cases(setup.experiment)
    assert list(parts) == ['forward', 'train', 'sample_step']
    for make in parts.values():
        case = make(setup)
        result = jax.eval_shape(case.function, *case.program.arguments)
        assert all(leaf.size for leaf in jax.tree.leaves(result))
        arguments = case.arguments()
        assert jax.tree.map(jnp.shape, arguments) == jax.tree.map(jnp.shape, case.program.arguments)


@pytest.mark.parametrize(
    ('arguments', 'error'),
    [
        (['nothing.py'], 'nothing.py: no such config'),
        ([DIGITS, '--batch-size=12'], '--batch-size: got 12; must be divisible by 8, the number of devices'),
        ([DIGITS, '--batch-size=0'], '--batch-size: got 0; must be at least 1'),
        ([DIGITS, '--repeats=0'], '--repeats: got 0; must be at least 1'),
        ([DIGITS, '--parts=forward,evaluate'], "--parts: got 'evaluate'; must be one of 'forward', 'train'"),
        ([DIGITS, '--batchsize=8'], '--batchsize=8: unrecognized'),
        ([], '--config: got 0; give one'),
        ([DIGITS, DIGITS], '--config: got 2; give one'),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, error, capsys):
    assert benchmark.main(arguments) == 2
    message = capsys.readouterr().err
    assert error in message
    assert message.count('\n') == 1
