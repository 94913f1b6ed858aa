"""`diffusion-jax plan`: how much memory and how much time an experiment needs, before it is run."""

from collections.abc import Sequence

from diffusion_jax.checks import INT32, between, one_of
from diffusion_jax.command_line import Parser, read_config
from diffusion_jax.config import read_without_images
from diffusion_jax.experiment import check_stages
from diffusion_jax.planning.needs import PLANNED, Job, compiled, estimated
from diffusion_jax.planning.report import describe, header
from diffusion_jax.planning.topology import read_topology

DESCRIPTION = """\
Memory and time of an experiment's training and sampling steps, before they are run.

      diffusion-jax plan --config=imagenet64                              for the devices of this machine
      diffusion-jax plan --config=imagenet64 --topology=v5e:2x4           for TPUs, compiled ahead of time
      diffusion-jax plan --config=imagenet256 --topology=h100 --samples=50000

TPUs (v5e, v5p, v6e) need no TPU but libtpu: pip install 'diffusion_jax[plan]'. Compiling takes minutes to
half an hour for a training step of the paper's networks; --stage=sample is faster. GPUs (t4, l4, a100-40,
a100, h100, h200; h100:8 are eight) and TPU v4 are planned by arithmetic, in about a minute.

Settings are changed by --config.SECTION.SETTING=VALUE. docs/plan.md explains the numbers."""


def main(argv: Sequence[str]) -> int:
    """Runs the command with its arguments, its name first; returns the exit code."""
    parser = Parser(argv[0], DESCRIPTION)
    add = parser.add_argument
    add('--config', required=True, metavar='NAME|FILE', help='a name that `configs` lists, or a Python file')
    add('--topology', default='local', help='local (default), v5e, v5e:2x4, h100, h100:8, …')
    add('--stage', default='', help=f'of {", ".join(PLANNED)}; by default all of the config')
    add('--samples', type=int, default=0, metavar='N', help='also the total time, for N images when sampling')
    args, settings = parser.parse_known_args(argv[1:])
    between('--samples', args.samples, 0, below=INT32)
    experiment = read_without_images(read_config(args.config, settings))
    stages = args.stage.split(',') if args.stage else [each for each in experiment.stages if each in PLANNED]
    for stage in stages:
        one_of('--stage', stage, PLANNED)
    check_stages(experiment, stages, '--stage')
    topology = read_topology(args.topology)
    jobs = [Job(experiment, stage, topology) for stage in stages]
    for job in jobs:
        job.check()
    print(f'{args.config} on {header(topology)}', flush=True)
    for job in jobs:
        needs = compiled(job) if topology.devices else estimated(job)
        for line in describe(job, needs, args.samples):
            print(line, flush=True)
    return 0
