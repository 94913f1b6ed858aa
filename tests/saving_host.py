"""One of two hosts that save and restore a state without a network: ADDRESS HOST DIRECTORY."""

import sys
from pathlib import Path

import jax

from diffusion_jax.hosts import Hosts, connect, shutdown
from diffusion_jax.sharding import abstract_on, make_mesh, param_shardings
from diffusion_jax.training.saving import Checkpoints
from tests.training.states import save, small_state


def main(address, host, directory):
    connect(Hosts(address, 2, int(host), 60, 60))
    make_state = small_state.__wrapped__
    abstract = jax.eval_shape(make_state)
    shardings = param_shardings(make_mesh(fsdp=jax.device_count()), abstract)
    state = jax.jit(make_state, out_shardings=shardings)()
    with Checkpoints(Path(directory), keep=2) as checkpoints:
        for step in (1, 2, 3):
            save(checkpoints, state, step)
    with Checkpoints(Path(directory), keep=2) as checkpoints:
        restored, progress = checkpoints.restore(abstract_on(shardings, abstract))
    assert progress == {'next_index': 3} and int(restored.step) == 3
    own, saved = (each.params['kernel'].addressable_shards for each in (restored, state))
    assert [shard.data.shape for shard in own] == [(16, 128)] * jax.local_device_count()
    assert all((a.data == b.data).all() for a, b in zip(own, saved, strict=True))


if __name__ == '__main__':
    main(*sys.argv[1:])
    shutdown(0)
