"""Which images a run reads, and how they are prepared."""

from dataclasses import dataclass

from diffusion_jax.checks import between, one_of
from diffusion_jax.errors import UserError
from diffusion_jax.settings import FilePath

# Settings of how images are read: a run may be resumed with other values.
READING_SETTINGS = ('num_workers', 'on_error', 'max_skipped', 'check_files')
# Settings of where images are. A training depends on their names instead, so that images may be moved.
LOCATION_SETTINGS = ('path', 'train_split', 'test_split')
# What gives the class of an image.
LABELS = ('folder', 'prefix', 'none')
# The kinds of sources; data.sources.kinds has how each is recognised and opened.
KINDS = ('digits', 'folder', 'archive', 'table', 'npz', 'lmdb', 'prepared', 'tfds')


@dataclass(frozen=True)
class DataConfig:
    """Images are decoded in one way for training, evaluation and references: the orientation in EXIF data is
    applied, transparent pixels are put on white, and images become RGB or grey. The authors' release ignores
    the orientation and drops the alpha channel.

    Attributes:
    name: the kind of source. 'auto' is the kind that is at `path`, or tfds with `tfds_name`. 'digits',
        scikit-learn's 8×8 digits; 'folder', image files; 'archive', a .zip or .tar of them; 'table', a .csv
        or .jsonl of paths and labels, or a folder with metadata.csv; 'npz', arr_0 and arr_1 as in the
        authors' release; 'lmdb', LSUN's files; 'prepared', what `diffusion-jax prepare`
        wrote; 'tfds', a prepared TensorFlow data set.
    path: where they are; for tfds with a name, its data_dir, '' for the library's default.
    tfds_name: the data set of tfds, such as 'cifar10' or 'my_data:1.0.0'; '' if `path` is its own folder.
    train_split: the file or sub-folder of `path` with training images, or what they are called inside the
        source: a folder of an archive, a value of the column `split` of a table, a split of tfds. '' is all
        of `path`. With the name 'auto', a folder without splits is the training split.
    test_split: the same for test images.
    labels: what gives the class of an image: its sub-folder ('folder'), its file name up to '_' ('prefix', as
        in the authors' release), or nothing ('none'). Tables, npz, tfds and prepared images have labels of
        their own, which 'none' leaves out.
    num_classes: the number of classes, 1 without labels; None takes it from the images, or from the stored
        network where nothing is trained. It may exceed the labels that occur in an npz.
    image_size: height and width to which images are cropped.
    image_channels: 1, grey, or 3, RGB.
    low_res_size: height and width of the images that an upsampler enlarges; None without upsampler. In
        training these images are means over areas of the training image.
    num_workers: threads that load batches ahead of the training step; training uses at least one.
    on_error: what an unreadable image does to training, validation and likelihood: 'stop' saves the state and
        stops; 'skip' leaves the image out. In training the next readable image, in the source's order,
        replaces it; means over a split are over its readable images. A stopped run can be resumed with
        'skip'. Evaluation always leaves unreadable images out.
    max_skipped: the largest number of different images to skip; more stop the run.
    check_files: reads all images before the first stage and reports the unreadable ones. At most 1,000 images
        in files of 200 MB are always checked.
    """

    name: str
    path: FilePath = ''
    tfds_name: str = ''
    train_split: str = 'train'
    test_split: str = 'test'
    labels: str = 'folder'
    num_classes: int | None = None
    image_size: tuple[int, int] = (8, 8)
    image_channels: int = 1
    low_res_size: tuple[int, int] | None = None
    num_workers: int = 0
    on_error: str = 'stop'
    max_skipped: int = 100
    check_files: bool = False


def check_data(config: DataConfig) -> None:
    """Raises UserError for a setting that cannot work."""
    one_of('name', config.name, ('auto', *KINDS))
    one_of('labels', config.labels, LABELS)
    one_of('image_channels', config.image_channels, (1, 3))
    if config.num_classes is not None:
        between('num_classes', config.num_classes, 1)
    between('num_workers', config.num_workers, 0)
    one_of('on_error', config.on_error, ('stop', 'skip'))
    between('max_skipped', config.max_skipped, 0)
    for side in config.image_size:
        between('image_size', side, 1)
    for low, side in zip(config.low_res_size or (), config.image_size, strict=False):
        between('low_res_size', low, 1, below=side)
    if config.name == 'digits':
        one_of('image_size', config.image_size, ((8, 8),))
        one_of('image_channels', config.image_channels, (1,))
        one_of('num_classes', config.num_classes, (10, None))
    elif not (config.path or config.tfds_name):
        images = ('path', 'set it to a folder of images, or to an archive, a table or a data set')
        tfds = ('tfds_name', "set it to a data set, such as 'cifar10'")
        where, remedy = tfds if config.name == 'tfds' else images
        raise UserError(where, 'is not set', remedy)
