import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import orbax.checkpoint as ocp
import pytest

from diffusion_jax.training import barrier
from diffusion_jax.training.barrier import Barrier

# As Orbax names the places where hosts meet, in this order; to the last two they come from every write.
WRITTEN, COMMITTED = 'async_write_complete.30', 'async_commit_complete.30'
ENDED = [f'ThreadSaveMultiHostValueHolder:set_value_{place}' for place in ('start', 'end')]


class Client:
    """JAX's for two hosts: keys and values, and places where each host may wait once for the other."""

    def __init__(self):
        self.values, self.places, self.lock = {}, {}, threading.Lock()

    def wait_at_barrier(self, name, timeout_ms):
        with self.lock:
            place, came = self.places.setdefault(name, (threading.Barrier(2), []))
            came.append(threading.get_ident())
        assert len(came) == len(set(came)) <= 2, f'a host came twice to {name}'
        try:
            place.wait(timeout_ms / 1000)
        except threading.BrokenBarrierError as error:
            raise TimeoutError(f'a host did not come to {name}') from error

    def key_value_set(self, key, value):
        self.values[key] = value

    def key_value_dir_get(self, prefix):
        return [(key, value) for key, value in self.values.items() if key.startswith(prefix)]


@pytest.fixture
def own(monkeypatch):
    """`host`, the number of the one of two hosts that a thread is."""
    client, own = Client(), threading.local()
    monkeypatch.setattr(ocp.multihost, 'get_jax_distributed_client', lambda: client)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(jax, 'process_index', lambda: own.host)
    monkeypatch.setattr(barrier, '_numbers', (number for number in itertools.count() for _ in range(2)))
    return own


@pytest.fixture
def write(own):
    """Writes on both hosts: each fails before a place or nowhere. What each heard there."""
    barriers = Barrier(), Barrier()

    def write_one(host, fails_before):
        own.host, heard = host, ''
        try:
            for place in itertools.takewhile(lambda place: place != fails_before, (WRITTEN, COMMITTED)):
                barriers[host](key=place, timeout_ms=1000)
        except RuntimeError as error:
            heard = str(error)
        for place in ENDED:
            barriers[host](key=place, timeout_ms=1000)
        return heard

    def write_both(*fails_before):
        for each in barriers:
            each.begin()
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(write_one, (0, 1), fails_before))

    return write_both


def test_hosts_that_can_write_hear_of_nothing(write):
    assert write(None, None) == ['', '']
    assert write(None, None) == ['', '']


@pytest.mark.parametrize('host', [0, 1])
def test_a_host_that_cannot_write_is_named_to_the_other(host, write):
    fails = [None, None]
    fails[host] = WRITTEN
    heard = write(*fails)
    assert heard[1 - host] == f'host {host} could not write its part' and heard[host] == ''
    assert write(None, None) == ['', '']  # the next write is another one


def test_where_the_first_host_cannot_commit_the_other_does_not_wait(write):
    assert write(COMMITTED, None) == ['', '']
    assert write(None, None) == ['', '']


def test_where_no_host_can_write_none_waits(write):
    assert write(WRITTEN, WRITTEN) == ['', '']
    assert write(None, None) == ['', '']


def test_a_place_that_this_orbax_does_not_have_is_an_error(own):
    with ThreadPoolExecutor(1) as thread:
        for key in ('async_write_done.30', 'all_done'):
            called = thread.submit(Barrier(), key=key, timeout_ms=1000)
            with pytest.raises(RuntimeError, match=f'Orbax {ocp.__version__} lets hosts meet at {key!r}'):
                called.result()


def test_on_the_main_thread_no_host_waits(own):
    Barrier()(key=ENDED[0], timeout_ms=1000)
