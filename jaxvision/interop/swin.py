"""Names of the weights of both Swin Transformers in timm, torchvision and transformers.

The three cut windows alike where every map of `image_size` is a whole number of them, as at the
published sizes; elsewhere a model is only that of the library that its config follows. A model with
windows="fitted" is timm's `create_model(name, img_size=...)` at any size, with `strict_img_size` or
without; timm's `always_partition=True`, which no file tells, has no counterpart here.
"""

import dataclasses
import functools
import math
import re

import numpy as np
from jaxtyping import Float

from jaxvision.errors import InputError
from jaxvision.interop.adapt import HOW_TO_TELL, Fit, Source, config_at, fit_channels, show
from jaxvision.interop.rules import (
    LINEAR,
    Rule,
    Transform,
    Weights,
    conv,
    linear,
    norm,
    or_bare,
    unflattened,
)
from jaxvision.layers.window import Sides, log_spaced_coordinates, relative_position_index
from jaxvision.models.spec import param_dtype
from jaxvision.models.swin import SwinConfig
from jaxvision.models.swin_v2 import SwinV2Config
from jaxvision.options.size import Size

Rules = tuple[Rule, ...]

_BLOCK = "stages/{stage}/blocks/{i}"
_TABLE = f"{_BLOCK}/position_bias/table"
_PER_HEAD = Transform(lambda scale: scale.reshape(-1), lambda scale: scale.reshape(-1, 1, 1))


def _fused(block: str, part: str) -> tuple[str, ...]:
    """Returns our three paths that timm and torchvision keep in one array, in this order."""
    return tuple(f"{block}/attn/{name}/{part}" for name in ("query", "key", "value"))


def _cosine(theirs: str, block: str, mlp: str) -> Rules:
    """Returns what all libraries store alike of the second version's attention."""
    return (
        Rule(f"{theirs}.logit_scale", f"{block}/attn/logit_scale", _PER_HEAD),
        *linear(f"{theirs}.{mlp}.0", f"{block}/position_bias/fc1"),
        Rule(f"{theirs}.{mlp}.2.weight", f"{block}/position_bias/fc2/kernel", LINEAR),
    )


def _merging(theirs: str, stage: int | str) -> Rules:
    ours = f"stages/{stage}/downsample"
    return (
        *norm(f"{theirs}.norm", f"{ours}/norm"),
        Rule(f"{theirs}.reduction.weight", f"{ours}/reduction/kernel", LINEAR),
    )


def _timm(config: SwinConfig) -> Rules:
    layer = "layers.{stage}.blocks.{i}"
    rules = (
        *conv("patch_embed.proj", "patch_embed"),
        *norm("patch_embed.norm", "patch_norm"),
        *_merging("layers.{stage}.downsample", "{stage}"),
        *norm(f"{layer}.norm1", f"{_BLOCK}/norm1"),
        Rule(f"{layer}.attn.qkv.weight", _fused(_BLOCK, "kernel"), LINEAR),
        *linear(f"{layer}.attn.proj", f"{_BLOCK}/attn/out"),
        *norm(f"{layer}.norm2", f"{_BLOCK}/norm2"),
        *linear(f"{layer}.mlp.fc1", f"{_BLOCK}/mlp/fc1"),
        *linear(f"{layer}.mlp.fc2", f"{_BLOCK}/mlp/fc2"),
        *norm("norm", "norm"),
        *linear("head.fc", "head"),
    )
    if isinstance(config, SwinV2Config):
        return (
            *rules,
            *_cosine(f"{layer}.attn", _BLOCK, "cpb_mlp"),
            Rule(f"{layer}.attn.q_bias", f"{_BLOCK}/attn/query/bias"),
            Rule(f"{layer}.attn.v_bias", f"{_BLOCK}/attn/value/bias"),
        )
    return (
        *rules,
        Rule(f"{layer}.attn.qkv.bias", _fused(_BLOCK, "bias")),
        Rule(f"{layer}.attn.relative_position_bias_table", _TABLE),
    )


def _torchvision(config: SwinConfig) -> Rules:
    rules = [
        *conv("features.0.0", "patch_embed"),
        *norm("features.0.2", "patch_norm"),
        *norm("norm", "norm"),
        *linear("head", "head"),
    ]
    for stage in range(len(config.stage_depths)):
        # Patches, blocks, merging, blocks, merging, ... are one list there.
        layer, block = f"features.{2 * stage + 1}.{{i}}", f"stages/{stage}/blocks/{{i}}"
        window = config.stage_window(stage)
        rules += [
            *_merging(f"features.{2 * stage}", stage),
            *norm(f"{layer}.norm1", f"{block}/norm1"),
            Rule(f"{layer}.attn.qkv.weight", _fused(block, "kernel"), LINEAR),
            Rule(f"{layer}.attn.qkv.bias", _fused(block, "bias")),
            *linear(f"{layer}.attn.proj", f"{block}/attn/out"),
            *norm(f"{layer}.norm2", f"{block}/norm2"),
            *linear(f"{layer}.mlp.0", f"{block}/mlp/fc1"),
            *linear(f"{layer}.mlp.3", f"{block}/mlp/fc2"),
            Rule(
                f"{layer}.attn.relative_position_index",
                f"{block}/norm1/scale",
                constant=relative_position_index(window).astype(np.int64).ravel(),
            ),
        ]
        if isinstance(config, SwinV2Config):
            steps = tuple(2 * side - 1 for side in window)
            coordinates = log_spaced_coordinates(window, window).reshape(1, *steps, 2)
            rules += [
                *_cosine(f"{layer}.attn", block, "cpb_mlp"),
                Rule(
                    f"{layer}.attn.relative_coords_table",
                    f"{block}/norm1/scale",
                    constant=coordinates.astype(param_dtype(config.dtype)),
                ),
            ]
        else:
            table = f"{block}/position_bias/table"
            rules.append(Rule(f"{layer}.attn.relative_position_bias_table", table))
    return tuple(rules)


def _hf(config: SwinConfig) -> Rules:
    second = isinstance(config, SwinV2Config)
    model = "swinv2" if second else "swin"
    layer = f"{model}.encoder.layers.{{stage}}.blocks.{{i}}"
    attn = f"{layer}.attention"
    rules = (
        *conv(f"{model}.embeddings.patch_embeddings.projection", "patch_embed"),
        *norm(f"{model}.embeddings.norm", "patch_norm"),
        *norm(f"{layer}.layernorm_before", f"{_BLOCK}/norm1"),
        *norm(f"{layer}.layernorm_after", f"{_BLOCK}/norm2"),
        *norm(f"{model}.layernorm", "norm"),
        *linear("classifier", "head"),
    )
    for stage in range(1, len(config.stage_depths)):  # there it ends the stage before
        rules += _merging(f"{model}.encoder.layers.{stage - 1}.downsample", stage)
    old = {
        "attn/query": f"{attn}.self.query",
        "attn/key": f"{attn}.self.key",
        "attn/value": f"{attn}.self.value",
        "attn/out": f"{attn}.output.dense",
        "mlp/fc1": f"{layer}.intermediate.dense",
        "mlp/fc2": f"{layer}.output.dense",
    }
    if second:
        for ours, theirs in old.items():
            rules += linear(theirs, f"{_BLOCK}/{ours}")
        rules += _cosine(f"{attn}.self", _BLOCK, "continuous_position_bias_mlp")
        return or_bare(rules, f"{model}.")
    new = ("q_proj", "k_proj", "v_proj", "o_proj")
    names = [*(f"{attn}.{name}" for name in new), f"{layer}.mlp.fc1", f"{layer}.mlp.fc2"]
    for name, (ours, before_5) in zip(names, old.items(), strict=True):
        kernel, bias = f"{_BLOCK}/{ours}/kernel", f"{_BLOCK}/{ours}/bias"
        rules += (
            Rule(f"{name}.weight", kernel, LINEAR, (f"{before_5}.weight",)),
            Rule(f"{name}.bias", bias, aliases=(f"{before_5}.bias",)),
        )
    table = "relative_position_bias_table"
    aliases = (f"{attn}.self.{table}",)
    rules += (Rule(f"{attn}.relative_position_bias.{table}", _TABLE, aliases=aliases),)
    return or_bare(rules, f"{model}.")


def _without_buffers(weights: Weights, config: object = None) -> Weights:
    """Returns the weights without what a model can work out, which some files carry."""
    del config
    buffers = (".relative_position_index", ".relative_coords_table", ".attn_mask")
    return {name: array for name, array in weights.items() if not name.endswith(buffers)}


def _as_timm(weights: Weights, config: object = None) -> Weights:
    """Returns the weights of timm, or of the authors, with timm's names.

    In the authors' files a merging ends a stage; timm's begins the next one.
    """
    weights = unflattened(_without_buffers(weights))
    if not any(name.startswith("layers.0.downsample.") for name in weights):
        return weights

    def renamed(name: str) -> str:
        name = re.sub(
            r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name
        )
        return re.sub(r"^head\.(?=weight$|bias$)", "head.fc.", name)

    return {renamed(name): array for name, array in weights.items()}


# --- Tables of other windows --------------------------------------------------------------------


def fit_table(
    table: Float[np.ndarray, "steps heads"],
    shape: tuple[int, ...],
    config: SwinConfig,
    image_size: Size | None = None,
    *,
    stage: int,
) -> tuple[np.ndarray, str] | None:
    """Returns a table of relative positions for another window, as timm resamples it.

    Args:
      table: Position biases of a window, all steps down for each across.
      shape: Shape that is wanted.
      config: Config of the model.
      image_size: Size of the images that the table belongs to; None: unknown, so that the table is
        of a square window, for a square window, or refused.
      stage: Number of the stage.

    Raises:
      InputError: if nobody can tell the window of the table.
    """
    new = config.stage_window(stage)
    if table.shape[1] != shape[1]:
        return None
    old = _window(len(table), new, config, image_size, stage)
    if old == new:
        return None
    down, across = (_resample(*sides) for sides in zip(old, new, strict=True))
    grid = table.astype(np.float64).reshape(2 * old[0] - 1, 2 * old[1] - 1, -1)
    resized = np.einsum("Rr,Cc,rcH->RCH", down, across, grid, optimize=True)
    done = f"position biases of windows of {show(old)} resampled for {show(new)}"
    return resized.reshape(shape).astype(table.dtype), done


def _window(
    steps: int, new: Sides, config: SwinConfig, image_size: Size | None, stage: int
) -> Sides:
    """Returns the window of a table with so many steps; the new one only says what can be told."""
    if image_size is None:
        side = (math.isqrt(steps) + 1) // 2
        if _steps((side, side)) == steps and new[0] == new[1]:
            return side, side
        found = f"the model's windows are {show(new)}"
    else:
        then = config_at(config, image_size)
        windows = (
            dataclasses.replace(then, window_size=side).stage_window(stage)
            for side in range(1, max(*then.stage_map(stage), config.window_size) + 1)
        )
        # Grows with the side, until the window covers the map.
        fitting = [window for window in windows if _steps(window) == steps]
        if fitting:
            return fitting[0]
        found = f"no windows at image_size={image_size} have so many"
    raise InputError(
        f"The weights have {steps} relative positions in stage {stage}, whose window they do not "
        f"tell, and {found}: {HOW_TO_TELL}."
    )


def _steps(window: Sides) -> int:
    """Returns how many relative positions a window has."""
    return (2 * window[0] - 1) * (2 * window[1] - 1)


@functools.cache
def _resample(old: int, new: int) -> Float[np.ndarray, "new_steps old_steps"]:
    """Returns the weights that make the biases of all steps in a window from those of another.

    The old steps are spread out to the length of the new ones, the farther the wider, and what lies
    between two of them is interpolated.

    Source: timm's `resize_rel_pos_bias_table`, after BEiT.
    """
    steps, reach = old - 1, new - 1
    low, high = 1.01, 1.5
    ratio = low  # of one gap to the next
    while high - low > 1e-6:
        ratio = (low + high) / 2
        too_far = (1.0 - ratio**steps) / (1.0 - ratio) > reach
        low, high = (low, ratio) if too_far else (ratio, high)
    distances = np.cumsum(ratio ** np.arange(steps))
    places = np.concatenate([-distances[::-1], [0.0], distances])
    wanted = np.arange(-reach, reach + 1)
    return np.stack([np.interp(wanted, places, column) for column in np.eye(2 * old - 1)], axis=1)


# --- Which models a library has -----------------------------------------------------------------


def _whole(config: SwinConfig) -> bool:
    """Returns whether every map of `image_size` is a whole number of windows."""
    return all(
        side % window == 0
        for stage in range(len(config.stage_depths))
        for side, window in zip(config.stage_map(stage), config.stage_window(stage), strict=True)
    )


def _windows(config: SwinConfig, *, rule: str) -> str:
    """Returns the value of `windows` for a library that follows one rule."""
    shrunk = config.stage_window(len(config.stage_depths) - 1) != (config.window_size,) * 2
    alike = _whole(config) and (rule == "fitted" or not shrunk)
    return config.windows if alike else rule


def _hf_image_size(config: SwinConfig) -> int | Sides:
    """Returns the image size, or one at which transformers cuts the same windows as we do.

    It does not always: of two sides of a map it takes the smaller for both, the first version pads
    no map that is smaller than a window, and the second takes odd maps for smaller than they are.
    """
    last = len(config.stage_depths) - 1
    rows, columns = config.stage_map(last)
    second = isinstance(config, SwinV2Config)
    fits = _whole(config) if second else min(rows, columns) >= config.window_size
    if rows == columns and fits:
        return config.image_size
    return config.patch_size * 2**last * config.window_size


_PATCHES: dict[str, Fit] = {"patch_embed/kernel": fit_channels}
_TABLES: dict[str, Fit] = {
    f"stages/{stage}/blocks/*/position_bias/table": functools.partial(fit_table, stage=stage)
    for stage in range(8)  # more than there are
}
_FITS = {**_PATCHES, **_TABLES}

SOURCES = {
    "timm": Source(  # and the authors'
        rules=_timm,
        requires={"windows": functools.partial(_windows, rule="fitted")},
        fits=_FITS,
        end=("norm",),
        prepare=_as_timm,
    ),
    "torchvision": Source(
        rules=_torchvision,
        requires={"windows": functools.partial(_windows, rule="padded")},
        fits=_FITS,
    ),
    "hf": Source(
        rules=_hf,
        requires={
            "windows": functools.partial(_windows, rule="padded"),
            "image_size": _hf_image_size,
        },
        fits=_FITS,
        prepare=_without_buffers,
    ),
}

# No table: the biases of other windows are computed.
SOURCES_V2 = {
    "timm": Source(
        rules=_timm,
        requires={"key_bias": False, "windows": functools.partial(_windows, rule="fitted")},
        fits=_PATCHES,
        end=("norm",),
        prepare=_as_timm,
    ),
    "torchvision": Source(
        rules=_torchvision,
        requires={
            "key_bias": True,
            "trained_windows": None,
            "windows": functools.partial(_windows, rule="padded"),
        },
        fits=_PATCHES,
    ),
    "hf": Source(
        rules=_hf,
        requires={"key_bias": False, "image_size": _hf_image_size},
        fits=_PATCHES,
        prepare=_without_buffers,
    ),
}
