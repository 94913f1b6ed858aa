"""Compare lossless formats of prepared images by bytes and CPU time, for data_speed.py."""

import io
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

READS = 4  # of every image, in random order


def compare_formats(images: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """By name of a format: mean bytes, milliseconds to write one image, and milliseconds to read it.

    images: uint8 [H, W, 3], all of one size.
    """
    shape = images[0].shape

    def encoded(**options: Any) -> Any:
        def encode(image: np.ndarray) -> bytes:
            Image.fromarray(image).save(file := io.BytesIO(), **options)
            return file.getvalue()

        return encode

    def decoded(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)))

    def pixels(data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.uint8).reshape(shape)

    webp = encoded(format='webp', lossless=True, quality=50, method=2)
    kinds = {
        'uint8': (np.ndarray.tobytes, pixels, 'uncompressed'),
        'uint8, Zstandard': (np.ndarray.tobytes, pixels, 'zstd:3'),
        'PNG': (encoded(format='png'), decoded, 'uncompressed'),
        'WebP, lossless': (webp, decoded, 'uncompressed'),
    }
    return {name: _measure(images, *kind) for name, kind in kinds.items()}


def _measure(images: Sequence[np.ndarray], encode: Any, decode: Any, compression: str) -> dict[str, float]:
    with tempfile.NamedTemporaryFile() as file:
        begin = time.process_time()
        writer = ArrayRecordWriter(file.name, f'group_size:1,{compression}')
        for image in images:
            writer.write(encode(image))
        writer.close()
        writing = time.process_time() - begin
        reader = ArrayRecordReader(file.name, options='readahead_buffer_size:0')
        order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(images)), READS)).tolist()
        begin = time.process_time()
        for i in order:
            decode(reader.read([i])[0])
        reading = time.process_time() - begin
        assert (decode(reader.read([0])[0]) == images[0]).all()
        return {
            'bytes': os.path.getsize(file.name) / len(images),
            'write_ms': 1000 * writing / len(images),
            'read_ms': 1000 * reading / len(order),
        }
