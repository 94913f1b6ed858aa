"""A prepared TensorFlow data set, read without TensorFlow: it must lie on disk as ArrayRecord files."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_jax.data.sources.reading import UnreadableImage, read_image
from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class TfdsSource:
    records: Sequence[dict[str, Any]]  # with encoded images
    class_names: tuple[str, ...]
    channels: int
    name: str  # of the data set and the split, for errors
    identity: str

    def __len__(self) -> int:
        return len(self.records)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [N]; reads every record."""
        return np.array([record['label'] for record in self.records], np.int32)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises UnreadableImage where the record or its image is damaged."""
        name = self.name_of(index)
        try:
            record = self.records[index]
        except Exception as error:  # ArrayRecord and the features' decoders have no error of their own
            raise UnreadableImage(f'{name}: cannot be read ({error})') from error
        image = read_image(io.BytesIO(record['image']), self.channels, name)
        return {'image': image, 'label': int(record['label']) if self.class_names else 0}

    def name_of(self, index: int) -> str:
        return f'{self.name}, record {index}'


def tfds_source(
    name: str, data_dir: str, split: str, channels: int, *, labelled: bool = True, num_classes: int = 0
) -> TfdsSource:
    """Features 'image' and, where there is one, 'label' of a split of the data set `name`.

    Args:
        data_dir: '' for the library's default.
        split: may be a slice such as 'train[:90%]'.
        labelled: whether the feature 'label' is used.
        num_classes: where labels are integers without names; these are their numbers then.
    """
    import tensorflow_datasets as tfds

    builder = _prepared_builder(name, data_dir)
    features = builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict):
        raise UserError(f'{name}: its records are {_kind(features)}; needed is a dict with the key image')
    _check_image(name, features, channels)
    class_names = _class_names(name, features, num_classes) if labelled and 'label' in features else ()
    try:
        records = builder.as_data_source(split=split, decoders={'image': tfds.decode.SkipDecoding()})
    except (KeyError, ValueError) as error:
        raise UserError(f'{name} has no split {split!r}; it has {", ".join(builder.info.splits)}') from error
    if not len(records):
        raise UserError(f'{name}: its split {split!r} is empty')
    version = f'{builder.info.full_name} {split}'
    return TfdsSource(records, class_names, channels, f'{name}, split {split!r}', version)


def _prepared_builder(name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    data_dir = data_dir or tfds.core.constants.DATA_DIR
    unprepared = UserError(
        f'{data_dir} holds no {name} as ArrayRecord files; run `tfds build {name} --file_format=array_record'
        f' --data_dir={data_dir}` where TensorFlow is installed'
    )
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format='array_record')
    except tfds.core.DatasetNotFoundError:
        raise UserError(f'config.data.tfds_name is {name!r}; there is no such data set') from None
    except ValueError as error:  # it lies there in another format
        raise unprepared from error
    except ImportError as error:  # of features such as Video
        raise UserError(
            f'{name}: has features that can be read only where {error.name} is installed; prepare a data set '
            'with the features image and label alone'
        ) from error
    if not builder.is_prepared():
        raise unprepared
    return builder


def _check_image(name: str, features: Mapping[str, Any], channels: int) -> None:
    """UserError unless the feature 'image' is of 8 bits, and of `channels` or an unknown number of them."""
    import tensorflow_datasets as tfds

    feature = features['image'] if 'image' in features else None
    if not isinstance(feature, tfds.features.Image):
        what = 'has no feature' if feature is None else f'has {_kind(feature)} as its feature'
        raise UserError(
            f'{name}: {what} image; needed is one of the type Image (it has {", ".join(features)})'
        )
    if feature.np_dtype != np.uint8:
        raise UserError(
            f'{name}: its images are {np.dtype(feature.np_dtype)}; needed are images of 8 bits, uint8'
        )
    if feature.shape[-1] not in (None, 0, channels):
        raise UserError(
            f'{name}: has images of {feature.shape[-1]} channels; config.data.image_channels is {channels}'
        )


def _class_names(name: str, features: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """The names of the classes in the order of their labels."""
    import tensorflow_datasets as tfds

    feature = features['label']
    unlabelled = "or set config.data.labels='none' and num_classes=1 to use the images without labels"
    if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes:
        return tuple(feature.names)
    is_scalar = isinstance(feature, tfds.features.Tensor) and feature.shape == ()
    if not is_scalar or np.dtype(feature.np_dtype).kind not in 'biu':
        raise UserError(
            f'{name}: its feature label is {_kind(feature)}; needed is a ClassLabel or one integer, '
            f'{unlabelled}'
        )
    if not num_classes:
        raise UserError(
            f'{name}: its labels are integers without names; set config.data.num_classes, {unlabelled}'
        )
    return tuple(map(str, range(num_classes)))


def _kind(feature: Any) -> str:
    """The type of a feature, and the type and shape of its numbers unless it is nested."""
    kind = type(feature).__name__
    nested = isinstance(feature.np_dtype, Mapping)
    return kind if nested else f'{kind} {np.dtype(feature.np_dtype)} {feature.shape}'
