"""The layout of a UNet in diffusers (UNet2DModel), in the names of the authors.

The layout is that of scripts/convert_consistency_to_diffusers.py and of pull request #6730 of
huggingface/diffusers: levels are blocks of residual blocks, attentions and one resampling residual block, and
q, k and v are three arrays. With `attention_legacy_order` in config.json, which diffusers itself ignores,
these are the thirds of the authors' one array, in which every head has its own q, k and v; otherwise they are
queries, keys and values.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffusion_jax.errors import UserError, reason

State = Mapping[str, np.ndarray]

OUTER = {
    'time_embedding.linear_1': 'time_embed.0',
    'time_embedding.linear_2': 'time_embed.2',
    'class_embedding': 'label_emb',
    'conv_in': 'input_blocks.0.0',
    'conv_norm_out': 'out.0',
    'conv_out': 'out.2',
}
PARTS = {
    'norm1': 'in_layers.0',
    'conv1': 'in_layers.2',
    'time_emb_proj': 'emb_layers.1',
    'norm2': 'out_layers.0',
    'conv2': 'out_layers.3',
    'conv_shortcut': 'skip_connection',
    'group_norm': 'norm',
    'to_out.0': 'proj_out',
    'to_q': 'q',
    'to_k': 'k',
    'to_v': 'v',
}
KINDS = 'resnets|attentions|downsamplers|upsamplers'
BLOCK = re.compile(rf'(down_blocks|mid_block|up_blocks)(?:\.(\d+))?\.({KINDS})\.(\d+)\.(.+)')
MIDDLE = {('resnets', 0): 0, ('attentions', 0): 1, ('resnets', 1): 2}


def in_their_names(state: State) -> dict[str, np.ndarray]:
    """The arrays in the authors' names, q, k and v as one; arrays with other names keep these."""
    depth = 1 + max((int(m[4]) for m in map(BLOCK.match, state) if m and m[1] == 'down_blocks'), default=0)
    named = {_name(key, state, depth): array for key, array in state.items()}
    for key in [key for key in named if key.endswith(('.q.weight', '.q.bias'))]:
        at, _, leaf = key.rpartition('.q.')
        thirds = [f'{at}.{part}.{leaf}' for part in 'qkv']
        shapes = {named[third].shape if third in named else () for third in thirds}
        if len(shapes) == 1 and shapes != {()}:  # otherwise the names and shapes are reported as they are
            named[f'{at}.qkv.{leaf}'] = np.concatenate([named.pop(third) for third in thirds])
    return named


def stored_order(path: Path, head_channels: int | None) -> str:
    """The order of the channels of qkv (`TrunkConfig.qkv_order`), from config.json next to a file.

    Raises UserError if config.json is missing, damaged, or of other heads.
    """
    config = path.parent / 'config.json'
    try:
        settings = json.loads(config.read_text())
    except (OSError, ValueError) as error:
        problem = f'cannot be read ({reason(error)})'
        remedy = f'put the config.json of the model next to {path.name}: it states how attention is stored'
        raise UserError(str(config), problem, remedy) from error
    if settings.get('attention_head_dim') != head_channels:
        problem = f'attention_head_dim is {settings.get("attention_head_dim")}'
        raise UserError(str(config), problem, f'that of this network is {head_channels}')
    return 'legacy' if settings.get('attention_legacy_order') else 'new'


def in_order(state: State, stored: str, wanted: str, head_channels: int) -> dict[str, np.ndarray]:
    """The arrays with the channels of every qkv in the wanted order."""

    def ordered(array: np.ndarray) -> np.ndarray:
        heads = len(array) // (3 * head_channels)
        outer = (3, heads) if stored == 'new' else (heads, 3)
        return array.reshape(*outer, head_channels, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)

    if stored == wanted:
        return dict(state)
    return {key: ordered(array) if '.qkv.' in key else array for key, array in state.items()}


def _name(key: str, state: State, depth: int) -> str:
    """The authors' name. depth: the number of residual blocks of a level."""
    module, _, leaf = key.rpartition('.')
    if module in OUTER:
        return f'{OUTER[module]}.{leaf}'
    found = BLOCK.match(key)
    if found is None:
        return key
    part, _, leaf = found[5].rpartition('.')
    where, level, kind, i = found[1], int(found[2] or 0), found[3], int(found[4])
    if part not in PARTS:
        return key
    if where == 'mid_block':
        place = f'middle_block.{MIDDLE.get((kind, i), f"{kind}.{i}")}'
    elif where == 'down_blocks':
        block = 1 + level * (depth + 1) + (depth if kind == 'downsamplers' else i)
        place = f'input_blocks.{block}.{int(kind == "attentions")}'
    else:
        last = kind == 'upsamplers'
        attention = f'up_blocks.{level}.attentions.{depth}.to_q.weight' in state
        block = level * (depth + 1) + (depth if last else i)
        place = f'output_blocks.{block}.{1 + attention if last else int(kind == "attentions")}'
    return f'{place}.{PARTS[part]}.{leaf}'
