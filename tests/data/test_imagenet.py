import pytest

from diffusion_jax.data.imagenet import class_names, label_of
from diffusion_jax.errors import UserError


def test_a_thousand_classes_with_names_of_their_own():
    assert len(class_names()) == 1000
    assert len({name.lower() for name in class_names()}) == 1000


@pytest.mark.parametrize('label', [0, 1, 134, 207, 388, 517, 639, 985, 999])
def test_every_class_is_found_by_its_first_name(label):
    assert label_of(class_names()[label]) == label


@pytest.mark.parametrize(
    ('name', 'label'),
    [('Golden Retriever', 207), ('red panda', 387), ('Tinca tinca', 0), ('toilet paper', 999)],
)
def test_other_names_and_parts_of_names(name, label):
    assert label_of(name) == label


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('panda', r'matches 2 classes.*: lesser panda \(387\), giant panda \(388\)'),
        ('retriever', r'matches 5 classes.*golden retriever \(207\)'),
        ('unicorn', 'is no class.* tench, .* and 992 more'),
    ],
)
def test_names_that_do_not_tell(name, message):
    with pytest.raises(UserError, match=message):
        label_of(name)
