"""The settings of a network, and their checks."""

from collections.abc import Collection
from dataclasses import dataclass

from diffusion_jax.checks import LARGEST, between, one_of
from diffusion_jax.errors import UserError

QKV_ORDERS = ('legacy', 'new')
POOLS = ('adaptive', 'attention', 'spatial', 'spatial_v2')
HIDDEN = 2048  # features of the spatial heads

# The dtype of a network's arrays, and the precision of its products, by its setting `dtype`.
DTYPES = {
    'float32': ('float32', 'highest'),
    'tensorfloat32': ('float32', 'high'),
    'bfloat16': ('bfloat16', 'default'),
}

# The label that stands for no class (classifier-free guidance, Ho & Salimans, 2207.12598).
NULL_CLASS = -1

# Settings that follow from the images and the process, and are not in an experiment's config.
DERIVED = ('image_size', 'image_channels', 'num_classes', 'out_channels', 'low_res')


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """The encoder and the middle, which the UNet and the classifier share. Defaults are ADM's.

    Attributes:
      image_size: height and width in pixels. Attention resolutions are those of the shorter side.
      image_channels: 1, grey, or 3, RGB.
      model_channels: channels of the first level, where channel_mult is 1; with each factor a multiple of
        `norm_groups`.
      channel_mult: channels of each level, in units of `model_channels`; each level halves the side.
      num_res_blocks: residual blocks of each level.
      attention_resolutions: side lengths in pixels at which residual blocks are followed by attention.
      num_heads: attention heads, used if num_head_channels is None.
      num_head_channels: channels of one attention head, which decide the number of heads; or None.
      qkv_order: how the channels of the qkv projection are laid out: 'legacy' is [head][q|k|v][channel],
        'new' is [q|k|v][head][channel]. It matters for converted weights only.
      scale_shift_norm: adaptive group normalization (paper, section 3.1); otherwise the embedding is added.
      resblock_updown: residual blocks resample, as in BigGAN; otherwise a convolution or pooling does.
      conv_resample: without `resblock_updown`, whether resampling has a 3x3 convolution of its own.
      dropout: probability of dropout in residual blocks during training.
      norm_groups: groups of channels that are normalized together. A group of one channel loses its mean, the
        colour of an image, so narrow networks are better with fewer groups.
      rescale_residual: scales residual connections by 1/sqrt(2) (paper, table 1).
      dtype: of the computation between embedding and head; parameters stay in float32. 'float32' is float32
        on every device, whatever jax_default_matmul_precision says; 'tensorfloat32' multiplies float32 arrays
        in TF32 on GPUs and in three bfloat16 passes on TPUs; 'bfloat16' is the fastest (docs/gpu.md).
      remat: recompute residual and attention blocks in the backward pass instead of storing them.
    """

    image_size: tuple[int, int] = (64, 64)
    image_channels: int = 3
    model_channels: int = 128
    channel_mult: tuple[float, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    num_heads: int = 4
    num_head_channels: int | None = 64
    qkv_order: str = 'legacy'
    scale_shift_norm: bool = True
    resblock_updown: bool = True
    conv_resample: bool = True
    dropout: float = 0.0
    norm_groups: int = 32
    rescale_residual: bool = False
    dtype: str = 'float32'
    remat: bool = False

    @property
    def array_dtype(self) -> str:
        return DTYPES[self.dtype][0]

    @property
    def precision(self) -> str:
        return DTYPES[self.dtype][1]


@dataclass(frozen=True, kw_only=True)
class UNetConfig(TrunkConfig):
    """The diffusion model, or with `low_res` the upsampler.

    Attributes:
      out_channels: twice the image's if the variance is learned.
      num_classes: None for an unconditional model.
      num_heads_upsample: heads in the decoder, where `num_head_channels` is None; None for `num_heads`.
      low_res: the network is also given a smaller image, enlarged to the size of x.
      label_dropout: in training the label of an image becomes −1, the null class, with this probability
        (2207.12598, algorithm 1). Without it the output for the null class is meaningless.
    """

    out_channels: int = 6
    num_classes: int | None = None
    num_heads_upsample: int | None = None
    low_res: bool = False
    label_dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TrunkConfig):
    """The noisy classifier p(y|x_t): encoder, middle and a head of `num_classes` logits.

    Attributes:
      pool: how the head reduces the image: 'adaptive', 'attention', 'spatial' or 'spatial_v2'. 'attention'
        fixes the image's size; 'spatial' and 'spatial_v2' are perceptrons on the spatial means of every
        encoder block.
    """

    num_classes: int = 1000
    pool: str = 'attention'


def check_unet(config: UNetConfig) -> None:
    """Raises UserError unless a UNet can be built from the config."""
    _check_trunk(config)
    _check_positive(config, 'out_channels', 'num_classes', 'num_heads_upsample')
    if config.num_head_channels is None and config.num_heads_upsample is not None:
        _check_heads(config, 'num_heads_upsample', _attention_levels(config))
    between('label_dropout', config.label_dropout, 0, below=1)
    if config.label_dropout and config.num_classes is None:
        problem = f'got {config.label_dropout}, but the network has no labels'
        raise UserError('label_dropout', problem, 'set class_conditional=True or label_dropout=0')


def check_classifier(config: ClassifierConfig) -> None:
    """Raises UserError unless a classifier can be built from the config."""
    _check_trunk(config)
    _check_positive(config, 'num_classes')
    one_of('pool', config.pool, POOLS)
    if config.pool == 'spatial_v2' and HIDDEN % config.norm_groups:
        remedy = f"must divide {HIDDEN}, the features of the head 'spatial_v2'"
        raise UserError('norm_groups', f'got {config.norm_groups}', remedy)


def _check_trunk(config: TrunkConfig) -> None:
    _check_positive(config, 'image_size', 'image_channels', 'model_channels', 'channel_mult', 'norm_groups')
    _check_positive(config, 'num_res_blocks', 'attention_resolutions', 'num_heads', 'num_head_channels')
    one_of('qkv_order', config.qkv_order, QKV_ORDERS)
    one_of('dtype', config.dtype, DTYPES)
    between('dropout', config.dropout, 0, below=1)
    levels = len(config.channel_mult)
    if levels == 0:
        raise UserError('channel_mult', 'is empty', 'give one factor for each level')
    divisor = 2 ** (levels - 1)
    if any(side % divisor for side in config.image_size):
        problem = f'{levels} levels need an image_size divisible by {divisor}, got {config.image_size}'
        raise UserError('channel_mult', problem, 'change config.data.image_size, or give fewer levels')
    fitting = [side for side in config.attention_resolutions if side in _sides(config)]
    if len(fitting) < len(config.attention_resolutions):
        sides = ', '.join(map(str, _sides(config)))
        problem = f'got {config.attention_resolutions}, but the levels have the sides {sides}'
        raise UserError('attention_resolutions', problem, f'set it to {",".join(map(str, fitting)) or "()"}')
    for mult in config.channel_mult:
        channels = int(mult * config.model_channels)
        if channels == 0 or channels % config.norm_groups:
            product = f'{mult} · model_channels {config.model_channels} gives {channels} channels'
            if channels and config.norm_groups != TrunkConfig.norm_groups:
                problem = f'got {config.norm_groups}, but channel_mult {product}'
                raise UserError('norm_groups', problem, 'must divide them')
            remedy = f'must give a multiple of norm_groups, {config.norm_groups}'
            raise UserError('channel_mult', product, remedy)
    heads = 'num_heads' if config.num_head_channels is None else 'num_head_channels'
    _check_heads(config, heads, {*_attention_levels(config), levels - 1})


def _check_heads(config: TrunkConfig, key: str, levels: Collection[int]) -> None:
    for level in levels:
        channels = int(config.channel_mult[level] * config.model_channels)
        if channels % getattr(config, key):
            remedy = f'must divide the {channels} channels of the attention at side {_sides(config)[level]}'
            raise UserError(key, f'got {getattr(config, key)}', remedy)


def _sides(config: TrunkConfig) -> list[int]:
    """The shorter side at each level."""
    return [min(config.image_size) // 2**level for level in range(len(config.channel_mult))]


def _attention_levels(config: TrunkConfig) -> list[int]:
    return [level for level, side in enumerate(_sides(config)) if side in config.attention_resolutions]


def _check_positive(config: TrunkConfig, *keys: str) -> None:
    for key in keys:
        value = getattr(config, key)
        numbers = value if isinstance(value, tuple) else (value,)
        wrong = [number for number in numbers if number is not None and not 0 < number <= LARGEST]
        if wrong:
            limit = '' if wrong[0] <= 0 else ' and finite in float32'
            raise UserError(key, f'got {value}', f'must be positive{limit}')
