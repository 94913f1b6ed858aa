"""Make the table of docs/plan.md: plans of the paper's networks for several devices.

    pip install '.[plan]'
    python experiments/plan_table.py                  # compiles for TPUs: about three hours on 2 cores
    python experiments/plan_table.py --only=h100      # only the rows whose name contains this
    python experiments/plan_table.py --only=none      # no row: prints the table of the stored rows

Rows are stored in results/plan.json one by one. To compute a row again, remove it from the file.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.command_line import read_config
from diffusion_jax.config import read_without_images
from diffusion_jax.main import set_up
from diffusion_jax.planning.candidates import least_seconds
from diffusion_jax.planning.needs import Job, compiled, estimated
from diffusion_jax.planning.report import three_digits
from diffusion_jax.planning.topology import read_topology
from diffusion_jax.workdir import write_json

RESULTS = Path(__file__).parent / 'results' / 'plan.json'

# Stage and images on each device, for TPUs with 16 GB and for larger devices.
PROGRAMS = {
    ('imagenet64', 'sample'): (32, 64),
    ('imagenet256', 'sample'): (8, 16),
    ('imagenet256', 'train_classifier'): (16, 16),
    ('imagenet64', 'train'): (8, 64),
    ('imagenet256', 'train'): (2, 16),
}
COMPILED, ARITHMETIC = ('v5e', 'v5e:2x4'), ('h100', 'h200', 'a100', 'a100-40', 'l4', 't4', 'v4')
COLUMNS = (
    'devices',
    'program',
    'images',
    'memory, GB',
    'of all',
    'TFLOP an image',
    'GB an image',
    'exchanged, GB',
    'ms at least',
    'how',
)


def make_row(topology_name: str, config: str, stage: str, images: int) -> dict[str, Any]:
    """The numbers of one program; trainings on several devices split their state over all of them."""
    topology = read_topology(topology_name)
    settings = [f'--config.{stage}.batch_size={images * topology.count}']
    if topology.count > 1 and stage != 'sample':
        settings += ['--config.mesh.data=1', f'--config.mesh.fsdp={topology.count}']
    job = Job(read_without_images(read_config(config, settings)), stage, topology)
    job.check()
    needs = compiled(job) if topology.devices else estimated(job)
    numbers = needs._asdict() | {'flops': sum(needs.flops.values()), 'peak': needs.peak}
    least = least_seconds(job, needs)
    where = {'topology': topology_name, 'config': config, 'stage': stage, 'images': images}
    made = {'date': time.strftime('%Y-%m-%d'), 'jax': jax.__version__, 'settings': settings}
    return where | numbers | {'least_seconds': least, 'memory': topology.memory} | made


def line(row: dict[str, Any]) -> str:
    """A row of the table in Markdown; its numbers are those of one device."""
    images = row['images']
    how = 'arithmetic' if row['seconds'] is None else 'compiled'
    exchanged = sum((row['exchanged'] or {}).values())
    cells = [
        row['topology'],
        f'{row["config"]} {row["stage"]}',
        f'{images}',
        f'{row["arguments"] / 1e9:.2f} + {row["temporaries"] / 1e9:.2f}',
        f'{100 * row["peak"] / row["memory"]:.0f} %{"" if row["fits"] else ", too large"}',
        f'{row["flops"] / images / 1e12:.3g}',
        f'{row["moved"] / images / 1e9:.3g}',
        f'{exchanged / 1e9:.2f}' if exchanged else '–',
        three_digits(1000 * row['least_seconds']),
        how,
    ]
    return f'| {" | ".join(cells)} |'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--only', default='', help='part of a name such as "v5e:2x4 imagenet64 train"')
    only = parser.parse_args().only
    set_up()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for topology in (*ARITHMETIC, *COMPILED):  # the fast ones first
        for (config, stage), (small, large) in PROGRAMS.items():
            name = f'{topology} {config} {stage}'
            if only in name and name not in rows:
                rows[name] = make_row(topology, config, stage, small if topology in COMPILED else large)
                write_json(RESULTS, rows)
    print(f'| {" | ".join(COLUMNS)} |')
    print('|---' * len(COLUMNS) + '|')
    for row in rows.values():
        print(line(row))


if __name__ == '__main__':
    main()
