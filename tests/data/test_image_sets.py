"""Sets of images: every kind is read completely and in order, and what cannot be used is named."""

import dataclasses
import errno
import os

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.image_sets import open_images
from diffusion_jax.data.image_sets.base import TREATMENT
from diffusion_jax.data.image_sets.source import open_split
from diffusion_jax.data.npz import read_archive, read_array
from tests.errors import refused

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 6, 5, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        Image.fromarray(IMAGES[i]).save(tmp_path / f'{i}.png')
    return tmp_path


def config_of(folder, **settings):
    return DataConfig(
        'folder', str(folder), train_split='', labels='none', num_classes=1, image_size=(6, 5), **settings
    )


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_an_npz_is_read_in_parts(tmp_path, save):
    save(tmp_path / 'x.npz', IMAGES, np.arange(300))
    images = open_images(tmp_path / 'x.npz')
    assert len(images) == 300
    assert [part[:2] for part in images.parts] == [(0, 128), (128, 256), (256, 300)]
    np.testing.assert_array_equal(images.take(np.array([299, 3])), IMAGES[[299, 3]])
    np.testing.assert_array_equal(images.read_all(), IMAGES)
    np.testing.assert_array_equal(images.labels, np.arange(300))
    assert isinstance(images.images, np.memmap) == (save is np.savez)


def test_any_layout_is_mapped(tmp_path):
    arrays = {
        'f': np.asfortranarray(IMAGES),
        'scalar': np.array(3.0),
        'empty': np.zeros((0, 2)),
        'x': IMAGES[0],
    }
    np.savez(tmp_path / 'x.npz', **arrays)
    read = read_archive(tmp_path / 'x.npz', [*arrays, 'other'])
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_objects_are_never_unpickled(tmp_path):
    array = np.array([{}, None], object)
    np.savez(tmp_path / 'x.npz', x=array)
    with refused('x.npz'):
        read_archive(tmp_path / 'x.npz', ['x'])
    np.save(tmp_path / 'x.npy', array)
    with refused('x.npy'):
        read_array(tmp_path / 'x.npy')


@pytest.mark.parametrize(
    ('arrays', 'values'),
    [
        ({'mu': np.zeros(3)}, ['arr_0', 'mu']),
        ({'arr_0': IMAGES.astype(np.float32) / 255}, ['arr_0 is float32', 'uint8']),
        ({'arr_0': IMAGES.transpose(0, 3, 1, 2)}, ['arr_0', '[300, 3, 6, 5]', '[N, H, W, 3]']),
        ({'arr_0': IMAGES[..., :2]}, ['arr_0', '[300, 6, 5, 2]']),
        ({'arr_0': IMAGES[:0]}, ['arr_0', '[0, 6, 5, 3]']),
        ({'arr_0': IMAGES, 'arr_1': np.zeros(2, int)}, ['arr_1 is int64 [2]', '300']),
        ({'arr_0': IMAGES, 'arr_1': np.zeros(300)}, ['arr_1 is float64']),
        ({'arr_0': IMAGES, 'arr_1': np.arange(300) - 1}, ['arr_1', '-1']),
        ({'arr_0': np.zeros((9, 3))}, ['arr_0 is float64 [9, 3]', '`features`']),
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path, arrays, values):
    np.savez(tmp_path / 'x.npz', **arrays)
    with refused('x.npz', *values):
        open_images(tmp_path / 'x.npz')


def test_an_npz_that_is_not_intact_is_refused(tmp_path):
    path = tmp_path / 'x.npz'
    with refused('x.npz'):
        open_images(path)
    np.savez(path, IMAGES)
    path.write_bytes(path.read_bytes()[:-100])
    with refused('x.npz', 'is no npz file'):
        open_images(path)


def test_an_npz_that_the_system_does_not_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    np.savez(tmp_path / 'x.npz', IMAGES)
    monkeypatch.setattr('zipfile.ZipFile', refuse)
    with refused('x.npz', 'cannot be read (Permission denied)'):
        open_images(tmp_path / 'x.npz')


ORDER = [2, 0, 1, 3]  # in which the four images of a folder are read


def test_a_folder_is_read_in_one_random_order(folder):
    np.testing.assert_array_equal(open_images(folder).read_all(), IMAGES[ORDER])
    np.testing.assert_array_equal(open_images(folder).take(np.array([3, 0])), IMAGES[[ORDER[3], ORDER[0]]])


def test_images_of_other_sizes_are_named_before_any_work(folder):
    Image.fromarray(IMAGES[0, :4]).save(folder / '9.png')
    with refused('9.png', '5×4', '4 of the 5 images', '5×6', '--size'):
        open_images(folder)
    assert open_images(folder, (4, 4)).read_all().shape == (5, 4, 4, 3)


def test_unreadable_images_are_named_and_transparent_ones_are_on_white(folder):
    (folder / '1.png').write_bytes((folder / '1.png').read_bytes()[:60])
    rgba = np.concatenate([IMAGES[2], np.zeros((6, 5, 1), np.uint8)], axis=-1)
    Image.fromarray(rgba).save(folder / '2.png')
    images = open_images(folder)
    read = images.read(images.parts[0])
    np.testing.assert_array_equal(read.images, [np.full_like(IMAGES[2], 255), IMAGES[0], IMAGES[3]])
    assert read.positions.tolist() == [0, 1, 3]
    (unreadable,) = read.unreadable
    assert unreadable.startswith(f'{folder}/1.png: ') and 'on_error' not in unreadable
    with refused('1.png', 'remove'):
        images.take(np.array([ORDER.index(1)]))


def test_an_image_that_is_turned_has_the_size_of_the_others(folder):
    tags = Image.Exif()
    tags[0x112] = 6
    Image.fromarray(IMAGES[2].swapaxes(0, 1)[::-1]).save(folder / '2.png', exif=tags)
    np.testing.assert_array_equal(open_images(folder).read_all(), IMAGES[ORDER])


def test_files_that_are_no_images_are_counted(folder):
    assert open_images(folder).source.skipped == ''
    (folder / 'notes.txt').touch()
    (folder / 'again.png').symlink_to('1.png')
    images = open_images(folder)
    np.testing.assert_array_equal(images.read_all(), IMAGES[ORDER])
    assert '2 files' in images.source.skipped and '(notes.txt)' in images.source.skipped
    assert open_split(config_of(folder), 'train').source.skipped == images.source.skipped


def test_names_that_are_not_utf8_are_read(folder):
    os.rename(folder / '3.png', os.path.join(bytes(folder), b'caf\xe9.png'))
    open(os.path.join(bytes(folder), b'caf\xea.png'), 'w').close()
    for images in (open_images(folder), open_split(config_of(folder), 'train')):
        (part,) = images.parts
        read = images.read(part)
        assert len(read.images) == 4
        (unreadable,) = read.unreadable
        assert 'caf\\xea.png: ' in unreadable
        (part.identity + images.name + unreadable).encode()


def test_opaque_alpha_and_grey_become_rgb(folder, caplog):
    opaque = np.concatenate([IMAGES[2], np.full((6, 5, 1), 255, np.uint8)], axis=-1)
    Image.fromarray(opaque).save(folder / '2.png')
    Image.fromarray(IMAGES[3, ..., 0]).save(folder / '3.png')
    images = open_images(folder).read_all()
    np.testing.assert_array_equal(images[ORDER.index(2)], IMAGES[2])
    np.testing.assert_array_equal(images[ORDER.index(3)], IMAGES[3, ..., :1].repeat(3, axis=-1))
    assert '3.png' in caplog.text and '1 of 4' in caplog.text


def test_images_smaller_than_the_crop_are_reported(folder, caplog):
    open_images(folder, (6, 5))
    assert 'enlarged' not in caplog.text
    open_images(folder, (6, 6))
    assert 'enlarged' in caplog.text and '4 of 4' in caplog.text


def test_a_split_is_cropped_as_networks_see_it(folder):
    images = open_split(dataclasses.replace(config_of(folder), image_size=(4, 4)), 'train')
    assert images.read_all().shape == (4, 4, 4, 1)
    assert open_split(DataConfig('digits'), 'test').read_all().shape == (297, 8, 8, 1)


# Identity: features of a part are computed again where it differs


def identities(images):
    return [part.identity for part in images.parts]


@pytest.fixture
def many(tmp_path):
    """A folder of 130 images, two parts."""
    for i in range(130):
        Image.new('L', (2, 2), i).save(tmp_path / f'{i:03}.png')
    return tmp_path


@pytest.mark.parametrize(
    'open_them',
    [open_images, lambda folder: open_split(config_of(folder), 'train')],
    ids=['folder', 'split'],
)
def test_only_the_part_with_a_changed_file_changes_its_identity(many, open_them):
    images = open_them(many)
    before = identities(images)
    assert len(set(before)) == 2 and identities(open_them(many)) == before
    os.utime(images.source.paths[129], (0, 0))
    assert [a == b for a, b in zip(identities(open_them(many)), before, strict=True)] == [True, False]


def test_what_images_are_cropped_to_and_their_split_change_identities(folder):
    sizes = [None, (4, 4), (4, 5)]
    assert len({identities(open_images(folder, size))[0] for size in sizes}) == 3
    assert TREATMENT in identities(open_images(folder))[0]
    config = config_of(folder)
    other = dataclasses.replace(config, image_size=(4, 4))
    assert identities(open_split(config, 'train')) != identities(open_split(other, 'train'))
    digits = DataConfig('digits')
    assert identities(open_split(digits, 'test'))[0] != identities(open_split(digits, 'train'))[0]


def test_settings_of_how_images_are_read_change_no_identity(folder):
    other = config_of(folder, on_error='skip', max_skipped=3, check_files=True, num_workers=2)
    assert identities(open_split(config_of(folder), 'train')) == identities(open_split(other, 'train'))


# Some images of a set


def test_some_images_of_an_npz_are_chosen(tmp_path):
    np.savez(tmp_path / 'x.npz', IMAGES, np.arange(300) % 7)
    images = open_images(tmp_path / 'x.npz')
    some, others = (images.choose(images.labels == label) for label in (2, 3))
    np.testing.assert_array_equal(some.read_all(), IMAGES[2::7])
    np.testing.assert_array_equal(some.labels, 2)
    assert [part[:2] for part in some.parts] == [(0, 43)]
    assert identities(some) != identities(others)
    np.savez(tmp_path / 'x.npz', IMAGES[::-1], np.arange(300) % 7)
    assert identities(open_images(tmp_path / 'x.npz').choose(images.labels == 2)) != identities(some)


def test_some_files_of_a_folder_are_chosen(folder):
    (folder / '1.png').write_bytes(b'no image')
    chosen = np.array([True, False, True, True])
    some = open_images(folder).choose(chosen)
    read = some.read(some.parts[0])
    np.testing.assert_array_equal(read.images, IMAGES[[ORDER[0], ORDER[3]]])
    assert '1.png' in read.unreadable[0] and read.positions.tolist() == [0, 2]
    np.testing.assert_array_equal(some.take(np.array([2])), IMAGES[[ORDER[3]]])
    np.testing.assert_array_equal(some.choose(np.arange(3) == 2).read_all(), IMAGES[[ORDER[3]]])
    os.utime(folder / '3.png', (0, 0))
    assert identities(open_images(folder).choose(chosen)) != identities(some)


def test_chosen_images_depend_on_their_own_parts_alone(many):
    images = open_images(many)
    both = [np.arange(130) == 127, np.arange(130) == 128]
    before = [identities(images.choose(chosen)) for chosen in both]
    os.utime(images.source.paths[129], (0, 0))
    images = open_images(many)
    after = [identities(images.choose(chosen)) for chosen in both]
    assert before[0] == after[0] and before[1] != after[1]


def test_an_empty_folder_is_refused(tmp_path):
    with refused(str(tmp_path)):
        open_images(tmp_path)
