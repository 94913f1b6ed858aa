"""The launch recipes, as far as they can be checked without the machines that they are for."""

import re
import shlex
import subprocess

import pytest
import yaml

from diffusion_jax import main
from tests.program import ROOT

LAUNCH = ROOT / 'experiments' / 'launch'
# The number of devices, and of processes if the recipe gives it by flags.
RECIPES = {
    'one_gpu.sh': (1, None),
    'eight_gpus.sh': (8, None),
    'tpu_v5e_8.sh': (8, None),
    'tpu_pod.sh': (32, None),
    'slurm.sbatch': (32, None),
    'kubernetes.yaml': (32, 4),
}
SCRIPTS = [name for name in RECIPES if not name.endswith('.yaml')]


def command(name):
    """The arguments of the program in a recipe, with its variables filled in."""
    text = (LAUNCH / name).read_text()
    if name.endswith('.yaml'):
        container = documents(name)['Job']['spec']['template']['spec']['containers'][0]
        assert container['command'] == ['python', '-m', 'diffusion_jax.main']
        return [argument.replace('$(JOB_COMPLETION_INDEX)', '3') for argument in container['args']]
    variables = dict(re.findall(r'^([A-Z]+)=(\S+)$', text, re.MULTILINE))
    (program,) = re.findall(r'-m diffusion_jax\.main((?: |\\\n|[^ \n"$]|\$[A-Z]+|"\$[A-Z]+")*)', text)
    filled = re.sub(r'\$([A-Z]+)', lambda match: variables[match[1]], program)
    return shlex.split(filled.replace('\\\n', ' '))


def trial(name):
    """The flags that a recipe's head adds for a trial."""
    (lines,) = re.findall(r'^# Trial: (.*?)^# \w+: ', (LAUNCH / name).read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r'--(?:workdir|config\.)[^\s,:]+', lines)


def documents(name):
    return {each['kind']: each for each in yaml.safe_load_all((LAUNCH / name).read_text())}


def test_the_table_lists_every_recipe():
    assert {path.name for path in LAUNCH.iterdir()} == {*RECIPES, 'README.md'}
    table = re.findall(r'^\| \[`(\S+)`\]\((\S+)\)', (LAUNCH / 'README.md').read_text(), re.MULTILINE)
    assert table == [(name, name) for name in RECIPES]


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_are_bash(name):
    assert (LAUNCH / name).read_text().startswith('#!/usr/bin/env bash\n')
    subprocess.run(['bash', '-n', LAUNCH / name], check=True)


@pytest.mark.parametrize('name', RECIPES)
def test_flags_and_settings_are_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    num_devices, num_hosts = RECIPES[name]
    options = main.parse_flags(['main', *command(name)])
    experiment = main.read_experiment(options.config)
    for training in (experiment.train, experiment.train_classifier):
        assert training.batch_size // training.microbatches % num_devices == 0
    assert experiment.sample.batch_size % num_devices == 0
    assert num_devices % experiment.mesh.fsdp == 0
    assert (options.hosts is not None) == (name in ('tpu_pod.sh', 'slurm.sbatch', 'kubernetes.yaml'))
    assert num_hosts == (options.hosts and options.hosts.num_hosts)


@pytest.mark.parametrize('name', RECIPES)
def test_a_trial_is_short_and_has_its_own_folder(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = main.parse_flags(['main', *command(name), *trial(name)])
    experiment = main.read_experiment(options.config)
    assert options.workdir.name == 'trial'
    assert experiment.train.num_steps == experiment.train_classifier.num_steps == 200
    assert experiment.train.log_every < 200
    assert experiment.sample.num_samples == experiment.sample.batch_size
