"""Measure samplers against the number of evaluations, and guidances against their scale, on the digits.

As in the paper's figure 4, precision and label agreement rise with the scale, and recall falls.

    python -m diffusion_jax.main --config=digits --workdir=runs/digits   # or: make demo
    pip install matplotlib
    python experiments/digits_sweep.py runs/digits samplers     # 25 minutes on 2 busy CPU cores
    python experiments/digits_sweep.py runs/digits guidance     # the same

500 images for each of three seeds; a number is the mean over seeds, ± half of their range. Writes
digits_<samplers or guidance>.json, .md (a table) and .png to experiments/results/. With --resume, rows of the
.json file are kept: to continue a sweep of the same weights that was stopped.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from digits_acceptance import label_agreement

import diffusion_jax
from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.evaluation.comparison import compare
from diffusion_jax.evaluation.extractors import pixels
from diffusion_jax.evaluation.feature_stats import of_features

METRICS = ('label_agreement', 'precision', 'recall', 'frechet_distance')
RESULTS = Path(__file__).parent / 'results'
NUM_SAMPLES, SEEDS, SCALES = 500, (0, 1, 2), (2.0, 5.0)

# With the grid of N levels on which a sampler is used: N evaluations, or 2N − 1 for Heun.
SAMPLERS = {
    'ddpm': '{n}',
    'ddim': 'ddim{n}',
    'heun': 'karras:{n}',
    'dpmpp_2m': 'log_snr:{n}',
    'dpmpp_3m': 'log_snr:{n}',
    'dpmpp_2m_sde': 'log_snr:{n}',
    'unipc': 'log_snr:{n}',
    'ipndm': 'karras:{n}',
}
LEVELS = (5, 10, 25)
DDPM, DDIM = {'sampler': 'ddpm', 'respacing': '25'}, {'sampler': 'ddim', 'respacing': 'ddim25'}
GUIDANCES = {
    'classifier, DDPM': DDPM | {'guidance': 'classifier'},
    'classifier, DDIM': DDIM | {'guidance': 'classifier'},
    'entropy, DDPM': DDPM | {'guidance': 'entropy'},
    'clean, DDPM': DDPM | {'guidance': 'clean'},
    'reconstruction, DDPM': DDPM | {'guidance': 'reconstruction'},
    'classifier, 2M SDE': {'sampler': 'dpmpp_2m_sde', 'respacing': 'log_snr:25', 'guidance': 'classifier'},
    'classifier, SMC of 10': {'sampler': 'smc:particles=10', 'respacing': '25', 'guidance': 'classifier'},
    'classifier at 0.3 ≤ σ < 5, DDPM': DDPM | {'guidance': 'classifier/interval:low=0.3,high=5'},
    'classifier, every second step, DDPM': DDPM | {'guidance': 'classifier/reuse:every=2'},
}


def of_samplers() -> Iterator[dict[str, Any]]:
    """The samplers, guided at scale 2, over numbers of levels."""
    for (name, grid), n in itertools.product(SAMPLERS.items(), LEVELS):
        arguments = {'sampler': name, 'respacing': grid.format(n=n), 'guidance': 'classifier', 'scale': 2.0}
        yield {'name': name, 'arguments': arguments}


def of_guidances() -> Iterator[dict[str, Any]]:
    """The guidances over scales, 25 steps."""
    for (name, arguments), scale in itertools.product(GUIDANCES.items(), SCALES):
        yield {'name': name, 'scale': scale, 'arguments': arguments | {'scale': scale}}


def measure(model: Any, real: Any, row: dict[str, Any]) -> dict[str, Any]:
    """The row with its metrics, (mean, half of the range) over seeds."""
    labels = np.arange(NUM_SAMPLES) * 10 // NUM_SAMPLES  # in order: all particles of a population have one
    found = []
    for seed in SEEDS:
        samples = model.sample(NUM_SAMPLES, labels, seed=seed, **row['arguments'])
        metrics = compare(of_features(pixels(samples.images)), real)
        metrics['label_agreement'] = label_agreement(samples.images, labels)
        found.append([float(metrics[name]) for name in METRICS])
    means, spreads = np.mean(found, axis=0), np.ptp(found, axis=0) / 2
    metrics = zip(METRICS, zip(means, spreads, strict=True), strict=True)
    return row | {'evaluations': samples.evaluations} | dict(metrics)


def table(rows: list[dict[str, Any]], along: str) -> str:
    """The rows as Markdown."""
    header = ['', along, *(name.replace('_', ' ') for name in METRICS)]
    lines = ['| ' + ' | '.join(header) + ' |', '|' + '---|' * len(header)]
    for row in rows:
        numbers = ' | '.join('{:.3f} ± {:.3f}'.format(*row[name]) for name in METRICS)
        lines.append(f'| {row["name"]} | {row[along]:g} | {numbers} |')
    return '\n'.join(lines) + '\n'


def plot(rows: list[dict[str, Any]], along: str, path: Path) -> None:
    """One panel a metric, one line a name."""
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(METRICS), figsize=(15, 3.6), layout='constrained')
    for axis, metric in zip(axes, METRICS, strict=True):
        for name in dict.fromkeys(row['name'] for row in rows):
            mine = [row for row in rows if row['name'] == name]
            means, spreads = zip(*(row[metric] for row in mine), strict=True)
            axis.errorbar([row[along] for row in mine], means, spreads, fmt='o-', ms=3, label=name)
        axis.set(title=metric.replace('_', ' '), xlabel=along, xscale='log')
        axis.xaxis.set_major_formatter('{x:g}')
        axis.xaxis.set_minor_formatter('{x:g}')
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right center', fontsize='small')
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('workdir', type=Path, help='where configs/digits.py was run')
    parser.add_argument('what', choices=('samplers', 'guidance'))
    parser.add_argument('--resume', action='store_true', help='keep the rows that are measured already')
    arguments = parser.parse_args()
    model = diffusion_jax.load(arguments.workdir)
    real = of_features(pixels(digits_source('test').images))
    along, chosen = {'samplers': ('evaluations', of_samplers), 'guidance': ('scale', of_guidances)}[
        arguments.what
    ]
    RESULTS.mkdir(exist_ok=True)
    path, rows = RESULTS / f'digits_{arguments.what}', []
    stored = json.loads(path.with_suffix('.json').read_text()) if arguments.resume else []
    for row in chosen():  # the files are complete after every row: a sweep may be stopped
        known = [other for other in stored if row.items() <= other.items()]
        rows += known or [measure(model, real, row)]
        print(table(rows[-1:], along).splitlines()[-1], flush=True)
        path.with_suffix('.json').write_text(json.dumps(rows, indent=1) + '\n')
        path.with_suffix('.md').write_text(table(rows, along))
        plot(rows, along, path.with_suffix('.png'))


if __name__ == '__main__':
    main()
