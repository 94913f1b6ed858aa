"""Samples of some classes are compared with the same classes, or a remark says that they are not."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.image_sets import open_images
from diffusion_jax.evaluation.classes import (
    Classes,
    Sampled,
    about_classes,
    known_classes,
    match,
    sampled_classes,
)
from diffusion_jax.evaluation.comparison import Side
from diffusion_jax.evaluation.feature_sets import FeatureSet
from diffusion_jax.evaluation.frechet import moments

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
NOTHING = FeatureSet(0)
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


def matched(images, sampled, *, restrict=True, stored=NOTHING):
    side = Side(images.name, images, stored)
    return match(sampled, side, known_classes(images), restrict=restrict)


def rows(images):
    return {image.tobytes() for part in images.parts for image in images.read(part).images}


def test_sub_folders_are_found_by_their_names(folder):
    found = matched(open_images(folder), Sampled((0,), 3, NAMES))
    assert rows(found.side.images) == {image.tobytes() for image in IMAGES[::3]}  # of cats, not of ants
    assert found.by == 'names' and found.side.part
    protocol, remarks = about_classes(found)
    assert '1 of 3 classes (cat)' in protocol['reference_classes'] and not remarks


def test_labels_without_names_are_found_by_their_numbers_and_that_is_reported(tmp_path):
    found = matched(archive(tmp_path, np.arange(12) % 4), Sampled((1, 2), 4))
    assert rows(found.side.images) == {IMAGES[i].tobytes() for i in range(12) if i % 4 in (1, 2)}
    protocol, (remark,) = about_classes(found)
    assert 'numbers' in protocol['reference_classes'] and 'numbers' in remark


@pytest.mark.parametrize('names', [(), ('cat', 'ant', 'dog')])
def test_names_are_never_guessed(folder, names):
    found = matched(open_images(folder), Sampled((2,), 3, names))
    assert found.side.images.parts[-1].stop == 12 and found.unknown
    protocol, (remark,) = about_classes(found)
    assert not protocol and '1 of 3 classes' in remark


def test_what_cannot_be_restricted_is_remarked(tmp_path):
    some, labels = Sampled((0, 1), 4), np.arange(12) % 4
    statistics = FeatureSet(0, moments(np.random.default_rng(0).normal(size=(9, 3))))
    for found, reason in (
        (matched(archive(tmp_path, None), some), 'nothing says the classes'),
        (matched(archive(tmp_path, labels), some, stored=statistics), 'mu and sigma'),
        (matched(archive(tmp_path, labels), some, restrict=False), '--same-classes'),
        (matched(archive(tmp_path, labels // 2 * 2), some), 'no image of 1 of them'),
        (matched(archive(tmp_path, np.arange(12) % 6), some._replace(labels=(5,))), 'only 2 images'),
        (match(some, Side('x.npz', None, statistics), None, restrict=True), 'nothing says the classes'),
    ):
        _, (remark,) = about_classes(found)
        assert ' of 4 classes (' in remark and reason in remark


def test_nothing_is_said_of_the_same_classes(tmp_path):
    every = Sampled((0, 1, 2, 3), 4)
    for labels in (np.arange(12) % 4, None):
        images = archive(tmp_path, labels)
        found = matched(images, every)
        assert found.side.images is images and about_classes(found) == ({}, [])
    assert about_classes(matched(images, None)) == ({}, [])


def test_how_many_classes_there_are():
    two, four = Classes(np.array([0, 1, 1])), Classes(np.arange(12) % 4)
    assert sampled_classes(None, four) is None
    assert sampled_classes(two, None) == ((0, 1), 2, ())
    assert sampled_classes(two, four) == ((0, 1), 4, ())
    assert sampled_classes(two._replace(names=NAMES), four) == ((0, 1), 3, NAMES)
    assert sampled_classes(Classes(np.array([7])), None) == ((7,), 8, ())
    assert sampled_classes(two, four, drawn_from=range(4)).all  # the others are missing by chance
