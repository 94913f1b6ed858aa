"""Texts of a command line, paths, and the meanings of settings."""

import dataclasses
from pathlib import Path

import pytest

from diffusion_jax.config import SECTIONS, all_settings
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment
from diffusion_jax.settings import FilePath, meanings, nearest, read_text, read_value


@pytest.mark.parametrize(
    ('hint', 'text', 'value'),
    [
        (int, '10_000', 10_000),
        (float, '1e-3', 1e-3),
        (bool, 'False', False),
        (bool, None, True),
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
    ('hint', 'text', 'message'),
    [
        (int, 'lots', "key is 'lots'; it must be a whole number"),
        (int, '1e3', "key is '1e3'; it must be a whole number"),
        (int, None, 'key has no value'),
        (int | None, 'some', "key is 'some'; it must be a whole number or None"),
        (float, '0,5', "key is '0,5'; it must be a number"),
        (bool, 'maybe', "key is 'maybe'; it must be true or false"),
        (tuple[int, int], '16', 'key is 16; give height and width: 16,16'),
        (tuple[int, int], '16,,16', 'key is 16,,16; give height and width: 16,16'),
        (tuple[float, ...], '1,b', 'key is 1,b; it must be numbers separated by commas'),
    ],
)
def test_a_text_of_another_type_is_refused_in_plain_words(hint, text, message):
    with pytest.raises(UserError) as error:
        read_text(hint, text, 'key')
    assert str(error.value).startswith(message)


def test_a_file_gives_numbers_and_names():
    assert read_value(tuple[int | str, ...], [7, 'cat'], 'key') == (7, 'cat')
    with pytest.raises(UserError, match='whole numbers or texts separated by commas'):
        read_value(tuple[int | str, ...], [1.5], 'key')


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
        'evaluate.inception',
        'evaluate.reference',
        'pretrained.diffusion',
        'pretrained.classifier',
    }


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('sample.scales', ['sample.scale']),
        ('scale', ['sample.scale']),
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
    assert [field.name for field in dataclasses.fields(cls) if not texts.get(field.name)] == []
    assert set(texts) <= {field.name for field in dataclasses.fields(cls)}
