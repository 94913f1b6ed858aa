"""Hosts as processes on this machine, started by the flags of users."""

import os
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.weights.files import Spec, save_weights
from tests.program import ROOT, arguments, experiment, logged

MAIN = ('-m', 'diffusion_jax.main')
TRAININGS = {'train__num_steps': 20, 'train__log_every': 1, 'train__sample_every': 20}
# Both hosts have parameters to write and to read.
SPLIT = TRAININGS | {'mesh__data': 1, 'mesh__fsdp': 4}
LOGGED = ('step', 'loss', 'grad_norm', 'param_norm', 'validation_loss', 'validation_accuracy')


def free_address():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return f'127.0.0.1:{free.getsockname()[1]}'


def start(argv, flags, devices=2, environment=None, program=MAIN):
    """A process of its own, with so many devices."""
    return subprocess.Popen(
        [sys.executable, *program, *argv[1:], *flags],
        env=os.environ | {'JAX_NUM_CPU_DEVICES': str(devices)} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def start_hosts(argv, *flags, program=MAIN):
    """Two hosts."""
    hosts = (f'--coordinator={free_address()}', '--num_hosts=2')
    return [start(argv, [*hosts, f'--host={host}', *flags], program=program) for host in range(2)]


def ends(processes):
    """The exit codes and what was printed."""
    printed = [process.communicate(timeout=600)[0] for process in processes]
    return [process.returncode for process in processes], printed


def run_hosts(workdir, stages, **changes):
    """Two hosts that are not disturbed."""
    codes, printed = ends(start_hosts(arguments(workdir, stages, **changes)))
    assert codes == [0, 0], '\n'.join(printed)


def run_alone(workdir, stages, devices, **changes):
    """One process that has all devices."""
    codes, printed = ends([start(arguments(workdir, stages, **changes), [], devices)])
    assert codes == [0], printed


def send(number, host, hosts, when):
    """Sends a signal to one of the hosts as soon as `when()`; exit codes and what was printed."""
    end = time.monotonic() + 300
    while not when():
        assert time.monotonic() < end, 'what was waited for did not come'
        if any(process.poll() is not None for process in hosts):
            pytest.fail('\n'.join(ends(hosts)[1]))
        time.sleep(0.05)
    hosts[host].send_signal(number)
    return ends(hosts)


def metrics(workdir, network='diffusion'):
    """What training logged that another mesh should agree with."""
    return [
        {name: value for name, value in line.items() if name in LOGGED} for line in logged(workdir / network)
    ]


def untrained(path, **changes):
    """Settings that sample without guidance from a diffusion model with random parameters."""
    config = experiment(**changes)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32),
        models.param_shapes(config.unet),
    )
    save_weights(path, Spec(config.unet, config.diffusion), params)
    return {'pretrained__diffusion': path, 'sample__scale': 0, 'sample__batch_size': 8}
