"""The flags, and settings of a config as flags."""

from pathlib import Path

import pytest

from diffusion_jax.command_line import parse_flags, read_config
from diffusion_jax.config import read_experiment
from diffusion_jax.errors import UserError
from diffusion_jax.hosts import Hosts


def parse(*flags):
    return parse_flags(['main', '--config=digits', *flags])


def experiment(*flags):
    return read_experiment(parse(*flags).config)


def test_a_config_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse().workdir == Path('runs/digits') and parse().stages == []
    monkeypatch.setenv('HOME', str(tmp_path))
    assert parse('--workdir', '~/x/', '--stage=train,sample')[1:3] == (tmp_path / 'x', ['train', 'sample'])


def test_every_form_of_a_setting():
    train = experiment(
        '--config.train.num_steps=500', '--config.train.batch_size', '32', '--config.train.flip',
        '--noconfig.train.ema_warmup', '--config.train.num_steps=600', '--config.train.random_crop', 'true',
    ).train  # fmt: skip
    assert (train.num_steps, train.batch_size, train.flip, train.ema_warmup) == (600, 32, True, False)
    assert train.random_crop
    assert experiment('--config.seed', '7').seed == 7


def test_a_setting_can_become_none_and_a_setting_that_is_none_a_value():
    unet = experiment('--config.unet.num_head_channels=None', '--config.unet.num_heads=4').unet
    assert (unet.num_head_channels, unet.num_heads) == (None, 4)
    assert experiment('--config.unet.num_heads_upsample=2').unet.num_heads_upsample == 2
    assert experiment('--config.data.low_res_size=4,4').data.low_res_size == (4, 4)


def test_an_optional_section_can_be_removed():
    without = experiment(
        '--config.classifier=None', '--config.train_classifier=None', '--config.stages=train,sample',
        '--config.sample.scale=0',
    )  # fmt: skip
    assert without.classifier is None and without.stages == ('train', 'sample')


def test_a_setting_leaves_the_file_unchanged():
    assert read_config('digits', ['--config.train.num_steps=3'])['train']['num_steps'] == 3
    assert read_config('digits')['train']['num_steps'] == 1000


@pytest.mark.parametrize(
    ('flag', 'where', 'remedy'),
    [
        ('--config.sample.scales=2', 'config.sample.scales', 'config.sample.scale?'),
        ('--config.batch_size=2', 'config.batch_size', 'config.train.batch_size or'),
        ('--config.train=2', 'config.train', '--config.train.NAME=VALUE'),
        ('--config.unet.image_size=8,8', 'config.unet.image_size', ''),
        ('--config.data.image_size=8', 'config.data.image_size', 'height and width'),
        ('--config.seed', 'config.seed', ''),
        ('--work_dir=x', '--work_dir=x', '--workdir=x?'),
        ('--scale=2', '--scale=2', '--config.sample.scale=2'),
        ('config.seed=3', 'config.seed=3', '--config.seed=3?'),
        ('-workdir=x', '-workdir=x', '--workdir=x?'),
        ('stray', 'stray', 'see --help'),
        ('--num_hosts=two', '--num_hosts', ''),
        ('--workdir', '--workdir', ''),
        ('--workdir=', '--workdir', 'name a folder'),
        ('--heartbeat_timeout=-1', '--heartbeat_timeout', 'at least 0'),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_meant(flag, where, remedy):
    with pytest.raises(UserError) as error:
        parse(flag)
    text = str(error.value)
    assert text.startswith(f'{where}: ') and remedy in text and '\n' not in text


def test_a_config_is_required():
    with pytest.raises(UserError) as error:
        parse_flags(['main'])
    assert error.value.where == '--config'


def test_a_section_that_the_config_does_not_have():
    with pytest.raises(UserError) as error:
        read_config('lsun_cat', ['--config.classifier.dropout=0.1'])
    assert error.value.where == 'config.classifier.dropout' and 'classifier' in error.value.problem


def test_a_command_takes_settings_alone():
    with pytest.raises(UserError) as error:
        read_config('digits', ['--stage=train'])
    assert error.value.where == '--stage=train'


def test_hosts_are_named_or_detected():
    assert parse().hosts is None
    named = parse('--coordinator=here:1', '--num_hosts=2', '--host=1', '--heartbeat_timeout=7')
    assert named.hosts == Hosts('here:1', 2, 1, 300, 7)
    assert parse('--distributed', '--initialization_timeout=9').hosts == Hosts(None, None, None, 9, 60)


@pytest.mark.parametrize(
    'flags',
    [
        ['--coordinator=here', '--num_hosts=2', '--host=0'],
        ['--coordinator=:1', '--num_hosts=2', '--host=0'],
        ['--coordinator=here:x', '--num_hosts=2', '--host=0'],
        ['--coordinator=here:1', '--num_hosts=2'],
        ['--coordinator=here:1', '--host=0'],
        ['--coordinator=here:1', '--num_hosts=2', '--host=2'],
        ['--coordinator=here:1', '--num_hosts=2', '--host=-1'],
        ['--num_hosts=2', '--host=0'],
        ['--coordinator=', '--num_hosts=2', '--host=0'],
        ['--coordinator=here:1', '--num_hosts=2', '--host=0', '--distributed'],
    ],
)
def test_flags_that_name_no_host_are_refused(flags):
    with pytest.raises(UserError) as error:
        parse(*flags)
    assert error.value.where == '--coordinator'
