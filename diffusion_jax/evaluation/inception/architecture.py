"""The architecture of Inception v3 (Szegedy et al. 2015, arXiv 1512.00567) as data.

TensorFlow's version of 2015-12-05, which published FIDs use: average pools do not count padding, and the last
block pools by maximum. Names are those of the PyTorch port.
"""

from typing import NamedTuple


class Conv(NamedTuple):
    """A convolution with `channels` output channels, then ReLU."""

    name: str
    channels: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = 'SAME'


class Pool(NamedTuple):
    """Maxima or means over 3x3 pixels."""

    kind: str  # 'max' | 'average'
    stride: int = 1
    padding: str = 'SAME'


# Steps one after the other; a list holds chains with the same input, whose outputs are concatenated.
Chain = tuple['Conv | Pool | Block', ...]
Block = list[Chain]

AVERAGE, MAXIMUM, SHRINK = Pool('average'), Pool('max'), Pool('max', 2, 'VALID')


def _block_5(pool: int) -> Block:
    """35x35 pixels."""
    return [
        (Conv('branch1x1', 64),),
        (Conv('branch5x5_1', 48), Conv('branch5x5_2', 64, (5, 5))),
        (Conv('branch3x3dbl_1', 64), Conv('branch3x3dbl_2', 96, (3, 3)), Conv('branch3x3dbl_3', 96, (3, 3))),
        (AVERAGE, Conv('branch_pool', pool)),
    ]


def _block_6(inner: int) -> Block:
    """17x17 pixels; 7x7 convolutions are factored into 1x7 and 7x1."""
    return [
        (Conv('branch1x1', 192),),
        (Conv('branch7x7_1', inner), Conv('branch7x7_2', inner, (1, 7)), Conv('branch7x7_3', 192, (7, 1))),
        (
            Conv('branch7x7dbl_1', inner),
            Conv('branch7x7dbl_2', inner, (7, 1)),
            Conv('branch7x7dbl_3', inner, (1, 7)),
            Conv('branch7x7dbl_4', inner, (7, 1)),
            Conv('branch7x7dbl_5', 192, (1, 7)),
        ),
        (AVERAGE, Conv('branch_pool', 192)),
    ]


def _block_7(pool: Pool) -> Block:
    """8x8 pixels; 3x3 convolutions end in 1x3 and 3x1 in parallel."""
    return [
        (Conv('branch1x1', 320),),
        (Conv('branch3x3_1', 384), _cross('branch3x3_2')),
        (Conv('branch3x3dbl_1', 448), Conv('branch3x3dbl_2', 384, (3, 3)), _cross('branch3x3dbl_3')),
        (pool, Conv('branch_pool', 192)),
    ]


def _cross(name: str) -> Block:
    return [(Conv(f'{name}a', 384, (1, 3)),), (Conv(f'{name}b', 384, (3, 1)),)]


STEM: Chain = (
    Conv('Conv2d_1a_3x3', 32, (3, 3), 2, 'VALID'),
    Conv('Conv2d_2a_3x3', 32, (3, 3), 1, 'VALID'),
    Conv('Conv2d_2b_3x3', 64, (3, 3)),
    SHRINK,
    Conv('Conv2d_3b_1x1', 80),
    Conv('Conv2d_4a_3x3', 192, (3, 3), 1, 'VALID'),
    SHRINK,
)

BLOCKS: dict[str, Block] = {
    'Mixed_5b': _block_5(32),
    'Mixed_5c': _block_5(64),
    'Mixed_5d': _block_5(64),
    'Mixed_6a': [
        (Conv('branch3x3', 384, (3, 3), 2, 'VALID'),),
        (
            Conv('branch3x3dbl_1', 64),
            Conv('branch3x3dbl_2', 96, (3, 3)),
            Conv('branch3x3dbl_3', 96, (3, 3), 2, 'VALID'),
        ),
        (SHRINK,),
    ],
    'Mixed_6b': _block_6(128),
    'Mixed_6c': _block_6(160),
    'Mixed_6d': _block_6(160),
    'Mixed_6e': _block_6(192),
    'Mixed_7a': [
        (Conv('branch3x3_1', 192), Conv('branch3x3_2', 320, (3, 3), 2, 'VALID')),
        (
            Conv('branch7x7x3_1', 192),
            Conv('branch7x7x3_2', 192, (1, 7)),
            Conv('branch7x7x3_3', 192, (7, 1)),
            Conv('branch7x7x3_4', 192, (3, 3), 2, 'VALID'),
        ),
        (SHRINK,),
    ],
    'Mixed_7b': _block_7(AVERAGE),
    'Mixed_7c': _block_7(MAXIMUM),
}
