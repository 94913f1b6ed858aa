"""Measure fidelity and diversity of guided digits over guidance scales, for DDPM and DDIM.

As in the paper's figure 4, precision and label agreement rise with the scale, and recall falls.

    python -m diffusion_jax.main --config=configs/digits.py --workdir=runs/digits   # or: make demo
    pip install matplotlib
    python experiments/guidance_sweep.py runs/digits

Writes guidance_sweep.json, .md (a table) and .png to experiments/results/. Takes 10 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import matplotlib
import numpy as np
from digits_acceptance import label_agreement

from diffusion_jax import main as program
from diffusion_jax.data.image_sets.source import open_split
from diffusion_jax.evaluation.comparison import compare
from diffusion_jax.evaluation.extractors import pixels
from diffusion_jax.evaluation.feature_stats import of_features
from diffusion_jax.report import Progress
from diffusion_jax.sharding import make_mesh
from diffusion_jax.stages.conditioning import make_conditioning
from diffusion_jax.stages.networks import load_network
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import draw, make_generator
from diffusion_jax.stored_networks import CLASSIFIER, DIFFUSION

SCALES = (0, 0.5, 1, 2, 3, 4, 6, 8, 10)
METRICS = ('label_agreement', 'precision', 'recall', 'frechet_distance')
RESULTS = Path(__file__).parent / 'results'


def sweep(workdir: Path, num_samples: int) -> list[dict]:
    """One row of metrics for each sampler and scale."""
    config = Path(__file__).parent.parent / 'configs' / 'digits.py'
    options = program.parse_flags(['guidance_sweep', f'--config={config}', f'--workdir={workdir}'])
    run = Run(program.read_experiment(options.config), workdir.absolute(), make_mesh(1, 1), lambda: False)
    params = {name: load_network(run, name) for name in (DIFFUSION, CLASSIFIER)}
    real = of_features(pixels(open_split(run.experiment.data, 'test').read_all()))
    rows = []
    with Progress('guidance sweep', 2 * len(SCALES), unit='rows') as progress:
        for sampler, respacing in (('ddpm', '25'), ('ddim', 'ddim25')):
            for scale in SCALES:
                sample = dataclasses.replace(
                    run.experiment.sample, sampler=sampler, respacing=respacing, scale=float(scale)
                )
                changed = dataclasses.replace(
                    run, experiment=dataclasses.replace(run.experiment, sample=sample)
                )
                sampled = make_generator(changed, params), make_conditioning(changed)
                starts = range(0, num_samples, sample.batch_size)
                batches = [
                    draw(changed, *sampled, np.arange(start, start + sample.batch_size)) for start in starts
                ]
                images, labels = (np.concatenate(part)[:num_samples] for part in zip(*batches, strict=True))
                metrics = compare(of_features(pixels(images)), real)
                metrics['label_agreement'] = label_agreement(images, labels)
                rows.append({'sampler': sampler, 'scale': scale} | metrics)
                progress.update(len(rows))
    return rows


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    header = ['sampler', 'scale', *(name.replace('_', ' ') for name in METRICS)]
    lines = ['| ' + ' | '.join(header) + ' |', '|' + '---|' * len(header)]
    for row in rows:
        numbers = ' | '.join(f'{row[name]:.3f}' for name in METRICS)
        lines.append(f'| {row["sampler"].upper()} | {row["scale"]:g} | {numbers} |')
    return '\n'.join(lines) + '\n'


def plot(rows: list[dict], path: Path) -> None:
    """One panel a metric, one line a sampler."""
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(METRICS), figsize=(14, 3.2), layout='constrained')
    for axis, metric in zip(axes, METRICS, strict=True):
        for sampler, style in (('ddpm', 'o-'), ('ddim', 's--')):
            mine = [row for row in rows if row['sampler'] == sampler]
            label = f'{sampler.upper()}, 25 steps'
            axis.plot([row['scale'] for row in mine], [row[metric] for row in mine], style, ms=4, label=label)
        axis.set(title=metric.replace('_', ' '), xlabel='guidance scale', ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('workdir', type=Path, help='where configs/digits.py has been trained')
    parser.add_argument('--num_samples', type=int, default=1000)
    arguments = parser.parse_args()
    rows = sweep(arguments.workdir, arguments.num_samples)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / 'guidance_sweep.json').write_text(json.dumps(rows, indent=1) + '\n')
    (RESULTS / 'guidance_sweep.md').write_text(table(rows))
    plot(rows, RESULTS / 'guidance_sweep.png')
    print(table(rows))


if __name__ == '__main__':
    main()
