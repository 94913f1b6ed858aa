"""Configs by name and by path, and config files in which something is wrong."""

import pytest

from diffusion_jax.config import read_experiment, with_defaults
from diffusion_jax.config_files import ConfigFile, find_config, load_config, named_configs
from diffusion_jax.errors import UserError
from tests.test_config import CONFIGS

IMPORT = 'from diffusion_jax.config import with_defaults\n'


def test_a_name_is_that_of_a_config_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ('imagenet64', 'imagenet64.py'):
        assert find_config(text) == ConfigFile(CONFIGS / 'imagenet64.py')
    assert find_config('imagenet64:x') == ConfigFile(CONFIGS / 'imagenet64.py', 'x')
    (tmp_path / 'imagenet64.py').write_text('')
    assert find_config('imagenet64.py').path.absolute() == tmp_path / 'imagenet64.py'
    (tmp_path / 'a:b.py').write_text('')
    assert find_config('a:b.py').path.name == 'a:b.py'
    monkeypatch.setenv('HOME', str(tmp_path))
    assert find_config('~/imagenet64.py').path == tmp_path / 'imagenet64.py'


def test_every_config_has_a_name():
    assert set(named_configs().values()) == set(CONFIGS.glob('*.py'))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('imagnet64', 'did you mean imagenet64'),
        ('configs/imagenet64.py', 'did you mean imagenet64'),
        ('mine', 'did you mean mine.py'),
        ('whatever', 'diffusion-jax configs'),
        ('.', 'is a folder'),
        ('mine.yaml', 'a config is a Python file'),
    ],
)
def test_what_is_no_config_is_named(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('mine.py', 'mine.yaml'):
        (tmp_path / name).write_text('')
    with pytest.raises(UserError, match=message):
        find_config(text)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'has no function get_config'),
        ('x = 1\ndef get_config(:\n', ', line 2: SyntaxError'),
        ('import sys\nimport no_such_module\n', ", line 2: No module named 'no_such_module'; install it"),
        ('def get_config():\n    return None\n', ', line 1: get_config returns None; .* with_defaults'),
        ('def get_config():\n    return 1 / 0\n', ', line 2: ZeroDivisionError'),
        ('def get_config(size):\n    return {}\n', ', line 1: get_config needs an argument'),
        (IMPORT + 'def get_config():\n    return with_defaults(seed=1)\n', ", line 3: .*'stages'"),
        (
            IMPORT + 'def get_config():\n    return with_defaults(stages=(), trian={})\n',
            r', line 3: config\.trian: no such setting; did you mean config\.train\?',
        ),
        (
            IMPORT + 'def get_config():\n    return with_defaults(stages=(), train=dict(num_step=1))\n',
            r', line 3: config\.train\.num_step: .* did you mean config\.train\.num_steps\?',
        ),
        (
            IMPORT + 'def get_config():\n    return with_defaults(stages=(), train=3)\n',
            r', line 3: config\.train is 3; it must be a section',
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_with_its_place(text, message, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(text)
    with pytest.raises(UserError, match=f'mine.py.*{message}') as error:
        load_config(ConfigFile(path))
    assert '\n' not in str(error.value)


def test_an_argument_that_a_file_does_not_take(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('def get_config():\n    return {}\n')
    with pytest.raises(UserError, match='line 1: get_config takes no argument'):
        load_config(ConfigFile(path, 'x'))
    path.write_text('def get_config(size):\n    return {"size": size}\n')
    assert load_config(ConfigFile(path, 'x')).experiment == {'size': 'x'}


def test_a_config_that_is_no_section_is_named():
    with pytest.raises(UserError, match=r'config\.unet is 3'):
        read_experiment({**load_config(find_config('digits')).experiment, 'unet': 3})


def test_a_setting_that_is_none_can_be_changed_in_the_file():
    config = with_defaults(stages=(), unet={'num_head_channels': None})
    config.unet.num_head_channels = 32
    config.unet.num_heads_upsample = 2
    assert config.to_dict()['unet']['num_head_channels'] == 32
