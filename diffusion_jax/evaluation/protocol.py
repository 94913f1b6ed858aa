"""The protocol behind a result, and how it deviates from the paper's."""

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


def protocol(samples: EvalSet, reference: EvalSet, extractor: Extractor | None) -> dict[str, Any]:
    """What was compared: the sets, the numbers of their images, and the features."""
    sets, features = (samples, reference), reference.stats.features
    read = [one.name for one in sets if one.stats.features is not None and one.stats.rows is None]
    return {
        'samples': samples.name,
        'num_samples': samples.stats.num_images or 'not recorded in the file',
        'class_balance': _balance(None if samples.images is None else samples.images.labels),
        'reference': reference.name,
        'reference_images': reference.stats.num_images or 'not recorded in the file',
        'reference_images_of_precision_recall_kid': 'none' if features is None else len(features),
        'left_out': [reason for one in sets for reason in one.stats.unreadable],
        'skipped_files': [one.stats.skipped for one in sets if one.stats.skipped],
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
        yield 'pixels were compared: this is no FID, and comparable only with pixels against this reference'
    yield from stats_caveats('samples', samples)
    yield from stats_caveats('images of the reference', reference)
    if samples.features is None or reference.features is None:
        yield 'precision, recall and KID need images or features on both sides'
    ours, theirs = ('×'.join(map(str, stats.image_size or ())) for stats in (samples, reference))
    if ours and theirs and ours != theirs:
        yield f'the samples have {ours} pixels, the images of the reference {theirs}'
    if 'inception' not in protocol:
        return
    count = samples.num_images
    if count and count != PAPER_SAMPLES:
        bias = 'upwards with fewer' if count < PAPER_SAMPLES else 'downwards with more'
        yield f'{count:,} samples (the paper uses {PAPER_SAMPLES:,}); FID is biased {bias} samples'
    if not Path(protocol['reference']).name.startswith(PAPER_REFERENCES):
        yield f"the reference is none of the paper's ({PAPER_REFERENCES}….npz)"
    if (resize := protocol['inception']['resize']) != 'tensorflow':
        yield f"images were resized as in {resize}; the paper's as in TensorFlow 1"
    for name in protocol.get('features_read_from', ()):
        yield f'the features of {name} were read from a file, perhaps of another Inception'
    if (source := protocol['inception']['source']) not in RELEASED_FILES:
        yield f'the weights of Inception are from {source}, which is no released file'


def stats_caveats(what: str, stats: FeatureStats) -> Iterator[str]:
    """Caveats about one set, such as what='samples'."""
    if stats.moments is not None:
        count, dimensions = stats.num_images, len(stats.moments.mean)
        if 0 < count <= dimensions:
            yield f'{count:,} {what} have a singular covariance of {dimensions:,} features; FID is too large'
        if not stats.moments.covariance.any():
            yield f'all {what} have the same features'
    if stats.unreadable:
        more = f'; and {len(stats.unreadable) - 3} more' if len(stats.unreadable) > 3 else ''
        yield f'{len(stats.unreadable)} {what} were left out: {"; ".join(stats.unreadable[:3])}{more}'
    if stats.skipped:
        yield stats.skipped


def _balance(labels: np.ndarray | None) -> str:
    if labels is None:
        return 'not recorded'
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) == 1:
        return 'one class'
    if counts.max() - counts.min() <= 1:
        return f'balanced over {len(counts)} classes'
    return f'{counts.min()} to {counts.max()} of each of {len(counts)} classes'


def report(result: Mapping[str, Any]) -> str:
    """The numbers of a result with their standard errors, and its protocol without what caveats report."""
    errors = result.get('standard_errors', {})
    numbers = {name: value for name, value in result.items() if isinstance(value, (int, float))}
    width = max(map(len, numbers))
    lines = []
    for name, value in numbers.items():
        error = f' ± {errors[name]:.2g}' if name in errors else ''
        lines.append(f'  {name.replace("_", " "):<{width}}  {value:.5g}{error}')
    for name, item in result['protocol'].items():
        text = ', '.join(f'{key} {x}' for key, x in item.items()) if isinstance(item, Mapping) else item
        if name not in ('left_out', 'skipped_files'):
            lines.append(f'  {name.replace("_", " ")}: {text}')
    return '\n'.join(lines)
