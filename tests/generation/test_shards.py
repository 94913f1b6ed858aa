import numpy as np
import pytest

from diffusion_jax.generation.shards import draw_samples, load_samples
from diffusion_jax.interruption import Interrupted
from diffusion_jax.report import Progress


def draw(index):
    """Images that say which they are."""
    return np.broadcast_to(index[:, None, None, None], (len(index), 2, 2, 1)).astype(np.uint8), index % 3


def run(directory, num_samples=10, batch_size=4, stop=lambda: False, draw=draw):
    with Progress('test', num_samples) as progress:
        draw_samples(directory, draw, num_samples, batch_size, progress, stop)
    return load_samples(directory / 'samples.npz')


def test_the_last_batch_is_drawn_whole_and_cut(tmp_path):
    sizes = []

    def watched(index):
        sizes.append(len(index))
        return draw(index)

    images, labels = run(tmp_path, draw=watched)
    assert sizes == [4, 4, 4]
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(10))
    np.testing.assert_array_equal(labels, np.arange(10) % 3)
    assert images.dtype == np.uint8 and labels.dtype == np.int64
    assert [path.name for path in tmp_path.iterdir()] == ['samples.npz']


@pytest.mark.parametrize('done', [0, 1, 2])
def test_a_stopped_run_draws_only_what_is_missing(tmp_path, done):
    answers = iter([False] * done + [True])
    with pytest.raises(Interrupted, match=rf'stopped after {4 * done} of 10 samples'):
        run(tmp_path, stop=lambda: next(answers))
    assert not (tmp_path / 'samples.npz').exists()
    drawn = []

    def watched(index):
        drawn.extend(index)
        return draw(index)

    images, _ = run(tmp_path, draw=watched)
    assert drawn == list(range(4 * done, 12))
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(10))


def test_what_a_killed_run_wrote_half_is_not_used(tmp_path):
    (tmp_path / 'shards').mkdir()
    (tmp_path / 'shards' / '.00000000.npz.123.tmp').write_bytes(b'half')
    images, _ = run(tmp_path)
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(10))
