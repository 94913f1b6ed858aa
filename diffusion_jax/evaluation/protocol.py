"""The protocol behind a result, and how it deviates from the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.evaluation.eval_set import EvalSet
from diffusion_jax.evaluation.extractors import PIXELS, Extractor
from diffusion_jax.evaluation.feature_stats import FeatureStats
from diffusion_jax.settings import read_section

PAPER_SAMPLES = 50_000
PAPER_REFERENCES = 'VIRTUAL_'  # prefix of the authors' reference files
RELEASED_FILES = (  # of Inception; older versions also converted the second and the third
    'pt_inception-2015-12-05-6726825d.pth',
    'inception-2015-12-05.pt',
    'inception-v3-2015-12-05.pkl',
    'classify_image_graph_def.pb',
)


def protocol(
    samples: EvalSet,
    of_samples: FeatureStats,
    reference: EvalSet,
    of_reference: FeatureStats,
    extractor: Extractor | None,
) -> dict[str, Any]:
    """What was compared: the sets, the numbers of their images, and the features."""
    rows = None if of_reference.features is None else len(of_reference.features)
    stats = {samples.name: of_samples, reference.name: of_reference}
    read = [name for name, known in stats.items() if known.features is not None and known.rows is None]
    return {
        'samples': samples.name,
        'num_samples': of_samples.num_images or 'not recorded in the file',
        'class_balance': _balance(None if samples.images is None else samples.images.labels),
        'reference': reference.name,
        'reference_images': of_reference.num_images or 'not recorded in the file',
        'reference_images_of_precision_recall_kid': rows or 'none',
        'left_out': [*of_samples.unreadable, *of_reference.unreadable],
        'skipped_files': [known.skipped for known in (of_samples, of_reference) if known.skipped],
        **({'features_read_from': read} if read else {}),
        **({'reference_classes': reference.classes} if reference.classes else {}),
        **(extractor.protocol if extractor else {'features': 'read from the files'}),
    }


def sampling_protocol(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """How the samples were made, from their stamp: sampler, steps, scale, seed, averages and networks."""
    process, sample = read_section(DiffusionConfig, stamp['process'], 'process'), stamp['sample']
    others = {name: section for name, section in stamp.items() if name not in ('sample', 'classes')}
    if 'classes' in stamp:  # of all labels; the setting of this name gives those that were sampled
        others['class_names'] = stamp['classes']
    return {
        **sample,
        'steps': len(make_grid(process, sample['respacing'], sample.get('timesteps', 'fractional')).level.t),
        'checkpoint_step': stamp['diffusion'].get('step'),
        **others,
    }


def caveats(protocol: Mapping[str, Any], samples: FeatureStats, reference: FeatureStats) -> Iterator[str]:
    """Why numbers cannot be compared with the paper's, or are unreliable."""
    if protocol['features'].startswith(PIXELS):
        yield (
            'pixels were compared, not features of Inception: this is no FID, and comparable only with '
            'pixels against the same reference'
        )
    yield from stats_caveats('samples', samples)
    yield from stats_caveats('images of the reference', reference)
    if samples.features is None or reference.features is None:
        yield 'precision, recall and KID need images or features on both sides'
    if samples.image_size and reference.image_size and samples.image_size != reference.image_size:
        ours, theirs = ('×'.join(map(str, stats.image_size)) for stats in (samples, reference))
        yield f'the samples have {ours} pixels, the images of the reference {theirs}'
    if 'inception' in protocol:
        yield from _deviations(protocol, samples.num_images)


def stats_caveats(what: str, stats: FeatureStats) -> Iterator[str]:
    """Caveats about one set, such as what='samples'."""
    dimensions = 0 if stats.moments is None else len(stats.moments.mean)
    if 0 < stats.num_images <= dimensions:
        yield (
            f'{stats.num_images:,} {what} give a singular covariance of {dimensions:,} features: the '
            'Fréchet distance is far too large'
        )
    if dimensions and not stats.moments.covariance.any():
        yield f'all {what} have the same features'
    if stats.unreadable:
        more = f'; and {len(stats.unreadable) - 3} more' if len(stats.unreadable) > 3 else ''
        yield f'{len(stats.unreadable)} {what} were left out: {"; ".join(stats.unreadable[:3])}{more}'
    if stats.skipped:
        yield stats.skipped


def _deviations(protocol: Mapping[str, Any], num_samples: int) -> Iterator[str]:
    """Deviations from the paper's protocol."""
    inception = protocol['inception']
    if num_samples and num_samples != PAPER_SAMPLES:
        biased = 'upwards with fewer' if num_samples < PAPER_SAMPLES else 'downwards with more'
        yield f'{num_samples:,} samples (the paper uses {PAPER_SAMPLES:,}); FID is biased {biased} samples'
    if not Path(protocol['reference']).name.startswith(PAPER_REFERENCES):
        yield "the reference is none of the paper's (VIRTUAL_….npz)"
    if inception['resize'] != 'tensorflow':
        yield f"images were resized as in {inception['resize']}; the paper's as in TensorFlow 1"
    for name in protocol.get('features_read_from', ()):
        yield f'the features of {name} were read from a file, perhaps of another Inception'
    if inception['source'] not in RELEASED_FILES:
        yield f'the weights of Inception are from {inception["source"]}, which is no released file'


def _balance(labels: np.ndarray | None) -> str:
    if labels is None:
        return 'not recorded'
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) == 1:
        return 'one class'
    if counts.max() - counts.min() <= 1:
        return f'balanced over {len(counts)} classes'
    return f'{counts.min()} to {counts.max()} of each of {len(counts)} classes'


def table(result: Mapping[str, Any]) -> str:
    """The numbers of a result, with their standard errors."""
    errors = result.get('standard_errors', {})
    numbers = {name: value for name, value in result.items() if isinstance(value, (int, float))}
    width = max(map(len, numbers))
    lines = []
    for name, value in numbers.items():
        error = f' ± {errors[name]:.2g}' if name in errors else ''
        lines.append(f'  {name.replace("_", " "):<{width}}  {value:.5g}{error}')
    return '\n'.join(lines)


def description(protocol: Mapping[str, Any]) -> str:
    """A line for each item of a protocol but those that caveats report."""
    lines = []
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            value = ', '.join(f'{key} {item}' for key, item in value.items())
        if name not in ('left_out', 'skipped_files'):
            lines.append(f'  {name.replace("_", " ")}: {value}')
    return '\n'.join(lines)
