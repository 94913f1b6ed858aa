"""Configs by name and by path, and config files with errors."""

import pytest

from diffusion_jax.config import read_experiment, with_defaults
from diffusion_jax.config_files import load_config, named_configs
from diffusion_jax.errors import UserError
from tests.test_config import CONFIGS

IMPORT = 'from diffusion_jax.config import with_defaults\n'


def test_a_name_is_that_of_a_config_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ('imagenet64', 'imagenet64.py'):
        config = load_config(text)
        assert config.path == CONFIGS / 'imagenet64.py' and '64' in config.doc
        assert config.experiment['data']['image_size'] == (64, 64)
    for name in ('imagenet64.py', 'a:b.py'):
        (tmp_path / name).write_text('def get_config():\n    return {"seed": 1}\n')
        assert load_config(name).path.absolute() == tmp_path / name
    monkeypatch.setenv('HOME', str(tmp_path))
    assert load_config('~/imagenet64.py').path == tmp_path / 'imagenet64.py'


def test_every_config_has_a_name():
    assert set(named_configs().values()) == set(CONFIGS.glob('*.py'))


@pytest.mark.parametrize(
    ('text', 'remedy'),
    [
        ('imagnet64', 'did you mean imagenet64?'),
        ('configs/imagenet64.py', 'did you mean imagenet64?'),
        ('mine', 'did you mean mine.py?'),
        ('whatever', 'diffusion-jax configs'),
        ('.', 'Python file'),
        ('mine.yaml', 'Python file'),
    ],
)
def test_what_is_no_config_is_named(text, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('mine.py', 'mine.yaml'):
        (tmp_path / name).write_text('')
    with pytest.raises(UserError) as error:
        load_config(text)
    assert error.value.where == text and remedy in error.value.remedy


@pytest.mark.parametrize(
    ('text', 'line', 'message'),
    [
        ('', 0, 'get_config'),
        ('x = 1\ndef get_config(:\n', 2, 'SyntaxError'),
        ('import sys\nimport no_such_module\n', 2, "'no_such_module'; install it"),
        ('def get_config():\n    return None\n', 0, 'None'),
        ('def get_config():\n    return 1 / 0\n', 2, 'ZeroDivisionError'),
        ('def get_config(size):\n    return {}\n', 0, "'size'"),
        (IMPORT + 'def get_config():\n    return with_defaults(seed=1)\n', 3, "'stages'"),
        (
            IMPORT + 'def get_config():\n    return with_defaults(stages=(), trian={})\n',
            3,
            'did you mean config.train?',
        ),
        (
            IMPORT + 'def get_config():\n    return with_defaults(stages=(), train=dict(num_step=1))\n',
            3,
            'did you mean config.train.num_steps?',
        ),
        (IMPORT + 'def get_config():\n    return with_defaults(stages=(), train=3)\n', 3, 'config.train'),
    ],
)
def test_an_error_in_a_file_is_one_line_with_its_place(text, line, message, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(path))
    place = f'{path}, line {line}: ' if line else f'{path}: '
    assert str(error.value).startswith(place) and message in str(error.value)
    assert '\n' not in str(error.value)


def test_an_argument_after_a_colon(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('def get_config():\n    return {}\n')
    with pytest.raises(UserError) as error:
        load_config(f'{path}:x')
    assert error.value.where == str(path) and 'takes 0' in error.value.problem
    path.write_text('def get_config(size):\n    return {"size": size}\n')
    assert load_config(f'{path}:x').experiment == {'size': 'x'}


def test_a_config_that_is_no_section_is_named():
    with pytest.raises(UserError) as error:
        read_experiment({**load_config('digits').experiment, 'unet': 3})
    assert error.value.where == 'config.unet'


def test_a_setting_that_is_none_can_be_changed_in_the_file():
    config = with_defaults(stages=(), unet={'num_head_channels': None})
    config.unet.num_head_channels = 32
    config.unet.num_heads_upsample = 2
    assert config.to_dict()['unet']['num_head_channels'] == 32
