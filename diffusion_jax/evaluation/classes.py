"""Samples of some classes are compared with images of these classes, or a remark says that they are not.

Where the reference names its classes, names decide which are the same. Where it only numbers them, numbers
do, and a remark says so. Names are never matched with numbers: their order may be any.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.data import imagenet
from diffusion_jax.data.image_sets.base import ImageSet
from diffusion_jax.evaluation.comparison import Side
from diffusion_jax.evaluation.feature_sets import LEAST_IMAGES

SHOWN = 10  # classes that a message lists


class Classes(NamedTuple):
    """The classes of a set of images.

    Attributes:
        labels: int [N].
        names: names[i] is that of label i; () where they are not known.
    """

    labels: np.ndarray
    names: Sequence[str] = ()

    @property
    def count(self) -> int:
        """How many classes the set has at least; labels may leave some out."""
        return len(self.names) or int(self.labels.max()) + 1


class Sampled(NamedTuple):
    """The classes that samples are of.

    Attributes:
        labels: in order.
        num_classes: of the model; where that is not known, as many as are known.
        names: of label i names[i]; () where they are not known.
    """

    labels: tuple[int, ...]
    num_classes: int
    names: Sequence[str] = ()

    @property
    def all(self) -> bool:
        return len(self.labels) == self.num_classes

    def named(self) -> str:
        """'2 of 10 classes (cat, dog)'."""
        shown = [str(self.names[label] if self.names else label) for label in self.labels[:SHOWN]]
        more = ', …' if len(self.labels) > SHOWN else ''
        return f'{len(self.labels)} of {self.num_classes} classes ({", ".join(shown)}{more})'


class Matched(NamedTuple):
    """A reference, and what is known of its classes.

    Attributes:
        side: of the sampled classes alone where `by` is set.
        sampled: the classes of the samples; None where they have none.
        by: 'names' or 'numbers', by which their images were found; '' where the reference is as it was.
        reason: why the reference has other classes than the samples; '' where it has the same ones.
        unknown: why the classes of the reference are unknown; '' if they are known.
    """

    side: Side
    sampled: Sampled | None = None
    by: str = ''
    reason: str = ''
    unknown: str = ''


def known_classes(images: ImageSet, names: Sequence[str] = ()) -> Classes | None:
    """The classes of images as far as the set says them: labels; of a folder of images, its sub-folders.

    names: those of the labels, where the set itself does not say them.
    """
    source = getattr(images, 'source', None)
    if source is None:
        if images.labels is None or not len(images.labels):
            return None
        return Classes(images.labels, names if len(names) > images.labels.max() else ())
    if source.class_names:
        return Classes(np.asarray(source.labels), imagenet.readable(source.class_names))
    return _sub_folders(Path(images.name), getattr(source, 'paths', ()))


def _sub_folders(root: Path, paths: Sequence[str]) -> Classes | None:
    """A class for each sub-folder; None where an image lies in none."""
    inside = [os.path.relpath(path, root).split(os.sep) for path in paths]
    if not inside or any(len(parts) < 2 or parts[0] == os.pardir for parts in inside):
        return None
    names, labels = np.unique([parts[0] for parts in inside], return_inverse=True)
    return Classes(labels, imagenet.readable(names.tolist()))


def sampled_classes(
    samples: Classes | None, reference: Classes | None, drawn_from: Sequence[int] = ()
) -> Sampled | None:
    """The classes of samples, from their labels; None where they have none.

    Args:
        reference: says how many classes there are where the samples' names do not.
        drawn_from: what random labels were drawn from; some of these may be missing by chance.
    """
    if samples is None:
        return None
    labels = drawn_from or np.unique(samples.labels).tolist()
    others = 0 if samples.names or reference is None else reference.count
    return Sampled(tuple(labels), max(samples.count, others, max(labels) + 1), tuple(samples.names))


def match(sampled: Sampled | None, reference: Side, classes: Classes | None, *, restrict: bool) -> Matched:
    """The reference, if `restrict` with the sampled classes alone, or why it has others.

    classes: those of the reference's images; None where nothing says them.
    """
    if sampled is None:
        return Matched(reference)
    wanted = _labels_of(sampled, classes)
    if isinstance(wanted, str):
        return Matched(reference, sampled, unknown=wanted)
    chosen = np.isin(classes.labels, wanted)
    missing = len(wanted) - len(np.unique(classes.labels[chosen]))
    if missing:
        return Matched(reference, sampled, reason=f'it has no image of {missing} of them')
    if chosen.all():
        return Matched(reference, sampled)
    if reference.stored.gaussian is not None:
        return Matched(reference, sampled, reason='its mu and sigma are of all its images')
    if chosen.sum() < LEAST_IMAGES:
        return Matched(reference, sampled, reason=f'it has only {chosen.sum()} images of them')
    if not restrict:
        return Matched(reference, sampled, reason='it has others, which --same-classes leaves out')
    part = f'-classes-{zlib.crc32(repr(sorted(wanted)).encode()):08x}'
    side = reference._replace(images=reference.images.choose(chosen), part=part)
    return Matched(side, sampled, by='names' if classes.names else 'numbers')


def _labels_of(sampled: Sampled, classes: Classes | None) -> Sequence[int] | str:
    """The labels that the sampled classes have in the reference; or why nobody can say."""
    if classes is None:
        return 'nothing says the classes of its images'
    if not classes.names:
        return sampled.labels
    if not sampled.names:
        return 'it names its classes, and nothing says the names of those of the samples'
    number = {name: label for label, name in enumerate(classes.names)}
    names = [sampled.names[label] for label in sampled.labels]
    missing = [name for name in names if name not in number]
    return f'it has no class {missing[0]!r}' if missing else [number[name] for name in names]


def about_classes(matched: Matched) -> tuple[dict[str, str], list[str]]:
    """What protocol and remarks say of the classes of the reference."""
    name, sampled = matched.side.name, matched.sampled
    reason = matched.reason or ('' if sampled is None or sampled.all else matched.unknown)
    if reason:
        remark = f'the reference {name} is not restricted to them: {reason}'
        return {}, [f'the samples are of {sampled.named()}; {remark}']
    if not matched.by:
        return {}, []
    protocol = {'reference_classes': f'{sampled.named()}, found by their {matched.by}'}
    remark = f'{name} does not name its classes; those of the samples were found by their numbers'
    return protocol, [remark] if matched.by == 'numbers' else []
