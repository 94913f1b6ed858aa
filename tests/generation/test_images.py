"""Stored samples as PNG files."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.commands import images as command
from diffusion_jax.data.image_sets.archive import open_samples
from diffusion_jax.generation.images import write_pngs
from diffusion_jax.generation.shards import draw_samples
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import Progress
from diffusion_jax.workdir import write_npz
from tests.errors import refused


def pixels(number, channels):
    return np.random.default_rng(channels).integers(0, 256, (number, 4, 6, channels)).astype(np.uint8)


@pytest.fixture(params=[1, 3, 4])
def samples(request, tmp_path):
    """A folder of ten samples in three shards, and their images."""
    images = pixels(12, request.param)
    draw_samples(
        tmp_path / 'samples', Progress('test', 10), lambda i: (images[i], i % 3), 10, 4, lambda: False
    )
    return tmp_path / 'samples', images[:10]


def call(*arguments):
    return command.main(['diffusion-jax images', *map(str, arguments)])


def test_every_sample_is_a_file_named_after_its_index_and_label(samples, tmp_path):
    folder, images = samples
    assert call(folder, '--out', tmp_path / 'png') == 0
    paths = sorted((tmp_path / 'png').iterdir())
    assert [path.name for path in paths[:4]] == [f'00000{i}_{i % 3}.png' for i in range(4)] and len(
        paths
    ) == 10
    for path, image in zip(paths, images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)).reshape(image.shape), image)


def test_a_folder_of_shards_and_an_npz_will_do(samples, tmp_path):
    folder, images = samples
    write_npz(tmp_path / 'all.npz', arr_0=images)
    assert (
        call(tmp_path / 'all.npz', '--out', tmp_path / 'a')
        == call(folder / 'shards', '--out', tmp_path / 'b')
        == 0
    )
    assert (tmp_path / 'a' / '000009.png').read_bytes() == (tmp_path / 'b' / '000009_0.png').read_bytes()


def test_what_is_missing_is_written_and_nothing_is_overwritten(samples, tmp_path):
    folder, images = samples
    out, asked = tmp_path / 'png', []
    with pytest.raises(Interrupted, match='after 4 of 10'):
        write_pngs(open_samples(folder), out, lambda: asked.append(1) or len(asked) > 4)
    assert len(list(out.iterdir())) == 4
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert call(folder, '--out', out) == 0
    assert len(list(out.iterdir())) == 10 and all(path.stat().st_mtime_ns == t for path, t in times.items())
    write_npz(tmp_path / 'other.npz', arr_0=255 - images, arr_1=np.arange(10) % 3)
    with refused('000000_0.png', 'other.npz'):
        call(tmp_path / 'other.npz', '--out', out)
    (out / 'cat.png').write_bytes(b'')
    with refused(str(out), 'cat.png'):
        call(folder, '--out', out)


def test_names_are_without_labels_where_images_are_of_no_class(samples, tmp_path):
    write_pngs(open_samples(samples[0]), tmp_path / 'png', lambda: False, labelled=False)
    assert sorted(path.name for path in (tmp_path / 'png').iterdir())[-1] == '000009.png'


def test_folders_and_files_of_something_else_are_refused(samples, tmp_path):
    with refused(str(tmp_path / 'png'), 'sample'):
        (tmp_path / 'png').mkdir()
        call(tmp_path / 'png', '--out', tmp_path / 'out')
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='file'):
        call(samples[0], '--out', tmp_path / 'file')
