"""Features in shards: the same whatever was interrupted, left out or computed before."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.image_sets import open_images
from diffusion_jax.evaluation.extraction import extract
from diffusion_jax.evaluation.extractors import FEATURES, SPATIAL, Extractor, pixel_extractor, pixels
from diffusion_jax.evaluation.feature_stats import from_file, from_shards, save_statistics
from diffusion_jax.evaluation.frechet import moments
from diffusion_jax.interruption import Interrupted
from diffusion_jax.shards import shard
from diffusion_jax.workdir import write_npz
from tests.errors import refused

IMAGES = np.random.default_rng(0).integers(0, 256, (600, 3, 2, 3), np.uint8)


def counting(seen, batch_size=100):
    """Two kinds of features, as Inception has, and a list of the batches that were looked at."""

    def apply(images):
        seen.append(len(images))
        return {FEATURES: pixels(images), SPATIAL: pixels(images[:, :2])}

    return Extractor('counting', {}, 18, batch_size, apply)


@pytest.fixture
def stored(tmp_path):
    np.savez(tmp_path / 'x.npz', IMAGES)
    return open_images(tmp_path / 'x.npz')


def test_features_are_those_of_every_image(tmp_path, stored):
    seen = []
    known = from_shards(extract(stored, counting(seen), tmp_path / 'f', lambda: False))
    assert set(seen) == {100}  # one compiled program for all
    np.testing.assert_array_equal(known.features, pixels(IMAGES))
    np.testing.assert_allclose(known.moments.covariance, moments(pixels(IMAGES)).covariance, rtol=1e-9)
    np.testing.assert_allclose(known.spatial.mean, pixels(IMAGES[:, :2]).mean(axis=0, dtype=float))
    assert known.num_images == 600 and not known.unreadable


def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path, stored):
    whole = from_shards(extract(stored, counting([]), tmp_path / 'whole', lambda: False))
    answers = iter([False, True])
    with pytest.raises(Interrupted, match='stopped after 128 of 600'):
        extract(stored, counting([]), tmp_path / 'f', lambda: next(answers))
    seen = []
    resumed = from_shards(extract(stored, counting(seen), tmp_path / 'f', lambda: False))
    assert len(seen) == 7  # 128, 128, 128 and 88 images in batches of 100
    for a, b in zip(whole.moments, resumed.moments, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_is_looked_at_twice_unless_it_changed(tmp_path, stored):
    extract(stored, counting([]), tmp_path / 'f', lambda: False)
    seen = []
    extract(stored, counting(seen), tmp_path / 'f', lambda: False)
    assert not seen
    changed = IMAGES.copy()
    changed[0] = 0
    np.savez(tmp_path / 'x.npz', changed)
    known = from_shards(
        extract(open_images(tmp_path / 'x.npz'), counting(seen), tmp_path / 'f', lambda: False)
    )
    np.testing.assert_array_equal(known.features, pixels(changed))


def test_a_damaged_shard_is_computed_again(tmp_path, stored):
    found = extract(stored, counting([]), tmp_path / 'f', lambda: False)
    found[1].path.write_bytes(found[1].path.read_bytes()[:1000])
    known = from_shards(extract(stored, counting([]), tmp_path / 'f', lambda: False))
    np.testing.assert_array_equal(known.features, pixels(IMAGES))


def test_hosts_share_the_images(tmp_path, stored):
    counts = []
    for host in (1, 0):
        seen = []
        shards = extract(stored, counting(seen, 128), tmp_path / 'f', lambda: False, host=host, num_hosts=2)
        counts.append(len(seen))
    assert counts == [2, 3]  # of 5 parts
    np.testing.assert_array_equal(from_shards(shards).features, pixels(IMAGES))


def test_an_unreadable_image_in_the_first_part_loses_no_other(tmp_path):
    for i in range(300):
        Image.fromarray(IMAGES[i]).save(tmp_path / f'{i:03}.png')
    bad = Path(open_images(tmp_path).source.paths[5])
    bad.write_bytes(b'no image')
    stats = from_shards(extract(open_images(tmp_path), pixel_extractor(), tmp_path / 'f', lambda: False))
    expected = pixels(np.delete(IMAGES[:300], int(bad.stem), axis=0))
    assert {row.tobytes() for row in stats.features} == {row.tobytes() for row in expected}
    assert stats.rows.tolist() == [i for i in range(300) if i != 5]
    np.testing.assert_array_equal(pixels(open_images(tmp_path).take(stats.rows)), stats.features)
    assert stats.num_images == 299 and stats.image_size == (3, 2)
    (reason,) = stats.unreadable
    assert bad.name in reason


def test_too_few_readable_images_are_refused(tmp_path):
    for name in 'ab':
        (tmp_path / f'{name}.png').write_bytes(b'no image')
    with refused('x', 'has 0', '.png', 'at least 4'):
        shards = extract(open_images(tmp_path), pixel_extractor(), tmp_path / 'f', lambda: False)
        from_shards(shards, name='x')


def test_random_rows_of_a_large_reference_are_kept(tmp_path, stored):
    shards = extract(stored, counting([]), tmp_path / 'f', lambda: False)
    stats = from_shards(shards, max_rows=50)
    assert len(stats.rows) == 50 and stats.num_images == 600
    parts, counts = np.unique(stats.rows // 128, return_counts=True)
    assert len(parts) == 5 and counts.min() > 2
    np.testing.assert_array_equal(stats.features, pixels(IMAGES[stats.rows]))
    np.testing.assert_array_equal(stats.spatial_features, pixels(IMAGES[stats.rows][:, :2]))
    np.testing.assert_array_equal(from_shards(shards, max_rows=50).rows, stats.rows)
    np.testing.assert_allclose(stats.moments.mean, pixels(IMAGES).mean(axis=0, dtype=float))


def test_statistics_come_back_from_a_file(tmp_path, stored):
    stats = from_shards(extract(stored, counting([]), tmp_path / 'f', lambda: False))
    save_statistics(tmp_path / 'reference.npz', stats._replace(extractor='counting'), IMAGES[:10])
    back = from_file(tmp_path / 'reference.npz')
    np.testing.assert_array_equal(back.moments.covariance, stats.moments.covariance)
    np.testing.assert_array_equal(back.spatial.mean, stats.spatial.mean)
    assert back.num_images == 600 and back.extractor == 'counting' and back.features is None
    with np.load(tmp_path / 'reference.npz') as file:
        assert {'arr_0', 'mu', 'mu_s', 'sigma', 'sigma_s'} <= set(file)  # those the authors look for


TWO = {'mu': np.zeros(2), 'sigma': np.eye(2)}


@pytest.mark.parametrize(
    ('arrays', 'values'),
    [
        ({'mu': np.zeros(3)}, ('mu', 'sigma', '[[3]]')),
        ({'mu': np.zeros(3), 'sigma': np.eye(4)}, ('mu', 'sigma', '[3]', '[4, 4]')),
        ({'features': np.zeros((3, 3))}, ('has 3', 'at least 4')),
        ({'features': np.zeros((4, 3), int)}, ('features', 'int64', '[4, 3]', 'float [N, D]')),
        ({'features': np.zeros((4, 3), np.uint8)}, ('features', 'uint8', 'arr_0')),
        ({'features': np.array([[0.0], [1.0], [np.nan]])}, ('features', 'finite', 'row 2')),
        ({'mu': np.array([0, np.inf]), 'sigma': np.eye(2)}, ('mu', 'finite', 'row 1')),
        ({'features': np.zeros((9, 0))}, ('features', '[9, 0]')),
        ({'features': np.full((9, 2), 1e26)}, ('features', '1e+25')),
        ({'features': np.full((9, 2), -1e26)}, ('features', '1e+25')),
        ({'features': np.array([[1], [None]], object)}, ('numbers',)),
        ({'features': np.zeros((9, 2)), 'mu': np.zeros(3), 'sigma': np.eye(3)}, ('features', '2', 'mu', '3')),
        (TWO | {'sigma': np.eye(2) + 0j}, ('sigma', 'complex128', 'float [D, D]')),
        (TWO | {'mu': np.zeros((1, 2))}, ('mu', '[1, 2]', 'float [D]')),
        (TWO | {'sigma': np.array([[1, 0.5], [0, 1]])}, ('sigma', 'symmetric')),
        (TWO | {'sigma': np.diag([1, -1e-4])}, ('sigma', 'semidefinite')),
        (TWO | {'sigma': np.array([[1, 3], [3, 1.0]])}, ('sigma', 'semidefinite')),
        ({'mu_s': np.zeros(2), 'sigma_s': -np.eye(2)}, ('sigma_s', 'semidefinite')),
    ],
)
def test_arrays_that_cannot_be_what_their_names_say_are_refused(tmp_path, arrays, values):
    np.savez(tmp_path / 'x.npz', **arrays)
    with refused('x.npz', *values):
        from_file(tmp_path / 'x.npz')


@pytest.mark.parametrize('dtype', [np.float64, np.float32, np.float16])
@pytest.mark.parametrize('count', [5, 60])
def test_covariances_are_read_with_the_rounding_of_their_type(tmp_path, dtype, count):
    """Also singular ones, whose eigenvalues of 0 may be rounded below it."""
    known = moments(np.random.default_rng(count).normal(size=(count, 30)))
    np.savez(tmp_path / 'x.npz', mu=known.mean.astype(dtype), sigma=known.covariance.astype(dtype))
    read = from_file(tmp_path / 'x.npz').moments.covariance
    np.testing.assert_array_equal(read, known.covariance.astype(dtype))


def test_statistics_of_a_file_take_precedence_over_those_of_its_features(tmp_path):
    features = np.random.default_rng(0).normal(size=(9, 2))
    np.savez(tmp_path / 'x.npz', features=features, mu=np.ones(2), sigma=np.eye(2), num_images=100)
    stats = from_file(tmp_path / 'x.npz')
    np.testing.assert_array_equal(stats.features, features)
    np.testing.assert_array_equal(stats.moments.mean, 1)
    assert stats.num_images == 100
    np.save(tmp_path / 'x.npy', features)
    alone = from_file(tmp_path / 'x.npy')
    np.testing.assert_allclose(alone.moments.mean, features.mean(axis=0))
    assert alone.num_images == 9


def test_samples_are_extracted_while_more_are_drawn(tmp_path):
    """Also where a shard in the middle comes last, as from several hosts."""

    def draw(start, stop):
        return {'arr_0': IMAGES[start:stop], 'arr_1': np.arange(start, stop)}

    seen = []

    def extract_after(host):
        start = 200 * host
        write_npz(shard(tmp_path / 'shards', start, start + 200).path, **draw(start, start + 200))
        return from_shards(extract(open_images(tmp_path), counting(seen), tmp_path / 'f', lambda: False))

    counts = [extract_after(host).num_images for host in (0, 2)]
    np.testing.assert_array_equal(extract_after(1).features, pixels(IMAGES))
    assert counts == [200, 400] and len(seen) == 6
