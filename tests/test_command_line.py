"""The flags, and settings of a config as flags."""

from pathlib import Path

import pytest

from diffusion_jax.command_line import parse_flags, read_config
from diffusion_jax.config import read_experiment
from diffusion_jax.errors import UserError


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


def test_a_setting_keeps_the_file_as_it_is():
    assert read_config('digits', ['--config.train.num_steps=3'])['train']['num_steps'] == 3
    assert read_config('digits')['train']['num_steps'] == 1000


@pytest.mark.parametrize(
    ('flag', 'message'),
    [
        (
            '--config.sample.scales=2',
            'config.sample.scales: no such setting; did you mean config.sample.scale?',
        ),
        ('--config.batch_size=2', 'did you mean config.train.batch_size or'),
        ('--config.train=2', 'config.train is a section'),
        ('--config.unet.image_size=8,8', 'follows from the sections data and diffusion'),
        ('--config.data.image_size=8', 'config.data.image_size is 8; give height and width: 8,8'),
        ('--work_dir=x', '--work_dir=x: unrecognized; did you mean --workdir=x?'),
        ('--scale=2', 'did you mean --config.sample.scale=2?'),
        ('--stages=train', 'did you mean --stage=train'),
        ('config.seed=3', 'did you mean --config.seed=3?'),
        ('-workdir=x', 'did you mean --workdir=x?'),
        ('train', 'did you mean --stage=train?'),
        ('imagenet64', 'did you mean --config=imagenet64?'),
        ('--num_hosts=two', "--num_hosts is 'two'; it must be a whole number"),
        ('--workdir', '--workdir has no value'),
        ('--workdir=', "--workdir is ''; name a folder"),
        ('--heartbeat_timeout=-1', '--heartbeat_timeout is -1'),
    ],
)
def test_what_is_wrong_is_named_with_what_was_meant(flag, message):
    with pytest.raises(UserError) as error:
        parse(flag)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_a_section_that_the_config_does_not_have():
    with pytest.raises(UserError, match='the config has no section classifier'):
        read_config('lsun_cat', ['--config.classifier.dropout=0.1'])


def test_a_command_takes_settings_alone():
    with pytest.raises(UserError, match='--stage=train: unrecognized'):
        read_config('digits', ['--stage=train'])
