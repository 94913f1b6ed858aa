from diffusion_jax.planning.candidates import candidates
from diffusion_jax.planning.needs import estimated
from tests.planning.test_needs import job


def proposed(stage, topology, room, **changes):
    """Candidates on a device with `room` times the memory that the step needs."""
    wanted = job(stage, topology, **changes)
    memory = room * estimated(wanted).peak
    wanted = wanted._replace(topology=wanted.topology._replace(memory=memory))
    found = candidates(wanted, estimated(wanted))
    for other, needs in found:
        assert needs.fits
        other.check()
    assert len(found) <= 3
    return [other.changes for other, _ in found]


def test_training_that_does_not_fit():
    found = proposed('train', 'h100', 0.5, train={'batch_size': 512})
    assert found == [{'train': {'microbatches': 4}}, {'train': {'microbatches': 2}, 'unet': {'remat': True}}]


def test_state_that_does_not_fit_is_sharded():
    found = proposed('train', 'h100:8', 0.9, train={'batch_size': 8})
    assert {'mesh': {'data': 1, 'fsdp': 8}} in found


def test_nothing_fits():
    assert proposed('train', 'h100', 0.01) == []


def test_fewer_microbatches_with_more_memory():
    parted = {'train': {'batch_size': 512, 'microbatches': 8}}
    assert proposed('train', 'h100', 3, **parted) == [{'train': {'microbatches': 4}}]
    assert proposed('train', 'h100', 1.2, **parted) == []
    assert proposed('train', 'h100', 100) == []


def test_parameters_are_sharded_over_one_host_for_sampling():
    wanted = job('sample', 'h100:8', sample={'batch_size': 1024})
    hosts = wanted.topology._replace(hosts=2, memory=0.5 * estimated(wanted).peak)
    found = candidates(wanted._replace(topology=hosts), estimated(wanted)._replace(fits=False))
    assert {'data': 2, 'fsdp': 4} in [other.changes.get('mesh') for other, _ in found]


def test_batches_of_samples():
    large, small = ({'sample': {'batch_size': number}} for number in (256, 1))
    (smaller,) = proposed('sample', 'h100', 0.5, **large)
    assert smaller == {'sample': {'batch_size': 64}}
    (larger,) = proposed('sample', 'h100', 4, **small)
    number, memory = larger['sample']['batch_size'], 4 * estimated(job('sample', 'h100', **small)).peak
    peaks = [estimated(job('sample', 'h100', sample={'batch_size': n})).peak for n in (number, 4 * number)]
    # A power of two, by proportion to what a batch of one needs: at most one below the largest that fits.
    assert number > 1 and peaks[0] <= 0.9 * memory < peaks[1]
    assert proposed('sample', 'h100', 1.2, **large) == []


def test_nothing_is_proposed_if_the_memory_is_unknown():
    wanted = job('train')
    assert candidates(wanted, estimated(wanted)) == []
