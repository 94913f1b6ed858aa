"""Texts of a command line, paths, and the meanings of settings."""

import dataclasses
from pathlib import Path

import pytest

from diffusion_jax.config import SECTIONS, all_settings
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment
from diffusion_jax.models.config import DERIVED
from diffusion_jax.settings import FilePath, meanings, nearest, read_text, read_value


@pytest.mark.parametrize(
    ('hint', 'text', 'value'),
    [
        (int, '10_000', 10_000),
        (float, '1e-3', 1e-3),
        (bool, 'False', False),
        (str, 'None', 'None'),
        (int | None, 'None', None),
        (int | None, '4', 4),
        (tuple[int, int], '16,24', (16, 24)),
        (tuple[int, int] | None, 'none', None),
        (tuple[int, int] | None, '(16, 24)', (16, 24)),
        (tuple[float, ...], '1', (1.0,)),
        (tuple[float, ...], '()', ()),
        (tuple[str, ...], '', ()),
        (tuple[str, ...], "['train', 'sample']", ('train', 'sample')),
        (tuple[int | str, ...], 'cat,flower', ('cat', 'flower')),
        (tuple[int | str, ...], '207,388', (207, 388)),
        (tuple[int | str, ...], 'bald eagle, crane (bird)', ('bald eagle', 'crane (bird)')),
        (tuple[int | str, ...], '007,7', ('007', 7)),
    ],
)  # fmt: skip
def test_a_text_is_read_as_its_type(hint, text, value):
    read = read_text(hint, text, 'key')
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ('hint', 'text', 'remedy'),
    [
        (int, 'lots', 'an integer'),
        (int, '1e3', 'an integer'),
        (int | None, 'some', 'an integer or None'),
        (float, '0,5', 'a number'),
        (bool, 'maybe', 'true or false'),
        (tuple[int, int], '16', 'height and width'),
        (tuple[int, int], '16,,16', 'height and width'),
        (tuple[float, ...], '1,b', 'numbers separated by commas'),
    ],
)
def test_a_text_of_another_type_is_refused(hint, text, remedy):
    with pytest.raises(UserError) as error:
        read_text(hint, text, 'key')
    assert (error.value.where, error.value.problem) == ('key', f'got {text!r}')
    assert remedy in error.value.remedy


def test_only_a_flag_can_do_without_a_value():
    assert read_text(bool, None, 'key') is True
    with pytest.raises(UserError, match='no value'):
        read_text(int, None, 'key')


def test_a_file_gives_numbers_and_names():
    assert read_value(tuple[int | str, ...], [7, 'cat'], 'key') == (7, 'cat')
    assert read_value(int | str, '007', 'key') == '007'
    for hint, value in (
        (tuple[int | str, ...], [1.5]),
        (int, '7'),
        (int, True),
        (float, True),
        (float, 10**400),
    ):
        with pytest.raises(UserError) as error:
            read_value(hint, value, 'key')
        assert error.value.where == 'key' and len(error.value.problem) < 100


def test_paths_are_the_same_however_they_are_written(monkeypatch):
    monkeypatch.setenv('HOME', '/home/somebody')
    for value, path in {
        '~/images': '/home/somebody/images',
        'images/': 'images',
        './images': 'images',
        Path('images'): 'images',
        '': '',
        '/': '/',
        'gs://bucket/data': 'gs://bucket/data',
    }.items():
        assert read_value(FilePath, value, 'key') == path
        assert read_text(FilePath, str(value or ''), 'key') == path or value == Path('images')


def test_every_path_of_a_config_is_read_as_one():
    assert {name for name, hint in all_settings().items() if hint == FilePath} == {
        'data.path',
        'sample.labels',
        'sample.base_samples',
        'sample.weak',
        'base.diffusion',
        'base.classifier',
        'evaluate.inception',
        'evaluate.reference',
        'pretrained.diffusion',
        'pretrained.classifier',
    }


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('sample.scales', ['sample.scale']),
        ('scale', ['sample.scale', 'base.scale']),
        ('smaple.scale', ['sample.scale']),
        ('train.batch-size', ['train.batch_size']),
        ('heads', ['unet.num_heads', 'classifier.num_heads']),
        ('zzz', []),
    ],
)
def test_what_was_meant(name, meant):
    assert nearest(name, all_settings()) == meant


def test_a_setting_of_several_sections_is_found_in_each():
    found = nearest('batch_size', all_settings())
    assert {'train.batch_size', 'sample.batch_size'} < set(found)
    assert all(name.endswith('.batch_size') for name in found)


@pytest.mark.parametrize('cls', [Experiment, *SECTIONS.values()], ids=lambda cls: cls.__name__)
def test_every_setting_has_a_meaning(cls):
    texts = meanings(cls)
    settings = {field.name for field in dataclasses.fields(cls)} - set(DERIVED)
    assert {name for name in settings if not texts.get(name)} == set()
    assert set(texts) <= {field.name for field in dataclasses.fields(cls)}
