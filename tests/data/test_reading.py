"""How image files become pixels: orientation, transparency, formats, and what is refused."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.image_sets import open_images
from diffusion_jax.data.image_sets.source import open_split
from diffusion_jax.data.sources import make_source
from diffusion_jax.data.sources.reading import UnreadableImage, read_header, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
ORIENTATION = 0x112
HALF = np.where(np.arange(9) < 4, 0, 255).astype(np.uint8) * np.ones((6, 1), np.uint8)  # transparent, opaque


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['png', 'webp', 'tiff', 'jpg'])
def test_the_orientation_is_applied(tmp_path, suffix, orientation):
    path = str(tmp_path / f'x.{suffix}')
    options = {'png': {}, 'tiff': {}, 'webp': {'lossless': True}}.get(suffix, {'quality': 100})
    Image.fromarray(PIXELS).save(path, exif=exif(orientation), **options)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    turned = orientation > 4
    assert expected.shape == ((9, 6, 3) if turned else (6, 9, 3))
    image = read_image(path, 3)
    np.testing.assert_array_equal(image, expected)
    assert read_header(path) == (image.shape[1::-1], 'RGB')
    if suffix in ('png', 'tiff', 'webp'):
        turn = {1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1]}
        turn |= {n: turn[m].swapaxes(0, 1) for n, m in ((5, 1), (6, 4), (7, 3), (8, 2))}
        np.testing.assert_array_equal(image, turn[orientation])


def test_damaged_exif_data_do_not_matter(tmp_path):
    path = str(tmp_path / 'x.png')
    Image.fromarray(PIXELS).save(path, exif=b'Exif\0\0garbage')
    np.testing.assert_array_equal(read_image(path, 3), PIXELS)


def transparent(mode):
    """An image whose left part is transparent over pixels that must not be seen, and how to save it."""
    rgba = Image.fromarray(np.concatenate([PIXELS, HALF[..., None]], axis=-1))
    if mode == 'P':  # entry 0 of the palette is transparent
        image = Image.fromarray(np.where(HALF == 0, 0, 1).astype(np.uint8), 'P')
        image.putpalette([10, 20, 30, 40, 50, 60])
        return image, {'transparency': 0}
    if mode == 'L':  # one grey level is transparent
        return Image.fromarray(np.where(HALF == 0, 7, PIXELS[..., 0] | 8)), {'transparency': 7}
    if mode == 'RGB':
        pixels = np.where(HALF[..., None] == 0, 7, PIXELS | 8)
        return Image.fromarray(pixels), {'transparency': (7, 7, 7)}
    return rgba.convert(mode), {}


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize(
    ('mode', 'suffix'),
    [
        ('RGBA', 'png'),
        ('RGBA', 'webp'),
        ('LA', 'png'),
        ('P', 'png'),
        ('P', 'gif'),
        ('L', 'png'),
        ('RGB', 'png'),
        ('RGBA', 'tga'),
    ],
)
def test_transparent_pixels_are_put_on_white(tmp_path, mode, suffix, channels):
    path = str(tmp_path / f'x.{suffix}')
    image, options = transparent(mode)
    image.save(path, **options | ({'lossless': True} if suffix == 'webp' else {}))
    pixels = read_image(path, channels)
    assert pixels.shape == (6, 9, channels)
    assert (pixels[:, :4] == 255).all()
    opaque = np.asarray(image.convert('RGBA').convert('RGB').convert({1: 'L', 3: 'RGB'}[channels]))
    np.testing.assert_array_equal(pixels[:, 4:], opaque.reshape(6, 9, channels)[:, 4:])


def test_partly_transparent_pixels_are_mixed_with_white(tmp_path):
    path = str(tmp_path / 'x.png')
    Image.new('RGBA', (2, 2), (0, 100, 200, 51)).save(path)
    np.testing.assert_array_equal(read_image(path, 3)[0, 0], [204, 224, 244])
    Image.new('RGBA', (2, 2), (0, 0, 0, 254)).save(path)
    np.testing.assert_array_equal(read_image(path, 3)[0, 0], [1, 1, 1])


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
@pytest.mark.parametrize('channels', [1, 3])
def test_opaque_images_with_an_alpha_channel_lose_it(tmp_path, mode, channels):
    path = str(tmp_path / 'x.tiff')
    image = Image.fromarray(PIXELS).convert('RGBA').convert(mode)
    image.save(path)
    expected = np.asarray(image.convert({1: 'L', 3: 'RGB'}[channels])).reshape(6, 9, channels)
    np.testing.assert_array_equal(read_image(path, channels), expected)


@pytest.mark.parametrize('suffix', ['bmp', 'tif', 'webp', 'ppm', 'tga', 'jp2', 'jfif', 'mpo', 'sgi', 'pcx'])
def test_training_and_evaluation_read_every_format_alike(tmp_path, suffix):
    for name in ('train/a/1', 'train/b/2', 'test/a/3'):
        path = tmp_path / f'{name}.{suffix.upper()}'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[:6, :6]).save(path)
    config = DataConfig('folder', path=str(tmp_path), num_classes=2, image_size=(6, 6), image_channels=3)
    train = make_source(config, 'train')
    assert len(train) == 2
    split, folder = open_split(config, 'train'), open_images(tmp_path / 'train', (6, 6))
    for images in (split, folder):
        (part,) = images.parts
        read = images.read(part)
        assert not read.unreadable
        np.testing.assert_array_equal(read.images, [train[0]['image']] * 2)
    assert len(make_source(dataclasses.replace(config, labels='none', num_classes=1), 'test')) == 1


@pytest.mark.parametrize(
    ('pixels', 'suffix'),
    [
        (PIXELS[..., 0].astype(np.uint16) * 256, 'png'),
        (PIXELS[..., 0].astype(np.int32), 'tiff'),
        (PIXELS[..., 0].astype(np.float32), 'tiff'),
    ],
)
def test_more_than_eight_bits_are_refused(tmp_path, pixels, suffix):
    path = str(tmp_path / f'deep.{suffix}')
    Image.fromarray(pixels).save(path)
    with pytest.raises(UnreadableImage, match=rf'deep.{suffix}: .*8 bits'):
        read_image(path, 3)


@pytest.mark.parametrize('suffix', ['bmp', 'tif', 'webp', 'tga', 'jp2', 'psd', 'ico', 'pcx', 'gif'])
@pytest.mark.parametrize('size', [0, 20, 200])
def test_damaged_files_of_every_format_are_named(tmp_path, suffix, size):
    path = tmp_path / f'x.{suffix}'
    if suffix == 'psd':
        path.write_bytes(b'8BPS\0\1' + bytes(range(256)) * 4)
    else:
        Image.fromarray(np.tile(PIXELS, (9, 9, 1))).save(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UnreadableImage, match=rf'x.{suffix}: '):
        read_image(str(path), 3)
    read_header(str(path))


def test_a_name_that_is_not_utf8_is_escaped(tmp_path):
    path = bytes(tmp_path) + b'/caf\xe9.png'
    with open(path, 'wb') as file:
        file.write(b'garbage')
    with pytest.raises(UnreadableImage) as error:
        read_image(os.fsdecode(path), 3)
    assert 'caf\\xe9.png: ' in str(error.value)
    str(error.value).encode()
