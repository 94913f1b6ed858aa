"""What one must know to compare a number with others, and what makes it another number than the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.evaluation.comparison import Side
from diffusion_jax.evaluation.extractors import PIXELS
from diffusion_jax.evaluation.feature_sets import FeatureSet
from diffusion_jax.settings import read_section

PAPER_SAMPLES = 50_000
PAPER_REFERENCES = 'VIRTUAL_'  # how the names of the authors' reference files begin
RELEASED_FILES = (  # of Inception; older versions also converted the second and the third
    'pt_inception-2015-12-05-6726825d.pth',
    'inception-2015-12-05.pt',
    'inception-v3-2015-12-05.pkl',
    'classify_image_graph_def.pb',
)


def protocol(
    samples: Side, of_samples: FeatureSet, reference: Side, of_reference: FeatureSet
) -> dict[str, Any]:
    """How many images of which sets were compared."""
    rows = None if of_reference.features is None else len(of_reference.features)
    read = [side.name for side in (samples, reference) if side.stored.features is not None]
    return {
        'samples': samples.name,
        'num_samples': of_samples.num_images or 'not said by the file',
        'class_balance': _balance(None if samples.images is None else samples.images.labels),
        'reference': reference.name,
        'reference_images': of_reference.num_images or 'not said by the file',
        'reference_images_of_precision_recall_kid': rows or 'none',
        'left_out': [*of_samples.left_out, *of_reference.left_out],
        'skipped_files': [side.skipped for side in (of_samples, of_reference) if side.skipped],
        **({'features_read_from': read} if read else {}),
    }


def sampling_protocol(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """How samples were made, from their stamp: sampler, steps, scale, seed, averages and networks."""
    process, sample = read_section(DiffusionConfig, stamp['process'], 'process'), stamp['sample']
    others = {name: part for name, part in stamp.items() if name not in ('sample', 'classes')}
    if 'classes' in stamp:  # of all labels; the setting of this name says which of them were sampled
        others['class_names'] = stamp['classes']
    return {
        **sample,
        'steps': len(make_grid(process, sample['respacing'], sample.get('timesteps', 'fractional')).level.t),
        'checkpoint_step': stamp['diffusion'].get('step'),
        **others,
    }


def remarks(
    protocol: Mapping[str, Any],
    samples: FeatureSet,
    reference: FeatureSet,
) -> list[str]:
    """Why numbers may not be compared with the paper's, and what is wrong with them in themselves."""
    found = []
    if protocol.get('features', '').startswith(PIXELS):
        found.append(
            'pixels were compared, not features of Inception: this is no FID, and comparable with nothing '
            'but pixels against the same reference'
        )
    for what, known in (('samples', samples), ('images of the reference', reference)):
        dimensions = 0 if known.gaussian is None else len(known.gaussian.mean)
        if 0 < known.num_images <= dimensions:
            found.append(
                f'{known.num_images:,} {what} give a singular covariance of {dimensions:,} features: the '
                'Fréchet distance is far too large'
            )
        if dimensions and not known.gaussian.covariance.any():
            found.append(f'all {what} have the same features')
    if samples.features is None or reference.features is None:
        found.append('without images or features on both sides there are no precision, recall and KID')
    if samples.image_size and reference.image_size and samples.image_size != reference.image_size:
        ours, theirs = ('×'.join(map(str, side.image_size)) for side in (samples, reference))
        found.append(f'the samples are of {ours} pixels, the images of the reference of {theirs}')
    if 'inception' in protocol:
        found += _differences_from_the_paper(protocol, samples.num_images)
    left_out = [*samples.left_out, *reference.left_out]
    if left_out:
        others = f'; and {len(left_out) - 3} more' if len(left_out) > 3 else ''
        found.append(f'{len(left_out)} images were left out: {"; ".join(left_out[:3])}{others}')
    return found + [side.skipped for side in (samples, reference) if side.skipped]


def _differences_from_the_paper(protocol: Mapping[str, Any], num_samples: int) -> list[str]:
    found, inception = [], protocol['inception']
    if num_samples and num_samples != PAPER_SAMPLES:
        larger = 'larger' if num_samples < PAPER_SAMPLES else 'smaller'
        found.append(f'{num_samples:,} samples; the paper has {PAPER_SAMPLES:,}, and FID is {larger} so')
    if not Path(protocol['reference']).name.startswith(PAPER_REFERENCES):
        found.append("the reference is none of the paper's (VIRTUAL_….npz)")
    if inception['resize'] != 'tensorflow':
        found.append(f"images were resized as {inception['resize']} does, the paper's as TensorFlow 1 does")
    for name in protocol.get('features_read_from', ()):
        found.append(f'the features of {name} were read; nothing says that they are of the same Inception')
    if inception['source'] not in RELEASED_FILES:
        found.append(f'the weights of Inception come from {inception["source"]}, which is no released file')
    return found


def _balance(labels: np.ndarray | None) -> str:
    if labels is None:
        return 'not stored'
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) == 1:
        return 'one class'
    if counts.max() - counts.min() <= 1:
        return f'balanced over {len(counts)} classes'
    return f'{counts.min()} to {counts.max()} of each of {len(counts)} classes'


def table(result: Mapping[str, Any]) -> str:
    """The numbers for people, with their standard errors where there are some."""
    errors = result.get('standard_errors', {})
    numbers = {name: value for name, value in result.items() if isinstance(value, (int, float))}
    width = max(map(len, numbers))
    lines = []
    for name, value in numbers.items():
        error = f' ± {errors[name]:.2g}' if name in errors else ''
        lines.append(f'  {name.replace("_", " "):<{width}}  {value:.5g}{error}')
    return '\n'.join(lines)


def description(protocol: Mapping[str, Any]) -> str:
    """The protocol for people, a line for each thing; `remarks` has what was left out and skipped."""
    lines = []
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            value = ', '.join(f'{key} {item}' for key, item in value.items())
        if name not in ('left_out', 'skipped_files'):
            lines.append(f'  {name.replace("_", " ")}: {value}')
    return '\n'.join(lines)
