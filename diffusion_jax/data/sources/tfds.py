"""A prepared TensorFlow data set, read without TensorFlow: it must lie on disk as ArrayRecord files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError


@dataclass(frozen=True)
class TfdsSource:
    records: Sequence[dict[str, Any]]
    class_names: tuple[str, ...]
    identity: str
    open_labels: Callable[[], Sequence[dict[str, Any]]]  # the records with images that are not decoded

    def __len__(self) -> int:
        return len(self.records)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [N]; reads every record."""
        return np.array([record['label'] for record in self.open_labels()], np.int32)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        return {'image': record['image'], 'label': int(record.get('label', 0))}


def tfds_source(name: str, data_dir: str, split: str, channels: int) -> TfdsSource:
    """Features 'image' and, where there is one, 'label' of a split of the data set `name`.

    data_dir: '' for the library's default. split: may be a slice such as 'train[:90%]'.
    """
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
    if not builder.is_prepared():
        raise unprepared
    features = builder.info.features
    if 'image' not in features or features['image'].shape[-1] != channels:
        raise UserError(f'{name}: has no images of {channels} channels, as config.data.image_channels says')
    try:
        records = builder.as_data_source(split=split)
    except (KeyError, ValueError) as error:
        raise UserError(f'{name} has no split {split!r}; it has {", ".join(builder.info.splits)}') from error
    class_names = tuple(features['label'].names) if 'label' in features else ()

    def open_labels() -> Sequence[dict[str, Any]]:
        return builder.as_data_source(split=split, decoders={'image': tfds.decode.SkipDecoding()})

    return TfdsSource(records, class_names, f'{builder.info.full_name} {split}', open_labels)
