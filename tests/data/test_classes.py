"""Classes by name."""

import zlib

import pytest

from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import check_same_classes, label_of
from tests.errors import refused


def test_the_closest_match_of_a_name_decides():
    case = [('Ant',), ('ant',)]
    assert [label_of(name, case) for name in ('Ant', 'ant')] == [0, 1]
    with refused("'ANT'", '2 classes', 'Ant (0), ant (1)'):
        label_of('ANT', case)
    names = [('crane', 'bird'), ('wader', 'Crane'), ('tower crane',)]
    assert [label_of(name, names) for name in ('Crane', ' WADER ', 'bird', 'tower')] == [0, 1, 0, 2]


def test_names_that_differ_are_named():
    check_same_classes('here', ('a', 'b'), 'there', ('a', 'b'))
    check_same_classes('here', (), 'there', ('a', 'b'))
    with refused('here', 'there', "class 1 is 'b', not 'c'"):
        check_same_classes('here', ('a', 'b'), 'there', ('a', 'c'))
    with refused('here', 'there', '2 classes (a, b), not 1 (a)'):
        check_same_classes('here', ('a', 'b'), 'there', ('a',))


@pytest.mark.parametrize('suffix', ['', 'x'])
def test_wordnet_numbers_become_words(monkeypatch, suffix):
    numbers = [f'n{label:08}' for label in range(1000)]
    monkeypatch.setattr(imagenet, 'WORDNET_NUMBERS', zlib.crc32('\n'.join(numbers).encode()))
    names = imagenet.readable([*numbers[:-1], numbers[-1] + suffix])
    assert (names[207] == 'golden retriever') == (suffix == '')
    assert len(imagenet.synonyms(names)[0]) > 1 if not suffix else imagenet.synonyms(names)[0] == (names[0],)
