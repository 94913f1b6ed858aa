"""A reference is restricted to the classes of the samples, or a caveat reports that it is not."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.image_sets import open_images
from diffusion_jax.evaluation.classes import Classes, Sampled, known_classes, match, sampled_classes
from diffusion_jax.evaluation.eval_set import EvalSet
from diffusion_jax.evaluation.feature_stats import FeatureStats
from diffusion_jax.evaluation.frechet import moments
from tests.errors import refused

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
NO_STATS = FeatureStats()
NAMES = ('cat', 'ant', 'bee')  # of labels 0, 1, 2 of the samples: not in the order of the alphabet


@pytest.fixture
def folder(tmp_path):
    """Twelve images, image i in the sub-folder of class NAMES[i % 3]."""
    for i, image in enumerate(IMAGES):
        path = tmp_path / 'images' / NAMES[i % 3] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / 'images'


def archive(tmp_path, labels):
    np.savez(tmp_path / 'x.npz', *([IMAGES] if labels is None else [IMAGES, labels]))
    return open_images(tmp_path / 'x.npz')


def matched(images, sampled, *, stats=NO_STATS, **options):
    directory = options.pop('directory', None)
    return match(sampled, EvalSet('x', images, stats, directory), known_classes(images), **options)


def rows(eval_set):
    return {image.tobytes() for image in eval_set.images.read_all()}


def test_sub_folders_are_matched_by_name(folder, tmp_path):
    cats = matched(open_images(folder), Sampled((0,), 3, NAMES), directory=tmp_path / 'x')
    assert rows(cats) == {image.tobytes() for image in IMAGES[::3]}  # of cats, not of ants
    assert '1 of 3 classes (cat)' in cats.classes and 'names' in cats.classes and not cats.caveats
    ants = matched(open_images(folder), Sampled((1,), 3, NAMES), directory=tmp_path / 'x')
    assert len({tmp_path / 'x', cats.directory, ants.directory}) == 3  # features are kept apart


def test_labels_without_names_are_matched_by_number_with_a_caveat(tmp_path):
    restricted = matched(archive(tmp_path, np.arange(12) % 4), Sampled((1, 2), 4))
    assert rows(restricted) == {IMAGES[i].tobytes() for i in range(12) if i % 4 in (1, 2)}
    assert 'numbers' in restricted.classes and 'numbers' in restricted.caveats[0]


@pytest.mark.parametrize('names', [(), ('cat', 'ant', 'dog')])
def test_names_are_never_guessed(folder, names):
    unrestricted = matched(open_images(folder), Sampled((2,), 3, names))
    assert len(unrestricted.images) == 12 and not unrestricted.classes
    assert '1 of 3 classes' in unrestricted.caveats[0]


def test_a_reference_that_cannot_be_restricted_gets_a_caveat_or_is_refused(tmp_path):
    some, four = Sampled((0, 1), 4), np.arange(12) % 4
    statistics = FeatureStats(0, moments(np.random.default_rng(0).normal(size=(9, 3))))
    for reason, labels, sampled, stats in (
        ('unknown', None, some, NO_STATS),
        ('mu and sigma', four, some, statistics),
        ('no image of 1', four // 2 * 2, some, NO_STATS),
        ('only 2 images', np.arange(12) % 6, Sampled((5,), 6), NO_STATS),
    ):
        images = archive(tmp_path, labels)
        unrestricted = matched(images, sampled, stats=stats)
        (caveat,) = unrestricted.caveats
        assert f' of {sampled.num_classes} classes (' in caveat and reason in caveat
        assert unrestricted.images is images and not unrestricted.classes
        with refused('--same-classes', reason):
            matched(images, sampled, stats=stats, same_classes=True)
    (caveat,) = matched(archive(tmp_path, four), some, same_classes=False).caveats
    assert '--same-classes' in caveat
    with refused('--same-classes'):
        matched(images, None, same_classes=True)


def test_the_same_classes_need_no_caveat(tmp_path):
    every = Sampled((0, 1, 2, 3), 4)
    for labels in (np.arange(12) % 4, None):
        images = archive(tmp_path, labels)
        for sampled in (every, None):
            reference = matched(images, sampled)
            assert reference.images is images and not reference.classes and not reference.caveats
    with refused('--same-classes', 'unknown'):
        matched(images, every, same_classes=True)


def test_number_of_classes():
    two, four = Classes(np.array([0, 1, 1])), Classes(np.arange(12) % 4)
    assert sampled_classes(None, four) is None
    assert sampled_classes(two, None) == ((0, 1), 2, ())
    assert sampled_classes(two, four) == ((0, 1), 4, ())
    assert sampled_classes(two._replace(names=NAMES), four) == ((0, 1), 3, NAMES)
    assert sampled_classes(Classes(np.array([7])), None) == ((7,), 8, ())
    assert sampled_classes(four, two).all
