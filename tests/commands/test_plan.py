"""`diffusion-jax plan`, as its users run it."""

import importlib.util
import re

import pytest

from tests.commands.test_cli import call as call
from tests.program import TINY

SMALL = [f'--config.{key}={value}' for key, value in TINY.items()]
NUMBERS = ('arguments', 'temporaries', 'peak', 'FLOPs', 'traffic')


@pytest.fixture
def plan(call):
    def plan(*arguments, config='digits'):
        code, out, err = call('plan', f'--config={config}', *SMALL, *arguments)
        assert code == 0, err
        heading, *stages = out.split('\n\n')
        return heading, {text.partition(':')[0]: text for text in stages}

    return plan


@pytest.mark.slow
def test_for_the_devices_of_this_machine(plan):
    heading, stages = plan()
    assert heading == 'digits on 8 × cpu; its speed is unknown, so no times are given'
    assert list(stages) == ['train', 'train_classifier', 'sample']
    for text in stages.values():
        assert re.search(r'a step on 16 images, 2 on each device; compiled in \d+ s', text)
        assert all(f'\n  {name} ' in text for name in NUMBERS)
    assert re.search(r'exchanged .* all-reduce', stages['train'])
    assert 'exchanged' not in stages['sample']


def test_for_gpus_by_arithmetic(plan):
    heading, stages = plan('--topology=h100:8', '--stage=train,sample', '--samples=50000')
    assert heading.startswith('digits on 8 × NVIDIA H100 80GB HBM3, each with 80 GB, 3,350 GB/s, 989 TFLOP/s')
    assert list(stages) == ['train', 'sample']
    for text in stages.values():
        assert 'by arithmetic, not compiled' in text
        assert re.search(r'peak .* % of 80 GB: fits', text)
        assert re.search(
            r'bound .* m?s  a step at least, by (FLOPs|memory traffic): at most [\d,.]+ images/s', text
        )
        assert re.search(
            r'expected .* times the bound, as on an H100: .* to .* m?s a step, .* to .* in all', text
        )
    assert re.search(r'in all .* at least, for 6 steps', stages['train'])
    assert re.search(r'in all .* at least, for 50,000 images, each in 5 steps', stages['sample'])


def test_settings_that_fit_are_proposed(plan):
    _, stages = plan('--topology=t4', '--stage=train', '--config.train.batch_size=1048576')
    assert 'does not fit' in stages['train']
    assert re.search(
        r'--config.train.microbatches=\d+\n      peak [\d.]+ GB, at most [\d,.]+ images/s', stages['train']
    )


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--topology=h1000'], ['--topology', "'h1000'"]),
        (['--topology=h100:8', '--config.train.batch_size=12'], ['train.batch_size', '12', '8']),
        (['--config.mesh.fsdp=3'], ['config.mesh', 'fsdp=3', '8']),
        (['--stage=evaluate'], ['--stage', "'evaluate'"]),
        (['--samples=-1'], ['--samples', '-1']),
        (['--samples=many'], ['--samples', "'many'"]),
        (['--config.train.bath_size=1'], ['config.train.batch_size']),
        (['--config=digit'], ['digits']),
    ],
)
def test_bad_input_is_one_line(call, arguments, words):
    code, out, err = call('plan', '--config=digits', *arguments)
    assert (code, out) == (2, '')
    assert err.startswith('error: ') and err.count('\n') == 1
    assert all(word in err for word in words)


def test_no_config(call):
    code, out, err = call('plan')
    assert (code, out) == (2, '')
    assert '--config' in err


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason="libtpu is not installed: pip install '.[plan]'"
)
def test_for_tpus_that_are_not_there(plan):
    heading, stages = plan(
        '--topology=v5e:2x4', '--stage=train', '--config.mesh.data=1', '--config.mesh.fsdp=8'
    )
    assert heading.startswith('digits on 8 × TPU v5 lite, each with 16 GB')
    assert all(
        'exchanged' in stages['train'] and kind in stages['train']
        for kind in ('all-gather', 'reduce-scatter')
    )
    assert 'fits' in stages['train'] and 'expected' not in stages['train']
