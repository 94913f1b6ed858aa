"""A prepared TensorFlow data set, read without TensorFlow: its files must be ArrayRecord files."""

import contextlib
import functools
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.reading import UnreadableImage, read_picture
from diffusion_jax.data.sources.splits import name_of_split
from diffusion_jax.errors import UserError, reason

WITHOUT_LABELS = "set config.data.labels='none' and num_classes=1 to use the images without labels"


@dataclass(frozen=True)
class TfdsSource(Source):
    records: Sequence[dict[str, Any]]  # with encoded images
    class_names: tuple[str, ...]
    channels: int
    name: str  # of the data set and the split, for errors
    identity: str

    def __len__(self) -> int:
        return len(self.records)

    @functools.cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]  # computed when it is asked for
        """int32 [N]; reads every record."""
        return np.array([record['label'] for record in self.records], np.int32)

    def picture(self, index: int) -> dict[str, Any]:
        """See Source. Raises UnreadableImage where the record or its image is damaged."""
        name = self.name_of(index)
        try:
            record = self.records[index]
        except Exception as error:  # ArrayRecord and the features' decoders have no error of their own
            raise UnreadableImage(name, f'cannot be read ({reason(error)})') from error
        image = read_picture(record['image'], self.channels, name)
        label, num_classes = int(record['label']) if self.class_names else 0, len(self.class_names)
        if label != 0 and not 0 <= label < num_classes:  # such as the -1 of unlabelled test splits
            problem = f'its label is {label}; {num_classes} classes have the labels 0 to {num_classes - 1}'
            raise UserError(name, problem, f'use another split, or {WITHOUT_LABELS}')
        return {'image': image, 'label': label}

    def name_of(self, index: int) -> str:
        return f'{self.name}, record {index}'


def tfds_source(config: DataConfig, split: str, class_names: tuple[str, ...] | None = None) -> TfdsSource:
    """A split, or a slice such as 'train[:90%]', of `config.tfds_name`, or of the data set at `config.path`.

    Its features are 'image' and, unless `config.labels` is 'none', 'label', if there is one. Labels that are
    integers without names are named by their numbers, of which there are `config.num_classes`.
    """
    import tensorflow_datasets as tfds

    builder = _prepared_builder(config)
    split = name_of_split(config, split)
    name, features = config.tfds_name or builder.info.full_name, builder.info.features
    is_dict = isinstance(features, tfds.features.FeaturesDict)
    image = features['image'] if is_dict and 'image' in features else None
    if (
        not isinstance(image, tfds.features.Image)
        or image.np_dtype != np.uint8
        or image.shape[-1] not in (None, 0, config.image_channels)
    ):
        needed = f'a feature image of the type Image, uint8, with {config.image_channels} channels'
        raise UserError(name, f'its features are {_described(features)}', f'training needs {needed}')
    labelled = config.labels != 'none' and 'label' in features
    class_names = _class_names(name, features['label'], config.num_classes) if labelled else ()
    try:
        records = builder.as_data_source(split=split, decoders={'image': tfds.decode.SkipDecoding()})
    except (KeyError, ValueError) as error:
        splits = ', '.join(builder.info.splits)
        raise UserError(name, f'has no split {split!r}', f'its splits are {splits}') from error
    version = f'{builder.info.full_name} {split}'
    return TfdsSource(records, class_names, config.image_channels, f'{name}, split {split!r}', version)


def is_tfds(path: str) -> bool:
    return _version_folder(path) is not None


def _version_folder(path: str) -> str | None:
    """The folder of a prepared data set: DATA_DIR/mnist/3.0.1, also for DATA_DIR/mnist with one version."""
    info = 'dataset_info.json'
    found = glob.glob(info, root_dir=path) or glob.glob(f'*/{info}', root_dir=path)
    return os.path.dirname(os.path.join(path, found[0])) if len(found) == 1 else None


def _prepared_builder(config: DataConfig) -> Any:
    import tensorflow_datasets as tfds

    name, data_dir = config.tfds_name, config.path or tfds.core.constants.DATA_DIR
    if name:
        where, what = 'config.data.tfds_name', f'{name} in {data_dir}'
        open_builder = functools.partial(tfds.builder, name, data_dir=data_dir)
        command = f'tfds build {name} --file_format=array_record --data_dir={data_dir}'
    elif folder := _version_folder(data_dir):
        where, what = 'config.data.path', folder
        open_builder = functools.partial(tfds.builder_from_directory, folder)
        command = f'tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record'
    else:
        problem = f'is not set, and {data_dir} has no dataset_info.json of a version of a prepared data set'
        raise UserError('config.data.tfds_name', problem, "set it to a data set, such as 'cifar10'")
    # ValueError: prepared in another format.
    with contextlib.suppress(tfds.core.DatasetNotFoundError, ValueError, OSError):
        builder = open_builder(file_format='array_record')
        if builder.is_prepared():
            return builder
    problem = f'{what} is not prepared as ArrayRecord files'
    raise UserError(where, problem, f'run `{command}` where TensorFlow is installed')


def _class_names(name: str, label: Any, num_classes: int | None) -> tuple[str, ...]:
    """The names of the classes in the order of their labels."""
    import tensorflow_datasets as tfds

    if isinstance(label, tfds.features.ClassLabel) and label.num_classes:
        return tuple(label.names)
    is_scalar = isinstance(label, tfds.features.Tensor) and label.shape == ()
    if not is_scalar or np.dtype(label.np_dtype).kind not in 'biu' or not num_classes:
        needed = 'a ClassLabel, or an integer of which config.data.num_classes gives the number'
        raise UserError(
            name, f'its feature label is {_described(label)}', f'it must be {needed}; or {WITHOUT_LABELS}'
        )
    return tuple(map(str, range(num_classes)))


def _described(feature: Any) -> str:
    """A feature in one line, such as Image(shape=(None, None, 4), dtype=uint8)."""
    return ' '.join(repr(feature).split())
