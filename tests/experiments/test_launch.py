"""The launch recipes: what can be checked without the machines that they are for."""

import os
import re
import shlex
import subprocess
import time

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
    (program,) = re.findall(r'-m diffusion_jax\.main((?: |\\\n|[^ \n"$]|\$[A-Z]+|"\$[A-Z]+")*)', text)
    filled = re.sub(r'\$([A-Z]+)', lambda match: variables[match[1]], program)
    return shlex.split(filled.replace('\\\n', ' '))


def trial(name):
    """The flags that a recipe's head adds for a trial."""
    (lines,) = re.findall(r'^# Trial: (.*?)^# \w+: ', (LAUNCH / name).read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r'--(?:workdir|config\.)[^\s,:]+', lines)


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


@pytest.mark.parametrize('name', RECIPES)
def test_a_trial_is_short_and_in_a_folder_of_its_own(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = main.parse_flags(['main', *command(name), *trial(name)])
    experiment = main.read_experiment(options.config)  # its warm-up is shorter, too
    assert options.workdir.name == 'trial'
    assert experiment.train.num_steps == experiment.train_classifier.num_steps == 200
    assert experiment.train.log_every < 200  # says how long a step takes
    assert experiment.sample.num_samples == experiment.sample.batch_size


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_add_the_flags_that_they_are_given(name):
    assert re.search(r'diffusion_jax\.main(?:.|\\\n)* (?:"\$@"|\$\*)', (LAUNCH / name).read_text())


@pytest.mark.parametrize('name', ['tpu_v5e_8.sh', 'tpu_pod.sh'])
def test_a_tpu_goes_on_without_the_script_and_is_not_started_twice(name, tmp_path):
    """With gcloud, and what the script calls on the VM, played by scripts; the VM's home is `tmp_path`."""
    played = {
        'bin/gcloud': 'for each; do case "$each" in --command=*) bash -c "${each#--command=}" ;; esac; done',
        'bin/curl': 'exit 0',
        'bin/pgrep': 'cat running 2> /dev/null',
        '.local/bin/uv': 'exit 0',
        'diffusion_jax/.venv/bin/python': 'echo "$*"; mkfifo ../wait; read -r -t 20 <> ../wait; echo ended',
    }
    for path, text in played.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f'#!/usr/bin/env bash\n{text}\n')
        (tmp_path / path).chmod(0o755)
    environment = os.environ | {'HOME': str(tmp_path), 'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}'}

    def start():
        return subprocess.run(
            ['bash', LAUNCH / name, '--config.seed=7'],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20,
        )  # fmt: skip

    def log(until):
        for _ in range(200):
            text = path.read_text() if path.exists() else ''
            if until in text:
                break
            time.sleep(0.05)
        return text

    path = tmp_path / 'diffusion_jax' / 'train.log'
    started = start()  # returns, with its output closed, while the program waits
    assert started.returncode == 0, started.stderr
    assert '-m diffusion_jax.main' in log('seed') and '--config.seed=7' in log('seed')

    (tmp_path / 'running').write_text('123 .venv/bin/python -m diffusion_jax.main\n')
    refused = start()
    assert refused.returncode == 1 and 'still runs' in refused.stderr
    assert 'ended' not in path.read_text()

    (tmp_path / 'wait').write_text('\n')
    assert log('ended').count('seed') == 1 and log('ended').endswith('ended\n')


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
