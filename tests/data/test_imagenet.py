import pytest

from diffusion_jax.data.classes import label_of
from diffusion_jax.data.imagenet import all_names, class_names
from tests.errors import refused


def test_a_thousand_classes_with_names_of_their_own():
    assert len(class_names()) == 1000
    assert len({name.lower() for name in class_names()}) == 1000


@pytest.mark.parametrize('label', [0, 1, 134, 207, 388, 517, 639, 985, 999])
def test_every_class_is_found_by_its_first_name(label):
    assert label_of(class_names()[label], all_names()) == label


@pytest.mark.parametrize(
    ('name', 'label'),
    [('Golden Retriever', 207), ('red panda', 387), ('Tinca tinca', 0), ('toilet paper', 999)],
)
def test_other_names_and_parts_of_names(name, label):
    assert label_of(name, all_names()) == label


@pytest.mark.parametrize(
    ('name', 'values'),
    [
        ('panda', ['2', 'lesser panda (387), giant panda (388)']),
        ('retriever', ['5', 'golden retriever (207)']),
        ('unicorn', ['tench, ', '992 more']),
    ],
)
def test_names_that_do_not_tell(name, values):
    with refused(repr(name), *values):
        label_of(name, all_names())
