"""Several hosts, as processes on this machine: each draws and looks at its own share of the images."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffusion_jax import main, models
from diffusion_jax.data.stored.samples import open_samples
from diffusion_jax.weights.files import Weights, save_weights
from tests.test_main import arguments, run

PROGRAM = """
import sys
import jax
from diffusion_jax import main
jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
assert jax.process_count() == int(sys.argv[2]) and len(jax.local_devices()) == 2
sys.exit(main.main(['main', *sys.argv[4:]]))
"""


def run_on_hosts(num_hosts, environment, *argv):
    """The exit codes and what the hosts printed."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    command = [sys.executable, '-c', PROGRAM, address, str(num_hosts)]
    hosts = [
        subprocess.Popen(
            [*command, str(host), *argv],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host in range(num_hosts)
    ]
    printed = [host.communicate(timeout=300)[0] for host in hosts]
    return [host.returncode for host in hosts], printed


def untrained(path):
    """Settings that sample without guidance from a diffusion model with random parameters."""
    experiment = main.read_experiment(main.parse_flags(arguments('unused')).config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32),
        models.param_shapes(experiment.unet),
    )
    save_weights(path, Weights(experiment.unet, params, experiment.diffusion))
    return {'pretrained__diffusion': path, 'sample__scale': 0, 'sample__batch_size': 8, 'evaluate__judge': ''}


@pytest.mark.slow
def test_hosts_draw_and_evaluate_together_what_one_draws_alone(tmp_path):
    change = untrained(tmp_path / 'diffusion.safetensors') | {'sample__num_samples': 44}
    argv = arguments(tmp_path / 'hosts', 'sample,evaluate', **change)[1:]
    codes, printed = run_on_hosts(2, os.environ | {'JAX_NUM_CPU_DEVICES': '2'}, *argv)
    assert codes == [0, 0], printed
    assert run(tmp_path / 'alone', 'sample,evaluate', **change) == 0

    together, alone = (open_samples(tmp_path / name / 'samples') for name in ('hosts', 'alone'))
    assert [part[:2] for part in together.parts] == [part[:2] for part in alone.parts]
    difference = together.take(np.arange(44)).astype(int) - alone.take(np.arange(44))
    assert np.abs(difference).max() <= 1
    results = [json.loads((tmp_path / name / 'evaluation.json').read_text()) for name in ('hosts', 'alone')]
    assert results[0]['num_samples'] == 44
    assert results[0]['frechet_distance'] == pytest.approx(results[1]['frechet_distance'], rel=1e-2)
    # Each host printed the progress of its own share; together they looked at every image once.
    assert all('samples, unguided' in text for text in printed)
