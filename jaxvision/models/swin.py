"""Swin Transformer: attention in windows that shift from block to block, on ever coarser maps."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.errors import check_choice
from jaxvision.layers.attention import MultiHeadAttention
from jaxvision.layers.block_stack import build_blocks, run_blocks
from jaxvision.layers.drop_path import drop_path_rates
from jaxvision.layers.dropout import draw_block_key
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.patch import PatchEmbed, check_divisible
from jaxvision.layers.patch_merging import PatchMerging
from jaxvision.layers.position_bias import RelativePositionBias
from jaxvision.layers.tap import tap
from jaxvision.layers.window import Sides
from jaxvision.layers.window_block import WindowBlock
from jaxvision.models.attention_config import SizedConfig
from jaxvision.models.image_model import ImageModel
from jaxvision.models.spec import (
    HFPeer,
    ModelSpec,
    Preprocess,
    check_images,
    layer_dtypes,
    param_dtype,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwinConfig(SizedConfig):
    """Every choice of a Swin Transformer.

    Attributes:
      width: Number of channels of the first stage; they double from stage to stage.
      stage_depths: Number of blocks in each stage.
      stage_heads: Number of attention heads in each stage.
      window_size: Side of a window in tokens.
      windows: Kind of windows: "padded" (a map that is no whole number of windows gets zeros at its
        ends before it is shifted, as in torchvision and transformers) or "fitted" (a window is
        never larger than the map that its stage has for `image_size`, and the zeros come after the
        shift, as in timm). Both are the same where all maps are whole numbers of windows, as at the
        published sizes.
      image_size: Image size in pixels that "fitted" windows are made for: side, or (height, width).
      patch_size: Side of a patch in pixels.
      mlp_ratio: Ratio of the hidden channels of the MLP to the width.
      norm_eps: Epsilon of every LayerNorm.
    """

    width: int
    stage_depths: tuple[int, ...]
    stage_heads: tuple[int, ...]
    window_size: int = 7
    windows: str = "padded"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 4
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        check_choice("windows", self.windows, ("padded", "fitted"))
        if len(self.stage_depths) != len(self.stage_heads):
            raise ValueError(
                "stage_depths and stage_heads must name the same stages, got "
                f"{self.stage_depths} and {self.stage_heads}."
            )
        check_divisible(*self.image_shape, self.patch_size)

    def stage_width(self, stage: int) -> int:
        """Returns the channels of a stage, counted from 0."""
        return self.width * 2**stage

    def stage_map(self, stage: int) -> Sides:
        """Returns the rows and columns of a stage's map for an image of `image_size`."""
        stride = self.patch_size * 2**stage
        height, width = self.image_shape
        return -(-height // stride), -(-width // stride)

    def stage_window(self, stage: int) -> Sides:
        """Returns the rows and columns of a stage's windows."""
        if self.windows == "padded":
            return self.window_size, self.window_size
        rows, columns = self.stage_map(stage)
        return min(rows, self.window_size), min(columns, self.window_size)


class SwinStage(nnx.Module):
    """Blocks on one map, behind the merging that makes it out of the finer one.

    Args:
      downsample: Merging of the tokens of the stage before; None in the first stage.
      blocks: Blocks that `build_blocks` returned.
    """

    def __init__(self, downsample: PatchMerging | None, blocks: Any):
        self.downsample = downsample
        self.blocks = blocks


class Swin(ImageModel):
    """Swin Transformer.

    Initial values as timm: linear kernels and position biases trunc-normal 0.02, biases 0. The
    patch kernel is LeCun normal.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Liu et al. 2021, Swin Transformer: Hierarchical Vision Transformer using Shifted
      Windows, https://arxiv.org/abs/2103.14030.
    """

    config: SwinConfig
    weight_sources = "jaxvision.interop.swin:SOURCES"
    not_decayed = frozenset({"position_bias"})
    norm_first = True  # in a block and before a merging

    def __init__(self, config: SwinConfig, *, rngs: nnx.Rngs):
        dtypes = layer_dtypes(config.dtype)
        self.config = config
        self.patch_embed = PatchEmbed(
            config.in_channels, config.width, patch_size=config.patch_size, rngs=rngs, **dtypes
        )
        self.patch_norm = layer_norm(config.width, eps=config.norm_eps, rngs=rngs, **dtypes)
        self.stages = nnx.List(
            self._stage(stage, depth, rngs) for stage, depth in enumerate(config.stage_depths)
        )
        width = config.stage_width(len(config.stage_depths) - 1)
        self.norm = layer_norm(width, eps=config.norm_eps, rngs=rngs, **dtypes)
        self.head = self.new_head(width, trunc_normal(0.02), rngs)

    def _stage(self, stage: int, depth: int, rngs: nnx.Rngs) -> SwinStage:
        downsample = self._merging(self.config.stage_width(stage - 1), rngs) if stage else None
        blocks = build_blocks(
            lambda rngs: self._block(stage, rngs), depth, scan=self.config.scan, rngs=rngs
        )
        return SwinStage(downsample, blocks)

    def _merging(self, width: int, rngs: nnx.Rngs) -> PatchMerging:
        """Returns what makes a map of half the rows and columns."""
        config = self.config
        return PatchMerging(
            width,
            norm_first=self.norm_first,
            norm_eps=config.norm_eps,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )

    def _block(self, stage: int, rngs: nnx.Rngs) -> WindowBlock:
        config = self.config
        return WindowBlock(
            config.stage_width(stage),
            attn=self._attention(stage, rngs),
            position_bias=self._position_bias(stage, rngs),
            norm_first=self.norm_first,
            pad_first=config.windows == "padded",
            mlp_ratio=config.mlp_ratio,
            dropout_rate=config.dropout_rate,
            norm_eps=config.norm_eps,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )

    def _attention(self, stage: int, rngs: nnx.Rngs) -> Any:
        config = self.config
        return MultiHeadAttention(
            config.stage_width(stage),
            config.stage_heads[stage],
            attention_dropout_rate=config.attention_dropout_rate,
            implementation=config.attention,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )

    def _position_bias(self, stage: int, rngs: nnx.Rngs) -> Any:
        config = self.config
        return RelativePositionBias(
            config.stage_window(stage),
            config.stage_heads[stage],
            param_dtype=param_dtype(config.dtype),
            rngs=rngs,
        )

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch rows columns features"], dict[int, jax.Array]]:
        """Returns the map of the last stage after the final norm, and the maps of all without it.

        The images may have any size that is a whole number of patches.
        """
        config = self.config
        check_images(images, config.in_channels)
        key = draw_block_key(rngs, *config.block_rates, train=train)
        rates = drop_path_rates(config.drop_path_rate, sum(config.stage_depths))
        tokens = self.patch_norm(self.patch_embed(images))
        maps = {}
        for stage, depth in enumerate(config.stage_depths):
            stage_key = None if key is None else jax.random.fold_in(key, stage)
            tokens = self._run_stage(stage, tokens, rates[:depth], key=stage_key, train=train)
            rates = rates[depth:]
            tokens = maps[config.patch_size * 2**stage] = tap("map", tokens)
        return self.norm(tokens), maps

    def _run_stage(
        self,
        stage: int,
        tokens: jax.Array,
        rates: tuple[float, ...],
        *,
        key: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        module = self.stages[stage]
        if module.downsample is not None:
            tokens = module.downsample(tokens)
        window = self.config.stage_window(stage)
        fitted = self.config.windows == "fitted"
        sides = self.config.stage_map(stage) if fitted else tokens.shape[1:3]
        # Where one window covers the map there is nothing to see beyond its border.
        shift = tuple(w // 2 if n > w else 0 for n, w in zip(sides, window, strict=True))

        def shifted_by(shift):
            def step(block, tokens, rate, rngs):
                tokens = block(tokens, shift=shift, drop_path_rate=rate, train=train, rngs=rngs)
                return tokens, None

            return step

        steps = (shifted_by((0, 0)), shifted_by(shift))
        tokens, _ = run_blocks(
            module.blocks,
            tokens,
            steps if any(shift) else steps[0],
            rates=rates,
            key=key,
            remat=self.config.remat,
        )
        return tokens


# width of the first stage, depth of the third
SIZES = {"t": (96, 6), "s": (96, 18), "b": (128, 18), "l": (192, 18)}


def size_fields(size: str) -> dict[str, Any]:
    """Returns the fields of a config by which the published sizes differ."""
    width, depth = SIZES[size]
    heads = width // 32
    return {
        "width": width,
        "stage_depths": (2, 2, depth, 2),
        "stage_heads": (heads, 2 * heads, 4 * heads, 8 * heads),
    }


def _spec(
    size: str,
    num_params: int,
    timm: str,
    torchvision: str | None = None,
    image_size: int = 224,
) -> ModelSpec:
    at_224 = image_size == 224
    return ModelSpec(
        name=f"swin_{size}" + ("" if at_224 else f"_{image_size}"),
        family="swin",
        build=Swin,
        config=SwinConfig(
            window_size=7 if at_224 else 12, image_size=image_size, **size_fields(size)
        ),
        image_size=image_size,
        preprocess=Preprocess(interpolation="bicubic", crop_fraction=0.9 if at_224 else 1.0),
        num_params=num_params,
        source="Liu et al. 2021, section 3.3 and table 1",
        timm=timm,
        torchvision=torchvision,
        hf="microsoft/" + timm.replace("_", "-"),
        hf_peer=HFPeer("Swin", _hf_fields),
    )


def _hf_fields(config: SwinConfig) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "embed_dim": config.width,
        "depths": config.stage_depths,
        "num_heads": config.stage_heads,
        "window_size": config.window_size,
        "drop_path_rate": 0.0,
    }


SPECS = (
    _spec("t", 28_288_354, "swin_tiny_patch4_window7_224", "swin_t"),
    _spec("s", 49_606_258, "swin_small_patch4_window7_224", "swin_s"),
    _spec("b", 87_768_224, "swin_base_patch4_window7_224", "swin_b"),
    _spec("l", 196_532_476, "swin_large_patch4_window7_224"),
    _spec("b", 87_903_584, "swin_base_patch4_window12_384", image_size=384),
    _spec("l", 196_735_516, "swin_large_patch4_window12_384", image_size=384),
)
