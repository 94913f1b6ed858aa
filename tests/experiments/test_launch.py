"""The launch recipes: what can be checked without the machines that they are for."""

import re
import shlex
import subprocess

import pytest
import yaml

from diffusion_jax import main
from tests.program import ROOT

LAUNCH = ROOT / 'experiments' / 'launch'
# Each with its number of devices, and of processes where it names them by flags.
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
    """The arguments that a recipe gives the program, with its variables filled in."""
    text = (LAUNCH / name).read_text()
    if name.endswith('.yaml'):
        container = documents(name)['Job']['spec']['template']['spec']['containers'][0]
        assert container['command'] == ['python', '-m', 'diffusion_jax.main']
        return [argument.replace('$(JOB_COMPLETION_INDEX)', '3') for argument in container['args']]
    variables = dict(re.findall(r'^([A-Z]+)=(\S+)$', text, re.MULTILINE))
    (program,) = re.findall(r'-m diffusion_jax\.main((?: |\\\n|[^ \n"]|"\$[A-Z]+")*)', text)
    filled = re.sub(r'\$([A-Z]+)', lambda match: variables[match[1]], program)
    return shlex.split(filled.replace('\\\n', ' '))


def documents(name):
    return {each['kind']: each for each in yaml.safe_load_all((LAUNCH / name).read_text())}


def test_there_is_a_recipe_and_a_line_of_the_table_for_each():
    assert {path.name for path in LAUNCH.iterdir()} == {*RECIPES, 'README.md'}
    table = re.findall(r'^\| \[`(\S+)`\]\((\S+)\)', (LAUNCH / 'README.md').read_text(), re.MULTILINE)
    assert table == [(name, name) for name in RECIPES]


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_are_bash(name):
    assert (LAUNCH / name).read_text().startswith('#!/usr/bin/env bash\n')
    subprocess.run(['bash', '-n', LAUNCH / name], check=True)


@pytest.mark.parametrize('name', RECIPES)
def test_the_program_understands_every_flag_and_setting(name, monkeypatch):
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


def test_the_pods_of_kubernetes_find_each_other():
    parts = documents('kubernetes.yaml')
    job, service = parts['Job'], parts['Service']
    pod = job['spec']['template']['spec']
    hosts = main.parse_flags(['main', *command('kubernetes.yaml')]).hosts
    name = job['metadata']['name']
    assert (
        hosts.coordinator
        == f'{name}-0.{pod["subdomain"]}:{pod["containers"][0]["ports"][0]["containerPort"]}'
    )
    assert job['spec']['completions'] == job['spec']['parallelism'] == hosts.num_hosts
    assert job['spec']['completionMode'] == 'Indexed'
    assert service['metadata']['name'] == pod['subdomain'] and service['spec']['clusterIP'] == 'None'
    assert service['spec']['selector'] == {'job-name': name}
    volumes = {volume['name'] for volume in pod['volumes']}
    assert {mount['name'] for mount in pod['containers'][0]['volumeMounts']} == volumes
    by_code = [rule for rule in job['spec']['podFailurePolicy']['rules'] if 'onExitCodes' in rule]
    codes = {rule['action']: rule['onExitCodes'] for rule in by_code}
    assert codes['FailJob']['values'] == [2] and codes['Ignore']['values'] == [130]  # of main
    assert all(rule['containerName'] == pod['containers'][0]['name'] for rule in codes.values())


def test_slurm_starts_as_many_tasks_as_there_are_gpus():
    text = (LAUNCH / 'slurm.sbatch').read_text()
    settings = dict(re.findall(r'^#SBATCH --([\w-]+)=(\S+)$', text, re.MULTILINE))
    assert settings['ntasks-per-node'] == settings['gpus-per-node']
    assert int(settings['nodes']) * int(settings['ntasks-per-node']) == RECIPES['slurm.sbatch'][0]
