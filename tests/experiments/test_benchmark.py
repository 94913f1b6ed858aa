"""The benchmark on a small network, and the table of the comparison with the authors' code."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from benchmarking.kernel_kinds import kind_of
from benchmarking.programs import Setup, cases

from diffusion_jax.data.config import DataConfig
from diffusion_jax.experiment import Experiment
from diffusion_jax.sharding import make_mesh
from experiments import benchmark, compare_authors
from tests import tiny

DIGITS = str(Path(__file__).parents[2] / 'configs' / 'digits.py')
ONE_LEVEL = [
    f'--config.{network}.{setting}'
    for network in ('unet', 'classifier')
    for setting in ('channel_mult=(1.0,)', 'attention_resolutions=()')
]


@pytest.mark.slow
def test_all_parts_of_a_config(tmp_path, capsys):
    options = ['--batch-size=16', '--repeats=2', '--profile', f'--out={tmp_path / "speed.json"}']
    assert benchmark.main([DIGITS, *options, *ONE_LEVEL]) == 0
    rows = {row['part']: row for row in json.loads((tmp_path / 'speed.json').read_text())['rows']}
    assert list(rows) == ['matrix', 'forward', 'train', 'sample_step', 'guided_step', 'train_classifier']
    for row in rows.values():
        profile, _ = row.pop('profile'), row.pop('part')
        assert profile['kinds']
        assert all(math.isfinite(number) and number > 0 for number in row.values())
    flops = {part: row['flops_per_image'] for part, row in rows.items()}
    assert 2.9 < flops['train'] / flops['forward'] < 3.1
    assert flops['sample_step'] == flops['forward'] < flops['guided_step']
    assert len({line.count('|') for line in capsys.readouterr().out.splitlines()[2:]}) == 1


def test_arguments_of_an_upsampler():
    experiment = Experiment(
        stages=(),
        data=DataConfig(name='folder', path='images', num_classes=10, low_res_size=(4, 4)),
        diffusion=tiny.DIFFUSION,
        unet=tiny.UPSAMPLER,
        train=tiny.TRAIN,
        sample=tiny.SAMPLE,
    )
    parts = cases(experiment)
    assert list(parts) == ['matrix', 'forward', 'train', 'sample_step']
    for make in (parts['forward'], parts['sample_step']):
        case = make(Setup(experiment, make_mesh(), 8))
        assert jax.tree.map(jnp.shape, case.arguments()) == jax.tree.map(jnp.shape, case.program.arguments)


def test_errors_are_one_line(capsys):
    for arguments in ([DIGITS, '--batch-size=12'], [DIGITS, '--parts=evaluate'], ['nothing.py']):
        assert benchmark.main(arguments) == 2
        assert capsys.readouterr().err.count('\n') == 1


@pytest.mark.parametrize(
    ('kernel', 'kind'),
    [
        ('sm80_xmma_fprop_implicit_gemm_bf16f32', 'convolutions'),
        ('nvjet_hsh_256x128_64x4_2x1_v_bz_TNT', 'matrix products'),
        ('cudnn_generated_fort_native_sdpa_sm80_flash_fprop', 'attention'),
        ('input_reduce_fusion_7', 'reductions, normalization'),
        ('loop_add_fusion', 'elementwise'),
        ('unknown', 'other'),
    ],
)
def test_kinds_of_kernels(kernel, kind):
    assert kind_of(kernel) == kind


def test_table_of_the_comparison():
    row = {'milliseconds': 50.0, 'memory_bytes': 5e9, 'profile': {'kinds': {'convolutions': 30.0}}}
    rows = {
        'imagenet64 train: ours, bfloat16': row,
        'imagenet64 train: authors, float16': {'milliseconds': 150.0, 'memory_bytes': None},
        'imagenet64 guided_step: authors, float16': {'error': 'out of memory'},
    }
    text = compare_authors.markdown(rows)
    assert '| imagenet64 train: ours, bfloat16 | 50.0 | 5.0 |  |' in text
    assert '| imagenet64 train: authors, float16 | 150.0 |  | 3.00 |' in text
    assert '| imagenet64 guided_step: authors, float16 | out of memory | | |' in text
    assert '| imagenet64 train: ours, bfloat16 | convolutions | 30.0 |' in text
