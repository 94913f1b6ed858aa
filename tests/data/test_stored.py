"""Stored images: every kind is read whole and in order, and what cannot be used is named."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.stored import open_images
from diffusion_jax.data.stored.archive import read_archive
from diffusion_jax.data.stored.chosen import choose
from diffusion_jax.data.stored.source import open_split
from diffusion_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 6, 5, 3), np.uint8)


def read_all(images):
    return np.concatenate([images.read(part).images for part in images.parts])


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        Image.fromarray(IMAGES[i]).save(tmp_path / f'{i}.png')
    return tmp_path


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_an_npz_is_read_in_parts(tmp_path, save):
    save(tmp_path / 'x.npz', IMAGES, np.arange(300))
    images = open_images(tmp_path / 'x.npz')
    assert [part[:2] for part in images.parts] == [(0, 128), (128, 256), (256, 300)]
    np.testing.assert_array_equal(images.take(np.array([299, 3])), IMAGES[[299, 3]])
    np.testing.assert_array_equal(read_all(images), IMAGES)
    np.testing.assert_array_equal(images.labels, np.arange(300))
    assert isinstance(images.images, np.memmap) == (save is np.savez)


def test_other_layouts_are_mapped_right(tmp_path):
    arrays = {
        'f': np.asfortranarray(IMAGES),
        'scalar': np.array(3.0),
        'empty': np.zeros((0, 2)),
        'x': IMAGES[0],
    }
    np.savez(tmp_path / 'x.npz', **arrays)
    for name, array in read_archive(tmp_path / 'x.npz', arrays).items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'mu': np.zeros(3)}, 'has no images'),
        ({'arr_0': IMAGES.astype(np.float32) / 255}, r'arr_0 is float32 .* uint8 from 0 to 255'),
        ({'arr_0': IMAGES.transpose(0, 3, 1, 2)}, 'channels last'),
        ({'arr_0': IMAGES[:0]}, r'arr_0 is uint8 \[0, 6, 5, 3\]'),
        ({'arr_0': IMAGES, 'arr_1': np.zeros(2, int)}, r'arr_1 is int64 \[2\]; .* each of the 300 images'),
        ({'arr_0': IMAGES, 'arr_1': np.arange(300) - 1}, r'arr_1 has the label -1'),
        ({'arr_0': np.zeros((9, 3))}, r'arr_0 is float64 \[9, 3\]; .* as `features`'),
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / 'x.npz', **arrays)
    with pytest.raises(UserError, match=rf'x.npz: .*{message}'):
        open_images(tmp_path / 'x.npz')


def test_an_npz_that_is_not_whole_is_refused(tmp_path):
    path = tmp_path / 'x.npz'
    with pytest.raises(UserError, match='no such file'):
        open_images(path)
    np.savez(path, IMAGES)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match='not whole'):
        open_images(path)


ORDER = [2, 0, 1, 3]  # in which the four images of a folder are read


def test_a_folder_is_read_in_one_random_order(folder):
    np.testing.assert_array_equal(read_all(open_images(folder)), IMAGES[ORDER])
    np.testing.assert_array_equal(open_images(folder).take(np.array([3, 0])), IMAGES[[ORDER[3], ORDER[0]]])


def test_images_of_other_sizes_are_named_before_any_work(folder):
    Image.fromarray(IMAGES[0, :4]).save(folder / '9.png')
    with pytest.raises(UserError, match=r'9.png: has 5×4 pixels; 4 of the 5 images .* have 5×6; .* a size'):
        open_images(folder)
    assert read_all(open_images(folder, (4, 4))).shape == (5, 4, 4, 3)


def test_damaged_images_are_left_out_and_named_and_transparent_ones_are_on_white(folder):
    (folder / '1.png').write_bytes((folder / '1.png').read_bytes()[:60])
    Image.fromarray(np.concatenate([IMAGES[2], np.zeros((6, 5, 1), np.uint8)], axis=-1)).save(
        folder / '2.png'
    )
    images = open_images(folder)
    rows = images.read(images.parts[0])
    np.testing.assert_array_equal(rows.images, [np.full_like(IMAGES[2], 255), IMAGES[0], IMAGES[3]])
    (damaged,) = rows.left_out
    assert '1.png: cannot be read' in damaged
    with pytest.raises(UserError, match='1.png: .*repair or remove it'):
        images.take(np.array([ORDER.index(1)]))


def test_an_image_that_is_turned_has_the_size_of_the_others(folder):
    tags = Image.Exif()
    tags[0x112] = 6
    Image.fromarray(IMAGES[2].swapaxes(0, 1)[::-1]).save(folder / '2.png', exif=tags)
    np.testing.assert_array_equal(read_all(open_images(folder)), IMAGES[ORDER])


def test_what_is_no_image_is_counted(folder):
    assert open_images(folder).skipped == ''
    (folder / 'notes.txt').touch()
    (folder / 'again.png').symlink_to('1.png')
    images = open_images(folder)
    np.testing.assert_array_equal(read_all(images), IMAGES[ORDER])
    assert 'skipped 2 files' in images.skipped and '(notes.txt)' in images.skipped
    config = DataConfig('folder', path=str(folder), train_split='', labels='none', num_classes=1)
    assert open_split(config, 'train').skipped == images.skipped


def test_names_that_are_not_utf8_are_read(folder):
    os.rename(folder / '3.png', os.path.join(bytes(folder), b'caf\xe9.png'))
    open(os.path.join(bytes(folder), b'caf\xea.png'), 'w').close()
    for images in (
        open_images(folder),
        open_split(
            DataConfig(
                'folder', str(folder), train_split='', labels='none', num_classes=1, image_size=(6, 5)
            ),
            'train',
        ),
    ):
        (part,) = images.parts
        rows = images.read(part)
        assert len(rows.images) == 4
        (reason,) = rows.left_out
        assert 'caf\\xea.png: ' in reason
        (part.identity + images.name + reason).encode()


def test_settings_of_how_images_are_read_change_no_identity(folder):
    config = DataConfig('folder', str(folder), train_split='', labels='none', num_classes=1)
    other = dataclasses.replace(config, on_error='skip', max_skipped=3, check_files=True, num_workers=2)
    assert open_split(config, 'train').parts == open_split(other, 'train').parts


def test_opaque_alpha_and_grey_become_rgb(folder, caplog):
    opaque = np.concatenate([IMAGES[2], np.full((6, 5, 1), 255, np.uint8)], axis=-1)
    Image.fromarray(opaque).save(folder / '2.png')
    Image.fromarray(IMAGES[3, ..., 0]).save(folder / '3.png')
    images = read_all(open_images(folder))
    np.testing.assert_array_equal(images[ORDER.index(2)], IMAGES[2])
    np.testing.assert_array_equal(images[ORDER.index(3)], IMAGES[3, ..., :1].repeat(3, axis=-1))
    assert '3.png: is grey, as are 1 of 4 images' in caplog.text


def test_only_parts_with_changed_files_change_their_identity(folder):
    before = open_images(folder).parts
    assert open_images(folder).parts == before
    Image.fromarray(IMAGES[5]).save(folder / '0.png')
    assert open_images(folder).parts != before


def test_a_split_is_what_networks_see():
    images = open_split(DataConfig('digits'), 'test')
    assert read_all(images).shape == (297, 8, 8, 1)
    assert images.parts[0].identity != open_split(DataConfig('digits'), 'train').parts[0].identity


def test_some_images_of_an_npz_are_chosen(tmp_path):
    np.savez(tmp_path / 'x.npz', IMAGES, np.arange(300) % 7)
    images = open_images(tmp_path / 'x.npz')
    some, others = (choose(images, images.labels == label) for label in (2, 3))
    np.testing.assert_array_equal(read_all(some), IMAGES[2::7])
    np.testing.assert_array_equal(some.labels, 2)
    assert [part[:2] for part in some.parts] == [(0, 43)]
    assert some.parts[0].identity != others.parts[0].identity
    np.savez(tmp_path / 'x.npz', IMAGES[::-1], np.arange(300) % 7)
    assert choose(open_images(tmp_path / 'x.npz'), images.labels == 2).parts != some.parts


def test_some_files_of_a_folder_are_chosen(folder):
    (folder / '1.png').write_bytes(b'no image')
    some = choose(open_images(folder), np.array([True, False, True, True]))
    rows = some.read(some.parts[0])
    np.testing.assert_array_equal(rows.images, IMAGES[[ORDER[0], ORDER[3]]])
    assert '1.png' in rows.left_out[0] and rows.places.tolist() == [0, 2]
    before = some.parts
    Image.fromarray(IMAGES[5]).save(folder / '3.png')
    assert choose(open_images(folder), np.array([True, False, True, True])).parts != before


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match='no image there'):
        open_images(tmp_path)
