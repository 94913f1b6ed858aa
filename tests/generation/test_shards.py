"""Samples in shards, and as one file of the authors' format."""

import numpy as np
import pytest

from diffusion_jax.data.image_sets.archive import open_archive, open_samples
from diffusion_jax.generation.shards import draw_samples, join
from diffusion_jax.report import Progress


def draw(index):
    """Images that say which they are."""
    return np.broadcast_to(index[:, None, None, None], (len(index), 2, 2, 1)).astype(np.uint8), (
        index % 3
    ).astype(np.int32)


@pytest.fixture
def run(tmp_path):
    def run(draw=draw):
        draw_samples(tmp_path, Progress('test', 10), draw, 10, 4, lambda: False)
        return open_samples(tmp_path)

    return run


def test_the_last_batch_is_sampled_completely_and_cut(run):
    sizes = []

    def watched(index):
        sizes.append(len(index))
        return draw(index)

    samples = run(watched)
    assert sizes == [4, 4, 4]
    images = samples.read_all()
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(10))
    np.testing.assert_array_equal(samples.labels, np.arange(10) % 3)
    assert images.dtype == np.uint8 and samples.labels.dtype == np.int64


def test_one_file_holds_all_shards(run, tmp_path):
    run()
    (tmp_path / '.samples.npz.123.tmp').write_bytes(b'of a run that was killed')
    join(tmp_path, tmp_path / 'samples.npz')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['samples.npz', 'shards']
    with np.load(tmp_path / 'samples.npz') as file:  # as the authors' evaluator reads it
        np.testing.assert_array_equal(file['arr_0'][:, 1, 1, 0], np.arange(10))
        np.testing.assert_array_equal(file['arr_1'], np.arange(10) % 3)
    mapped = open_archive(tmp_path / 'samples.npz')
    np.testing.assert_array_equal(mapped.images[:, 1, 1, 0], np.arange(10))


def test_some_images_are_taken_in_any_order(run):
    np.testing.assert_array_equal(run().take(np.array([9, 0, 4, 3, 5, 5]))[:, 0, 0, 0], [9, 0, 4, 3, 5, 5])
