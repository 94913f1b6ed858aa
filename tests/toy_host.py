"""One of two hosts that agree, and save and restore a state without a network: ADDRESS HOST DIRECTORY."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion_jax import hosts
from diffusion_jax.errors import UserError
from diffusion_jax.sharding import abstract_on, local_mesh, make_mesh, param_shardings, put_batch, to_host
from diffusion_jax.training.saving import Checkpoints
from tests.training.states import save, small_state


def agree(host):
    assert hosts.any_process(host == 1) and not hosts.any_process(False)
    assert hosts.largest_of_hosts(host) == 1
    ask = hosts.synced_flag(lambda: host == 1)
    assert [ask(), ask()] == [False, True]
    hosts.check_same('files', 'the same')
    with pytest.raises(UserError, match='files'):
        hosts.check_same('files', host)
    with pytest.raises((UserError, ValueError)[host]), hosts.raise_together():
        if host == 1:
            raise ValueError


def place(host, mesh):
    assert local_mesh(mesh).devices.tolist() == [jax.local_devices()]
    batch = put_batch(mesh, np.arange(2 * host, 2 * host + 2))
    np.testing.assert_array_equal(to_host(batch), np.arange(4))


def save_and_restore(mesh, directory):
    make_state = small_state.__wrapped__
    abstract = jax.eval_shape(make_state)
    shardings = param_shardings(mesh, abstract)
    state = jax.jit(make_state, out_shardings=shardings)()
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (1, 2, 3):
            save(checkpoints, state, step)
    with Checkpoints(directory, keep=2) as checkpoints:
        restored, progress = checkpoints.restore(abstract_on(shardings, abstract))
    assert progress == {'next_index': 3} and int(restored.step) == 3
    own, saved = (each.params['kernel'].addressable_shards for each in (restored, state))
    assert [shard.data.shape for shard in own] == [(16, 128)] * jax.local_device_count()
    assert all((a.data == b.data).all() for a, b in zip(own, saved, strict=True))


if __name__ == '__main__':
    address, host, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    hosts.connect(hosts.Hosts(address, 2, host, 60, 60))
    mesh = make_mesh(fsdp=jax.device_count())
    agree(host)
    place(host, mesh)
    save_and_restore(mesh, directory)
    hosts.shutdown(0)
