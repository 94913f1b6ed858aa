"""Restricts a reference to the classes of the samples, or explains why it is not restricted.

If the reference names its classes, they are matched by name. If it only numbers them, they are matched by
number, with a caveat. Names are never matched with numbers: classes may be in any order.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import listed
from diffusion_jax.data.image_sets.base import ImageSet
from diffusion_jax.data.image_sets.source import SourceImages
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.eval_set import EvalSet
from diffusion_jax.evaluation.feature_stats import LEAST_IMAGES


class Classes(NamedTuple):
    """The classes of a set of images. labels: int [N]; names: by label, () if unknown."""

    labels: np.ndarray
    names: Sequence[str] = ()


class Sampled(NamedTuple):
    """The classes of samples. labels: sorted; num_classes: of the model; names: by label, () if unknown."""

    labels: tuple[int, ...]
    num_classes: int
    names: Sequence[str] = ()

    @property
    def all(self) -> bool:
        return len(self.labels) == self.num_classes

    def describe(self) -> str:
        """Such as '2 of 10 classes (cat, dog)'."""
        names = [str(self.names[label] if self.names else label) for label in self.labels]
        return f'{len(self.labels)} of {self.num_classes} classes ({listed(names)})'


def known_classes(images: ImageSet | None, names: Sequence[str] = ()) -> Classes | None:
    """The classes of images: their labels, or the sub-folders of a folder; None if unknown.

    names: by label, if the set does not have them.
    """
    if not isinstance(images, SourceImages):
        if images is None or images.labels is None:
            return None
        return Classes(images.labels, names if len(names) > images.labels.max() else ())
    source = images.source
    if source.class_names:
        return Classes(source.labels, imagenet.readable(source.class_names))
    inside = [os.path.relpath(path, Path(images.name)).split(os.sep) for path in source.paths]
    if not inside or any(len(parts) < 2 or parts[0] == os.pardir for parts in inside):
        return None
    folders, labels = np.unique([parts[0] for parts in inside], return_inverse=True)
    return Classes(labels, imagenet.readable(folders.tolist()))


def sampled_classes(samples: Classes | None, reference: Classes | None) -> Sampled | None:
    """The classes of samples from their labels; None if they have none."""
    if samples is None:
        return None
    labels = np.unique(samples.labels).tolist()
    # Labels may leave out classes.
    num_classes = [len(of.names) or int(of.labels.max()) + 1 for of in (samples, reference) if of is not None]
    return Sampled(tuple(labels), num_classes[0] if samples.names else max(num_classes), tuple(samples.names))


def match(
    sampled: Sampled | None, reference: EvalSet, classes: Classes | None, *, same_classes: bool | None = None
) -> EvalSet:
    """The reference, restricted to the sampled classes if possible; otherwise with a caveat if it has others.

    Args:
        classes: of the images of the reference.
        same_classes: True raises UserError if it cannot be restricted, False adds the caveat only.
    """
    if sampled is None:
        if same_classes:
            raise UserError('--same-classes', 'the classes of the samples are unknown', 'omit it')
        return reference
    labels, reason = _labels_of(sampled, classes)
    if classes is None or reason:
        if sampled.all and not same_classes:
            return reference
    else:
        chosen = np.isin(classes.labels, labels)
        missing = len(labels) - len(np.unique(classes.labels[chosen]))
        if missing:
            reason = f'it has no image of {missing} of them'
        elif chosen.all():
            return reference
        elif reference.stats.moments is not None:
            reason = 'its mu and sigma are of all its images'
        elif chosen.sum() < LEAST_IMAGES:
            reason = f'it has only {chosen.sum()} images of them'
        elif same_classes is False:
            reason = 'use --same-classes to exclude its other classes'
    if classes is None or reason:
        problem = f'{reference.name} is not restricted to the samples, {sampled.describe()}: {reason}'
        if same_classes:
            raise UserError('--same-classes', problem, 'omit it, or give images of these classes only')
        return reference._replace(caveats=(problem,))
    assert reference.images is not None
    by = 'names' if classes.names else 'numbers'
    caveat = f'{reference.name} does not name its classes; those of the samples were matched by their numbers'
    folder = f'{reference.directory}-classes-{zlib.crc32(repr(sorted(labels)).encode()):08x}'
    return reference._replace(
        images=reference.images.choose(chosen),
        directory=Path(folder),
        classes=f'{sampled.describe()}, matched by their {by}',
        caveats=() if classes.names else (caveat,),
    )


def _labels_of(sampled: Sampled, classes: Classes | None) -> tuple[Sequence[int], str]:
    """The labels of the sampled classes in the reference; or why they are unknown."""
    if classes is None:
        return (), 'the classes of its images are unknown'
    if not classes.names:
        return sampled.labels, ''
    if not sampled.names:
        return (), 'it names its classes, but the names of those of the samples are unknown'
    label_of = {name: label for label, name in enumerate(classes.names)}
    names = [sampled.names[label] for label in sampled.labels]
    missing = [name for name in names if name not in label_of]
    return ((), f'it has no class {missing[0]!r}') if missing else ([label_of[name] for name in names], '')
