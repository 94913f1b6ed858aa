"""Features in shards: the same whatever was interrupted, left out or computed before."""

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.image_sets import open_images
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.extraction import extract
from diffusion_jax.evaluation.extractors import FEATURES, SPATIAL, Extractor, pixel_extractor, pixels
from diffusion_jax.evaluation.feature_sets import from_file, from_shards, kept_rows, save_statistics
from diffusion_jax.evaluation.frechet import moments
from diffusion_jax.interruption import Interrupted
from diffusion_jax.shards import shard
from diffusion_jax.workdir import write_npz

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
    np.testing.assert_allclose(known.gaussian.covariance, moments(pixels(IMAGES)).covariance, rtol=1e-9)
    np.testing.assert_allclose(known.spatial.mean, pixels(IMAGES[:, :2]).mean(axis=0, dtype=float))
    assert known.num_images == 600 and not known.left_out


def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path, stored):
    whole = from_shards(extract(stored, counting([]), tmp_path / 'whole', lambda: False))
    answers = iter([False, True])
    with pytest.raises(Interrupted, match='stopped after 128 of 600'):
        extract(stored, counting([]), tmp_path / 'f', lambda: next(answers))
    seen = []
    resumed = from_shards(extract(stored, counting(seen), tmp_path / 'f', lambda: False))
    assert len(seen) == 7  # 128, 128, 128 and 88 images in batches of 100
    for a, b in zip(whole.gaussian, resumed.gaussian, strict=True):
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
    for host in (1, 0):
        shards = extract(stored, counting([]), tmp_path / 'f', lambda: False, host=host, num_hosts=2)
    np.testing.assert_array_equal(from_shards(shards).features, pixels(IMAGES))


def test_a_bad_image_loses_no_other(tmp_path):
    for i in range(300):
        Image.fromarray(IMAGES[i]).save(tmp_path / f'{i:03}.png')
    (tmp_path / '007.png').write_bytes(b'no image')
    known = from_shards(extract(open_images(tmp_path), pixel_extractor(), tmp_path / 'f', lambda: False))
    expected = pixels(np.delete(IMAGES[:300], 7, axis=0))
    assert {row.tobytes() for row in known.features} == {row.tobytes() for row in expected}
    np.testing.assert_array_equal(pixels(open_images(tmp_path).take(known.rows)), known.features)
    assert known.num_images == 299
    (reason,) = known.left_out
    assert '007.png' in reason


def test_no_image_that_can_be_used_is_an_error(tmp_path):
    for name in 'ab':
        (tmp_path / f'{name}.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'has 0 images that can be used \(.*[ab].png.*; needed are 4'):
        from_shards(extract(open_images(tmp_path), pixel_extractor(), tmp_path / 'f', lambda: False))


def test_features_that_are_not_finite_are_an_error(tmp_path, stored):
    broken = Extractor('broken', {}, 3, 100, lambda images: {FEATURES: np.full((len(images), 3), np.nan)})
    with pytest.raises(UserError, match=r'x.npz: features of images 0 to 127 are not finite'):
        extract(stored, broken, tmp_path / 'f', lambda: False)


def test_of_a_large_reference_some_rows_are_kept(tmp_path, stored):
    shards = extract(stored, counting([]), tmp_path / 'f', lambda: False)
    known = from_shards(shards, max_rows=50)
    np.testing.assert_array_equal(known.features, pixels(IMAGES[kept_rows(600, 50)]))
    assert len(known.features) == 50 and known.num_images == 600


def test_statistics_come_back_from_a_file(tmp_path, stored):
    known = from_shards(extract(stored, counting([]), tmp_path / 'f', lambda: False))
    save_statistics(tmp_path / 'reference.npz', known, IMAGES[:10], 'counting')
    back = from_file(tmp_path / 'reference.npz')
    np.testing.assert_array_equal(back.gaussian.covariance, known.gaussian.covariance)
    np.testing.assert_array_equal(back.spatial.mean, known.spatial.mean)
    assert back.num_images == 600 and back.extractor == 'counting' and back.features is None
    with np.load(tmp_path / 'reference.npz') as file:
        assert {'arr_0', 'mu', 'mu_s', 'sigma', 'sigma_s'} <= set(file)  # those the authors look for


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'mu': np.zeros(3)}, r'mu and sigma are \[\[3\], None\]'),
        ({'mu': np.zeros(3), 'sigma': np.eye(4)}, r'mu and sigma are \[\[3\], \[4, 4\]\]'),
        ({'features': np.zeros((3, 3))}, r'has 3 rows of features; needed are 4'),
        ({'features': np.zeros((4, 3), int)}, r'features is int64 \[4, 3\]; it must be float \[N, D\]'),
        ({'features': np.zeros((4, 3), np.uint8)}, r'features is uint8 .*; images go into an npz'),
        ({'features': np.array([[0.0], [1.0], [np.nan]])}, 'features is not finite in row 2'),
        ({'mu': np.array([0, np.inf]), 'sigma': np.eye(2)}, 'mu is not finite in row 1'),
        ({'features': np.zeros((9, 0))}, r'features is float64 \[9, 0\]'),
        ({'features': np.full((9, 2), 1e26)}, 'features has numbers beyond'),
        ({'features': np.array([[1], [None]], object)}, '.*no plain numbers'),
        (
            {'features': np.zeros((9, 2)), 'mu': np.zeros(3), 'sigma': np.eye(3)},
            'mu has 3 features, features 2',
        ),
        ({'mu': np.zeros(2), 'sigma': np.eye(2) + 0j}, 'sigma is complex128'),
        ({'mu': np.zeros(2), 'sigma': np.array([[1, 0.5], [0, 1]])}, 'sigma is not symmetric'),
        ({'mu': np.zeros(2), 'sigma': np.diag([1, -1e-4])}, 'sigma has a negative variance, -0.0001 at 1'),
        ({'mu': np.zeros(2), 'sigma': np.array([[1, 3], [3, 1.0]])}, 'sigma has the negative eigenvalue -2'),
        ({'mu_s': np.zeros(2), 'sigma_s': -np.eye(2)}, 'sigma_s has a negative variance'),
        ({'mu': np.zeros(2), 'sigma': np.eye(2), 'num_images': -3}, 'num_images is -3'),
        ({'mu': np.zeros(2), 'sigma': np.eye(2), 'num_images': [1, 2]}, r'num_images is \[1, 2\]'),
        ({'mu': np.zeros(2), 'sigma': np.eye(2), 'num_images': 'many'}, "num_images is 'many'"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / 'x.npz', **arrays)
    with pytest.raises(UserError, match=rf'x.npz: {message}'):
        from_file(tmp_path / 'x.npz')


@pytest.mark.parametrize('dtype', [np.float64, np.float32, np.float16])
@pytest.mark.parametrize('count', [5, 60])
def test_covariances_are_read_with_the_rounding_of_their_type(tmp_path, dtype, count):
    """Also singular ones, whose eigenvalues of 0 may be rounded below it."""
    known = moments(np.random.default_rng(count).normal(size=(count, 30)))
    np.savez(tmp_path / 'x.npz', mu=known.mean.astype(dtype), sigma=known.covariance.astype(dtype))
    read = from_file(tmp_path / 'x.npz').gaussian.covariance
    np.testing.assert_array_equal(read, known.covariance.astype(dtype))


def test_statistics_of_a_file_come_before_those_of_its_features(tmp_path):
    features = np.random.default_rng(0).normal(size=(9, 2))
    np.savez(tmp_path / 'x.npz', features=features, mu=np.ones(2), sigma=np.eye(2), num_images=100)
    known = from_file(tmp_path / 'x.npz')
    np.testing.assert_array_equal(known.features, features)
    np.testing.assert_array_equal(known.gaussian.mean, 1)
    assert known.num_images == 100


def test_samples_are_looked_at_while_more_are_drawn(tmp_path):
    """Also where a shard in the middle comes last, as from several hosts."""

    def draw(start, stop):
        return {'arr_0': IMAGES[start:stop], 'arr_1': np.arange(start, stop)}

    seen = []

    def look(host):
        start = 200 * host
        write_npz(shard(tmp_path / 'shards', start, start + 200).path, **draw(start, start + 200))
        return from_shards(extract(open_images(tmp_path), counting(seen), tmp_path / 'f', lambda: False))

    counts = [look(host).num_images for host in (0, 2)]
    np.testing.assert_array_equal(look(1).features, pixels(IMAGES))
    assert counts == [200, 400] and len(seen) == 6
