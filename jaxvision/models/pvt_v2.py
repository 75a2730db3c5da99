"""Pyramid Vision Transformer v2: overlapping patches, and convolutions instead of positions."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxvision.layers.attention import MultiHeadAttention
from jaxvision.layers.block_stack import build_blocks, run_blocks
from jaxvision.layers.conv import Conv, kaiming_depthwise
from jaxvision.layers.drop_path import drop_path, stage_drop_path_rates
from jaxvision.layers.dropout import draw_block_key, dropout
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.linear import linear
from jaxvision.layers.mlp import gelu
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.patch import OverlapPatchEmbed
from jaxvision.layers.spatial_reduction import PooledReduction, SpatialReduction
from jaxvision.layers.tap import tap, tap_facts
from jaxvision.models.attention_config import AttentionConfig
from jaxvision.models.image_model import ImageModel, LayerGroups
from jaxvision.models.pvt import check_stages, hf_stages
from jaxvision.models.spec import (
    HFPeer,
    ModelSpec,
    Preprocess,
    check_images,
    layer_dtypes,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PVTv2Config(AttentionConfig):
    """Every choice of a Pyramid Vision Transformer v2.

    Attributes:
      stage_depths: Number of blocks in each stage.
      stage_widths: Number of channels in each stage.
      stage_heads: Number of attention heads in each stage.
      mlp_ratios: Ratio of the hidden channels of the MLP to the width, in each stage.
      reduction_ratios: Reduction in each stage: attention looks at one token for each patch of
        ratio x ratio.
      linear_attention: Whether attention looks at 7 x 7 averages instead ("li"); reduction_ratios
        does nothing then. The MLP gets a ReLU, too, as in the authors' code.
      projection_norm_eps: Epsilon of the LayerNorms behind patch embeddings and reductions: 1e-5 in
        the authors' code and timm, 1e-6 in Hugging Face.
    """

    stage_depths: tuple[int, ...]
    stage_widths: tuple[int, ...] = (64, 128, 320, 512)
    stage_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    reduction_ratios: tuple[int, ...] = (8, 4, 2, 1)
    linear_attention: bool = False
    projection_norm_eps: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        check_stages(self)


class ConvMlp(nnx.Module):
    """Two linear layers with a depthwise 3x3 convolution and a GELU between them.

    The zeros around the map tell the convolution where a token is: v2 has no positions.

    Args:
      config: Config of the model.
      width: Number of channels in and out.
      hidden: Number of channels between the two layers.
      rngs: Source of the initial values.

    Source: Wang et al. 2022, PVT v2, section 3.4 "Convolutional Feed-Forward".
    """

    def __init__(self, config: PVTv2Config, width: int, hidden: int, *, rngs: nnx.Rngs):
        dtypes = layer_dtypes(config.dtype)
        self.fc1 = linear(width, hidden, rngs=rngs, **dtypes)
        self.conv = Conv(
            hidden,
            hidden,
            3,
            groups=hidden,
            use_bias=True,
            kernel_init=kaiming_depthwise,
            rngs=rngs,
            **dtypes,
        )
        self.fc2 = linear(hidden, width, rngs=rngs, **dtypes)
        self.relu = config.linear_attention
        self.dropout_rate = config.dropout_rate

    def __call__(
        self,
        inputs: Float[Array, "batch height width channels"],
        *,
        train: bool,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "batch height width channels"]:
        """Returns the new map."""
        hidden = self.fc1(inputs)
        hidden = nnx.relu(hidden) if self.relu else hidden
        # Named to be kept for the backward pass: it is no matrix product, but dear all the same.
        hidden = gelu(checkpoint_name(self.conv(hidden), "depthwise"))
        hidden = dropout(hidden, self.dropout_rate, train=train, rngs=rngs)
        return dropout(self.fc2(hidden), self.dropout_rate, train=train, rngs=rngs)


class PVTv2Block(nnx.Module):
    """One pre-norm encoder block on a map: attention to a reduced grid, then the ConvMlp.

    Args:
      config: Config of the model.
      stage: Index of the stage, from 0.
      rngs: Source of the initial values.

    Source: Wang et al. 2022, PVT v2, figures 1 and 2.
    """

    def __init__(self, config: PVTv2Config, stage: int, *, rngs: nnx.Rngs):
        width, ratio = config.stage_widths[stage], config.reduction_ratios[stage]
        dtypes, eps = layer_dtypes(config.dtype), config.projection_norm_eps
        self.norm1 = layer_norm(width, eps=config.norm_eps, rngs=rngs, **dtypes)
        if config.linear_attention:
            self.reduction = PooledReduction(width, norm_eps=eps, rngs=rngs, **dtypes)
        elif ratio > 1:
            self.reduction = SpatialReduction(width, ratio, norm_eps=eps, rngs=rngs, **dtypes)
        else:
            self.reduction = None
        self.attn = MultiHeadAttention(
            width,
            config.stage_heads[stage],
            attention_dropout_rate=config.attention_dropout_rate,
            implementation=config.attention,
            rngs=rngs,
            **dtypes,
        )
        self.norm2 = layer_norm(width, eps=config.norm_eps, rngs=rngs, **dtypes)
        self.mlp = ConvMlp(config, width, width * config.mlp_ratios[stage], rngs=rngs)
        self.dropout_rate = config.dropout_rate

    def __call__(
        self,
        inputs: Float[Array, "batch height width channels"],
        *,
        drop_path_rate: float | jax.Array = 0.0,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Returns the new map.

        Args:
          inputs: Map of the block before.
          drop_path_rate: Probability of dropping each branch.
          train: Whether every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.
        """
        normed = self.norm1(inputs)
        memory = None if self.reduction is None else self.reduction(normed)
        tokens = jax.lax.collapse(normed, 1, 3)
        with tap_facts(grid=inputs.shape[1:3]):
            branch = self.attn(tokens, memory, train=train, rngs=rngs).reshape(inputs.shape)
        branch = dropout(branch, self.dropout_rate, train=train, rngs=rngs)
        outputs = inputs + drop_path(branch, drop_path_rate, train=train, rngs=rngs)
        branch = self.mlp(self.norm2(outputs), train=train, rngs=rngs)
        return outputs + drop_path(branch, drop_path_rate, train=train, rngs=rngs)


class PVTv2Stage(nnx.Module):
    """A coarser grid of tokens, the blocks, and a norm.

    Args:
      config: Config of the model.
      stage: Index of the stage, from 0.
      drop_path_rates: Drop-path rate of each block.
      rngs: Source of the initial values.
    """

    def __init__(
        self,
        config: PVTv2Config,
        stage: int,
        *,
        drop_path_rates: tuple[float, ...],
        rngs: nnx.Rngs,
    ):
        width, dtypes = config.stage_widths[stage], layer_dtypes(config.dtype)
        self.patch_embed = OverlapPatchEmbed(
            config.stage_widths[stage - 1] if stage else config.in_channels,
            width,
            kernel_size=3 if stage else 7,
            stride=2 if stage else 4,
            norm_eps=config.projection_norm_eps,
            rngs=rngs,
            **dtypes,
        )
        self.blocks = build_blocks(
            lambda rngs: PVTv2Block(config, stage, rngs=rngs),
            config.stage_depths[stage],
            scan=config.scan,
            rngs=rngs,
        )
        self.norm = layer_norm(width, eps=config.norm_eps, rngs=rngs, **dtypes)
        self.config = config
        self.drop_path_rates = drop_path_rates

    def __call__(
        self,
        inputs: Float[Array, "batch height width channels"],
        *,
        train: bool,
        rngs: nnx.Rngs | None,
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the map of the stage."""
        config = self.config

        def step(block, outputs, rate, rngs):
            return block(outputs, drop_path_rate=rate, train=train, rngs=rngs), None

        key = draw_block_key(rngs, *config.block_rates, train=train)
        outputs, _ = run_blocks(
            self.blocks,
            self.patch_embed(inputs),
            step,
            rates=self.drop_path_rates,
            key=key,
            remat=config.remat,
        )
        return self.norm(outputs)


class PVTv2(ImageModel):
    """Pyramid Vision Transformer v2.

    Initial values as timm: linear kernels trunc-normal 0.02, convolutions Kaiming normal by the
    fan-out of a group, biases 0.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Wang et al. 2022, PVT v2: Improved Baselines with Pyramid Vision Transformer,
      https://arxiv.org/abs/2106.13797.
    """

    config: PVTv2Config
    weight_sources = "jaxvision.interop.pvt_v2:SOURCES"
    layer_groups = LayerGroups(blocks=r"stages/(\d+)/")  # as timm counts: a stage is one layer

    def __init__(self, config: PVTv2Config, *, rngs: nnx.Rngs):
        self.config = config
        rates = stage_drop_path_rates(config.drop_path_rate, config.stage_depths)
        self.stages = nnx.List(
            PVTv2Stage(config, stage, drop_path_rates=each, rngs=rngs)
            for stage, each in enumerate(rates)
        )
        self.head = self.new_head(config.stage_widths[-1], trunc_normal(0.02), rngs)

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch rows columns features"], dict[int, jax.Array]]:
        """Returns the map of the last stage, and the maps of all; each is normalised.

        The images may have any size whose maps hold a patch of the reductions.
        """
        check_images(images, self.config.in_channels)
        maps, outputs = {}, images
        for i, stage in enumerate(self.stages):
            outputs = tap("map", stage(outputs, train=train, rngs=rngs))
            maps[4 * 2**i] = outputs
        return outputs, maps


def _spec(name: str, num_params: int, *stage_depths: int, **options: Any) -> ModelSpec:
    return ModelSpec(
        name=f"pvt_v2_{name}",
        family="pvt_v2",
        build=PVTv2,
        config=PVTv2Config(stage_depths=stage_depths, **options),
        image_size=224,
        preprocess=Preprocess(interpolation="bicubic", crop_fraction=0.9),
        num_params=num_params,
        source="Wang et al. 2022, table 1",
        timm=f"pvt_v2_{name}",
    )


_TIMM = (
    _spec("b0", 3_666_760, 2, 2, 2, 2, stage_widths=(32, 64, 160, 256)),
    _spec("b1", 14_009_000, 2, 2, 2, 2),
    _spec("b2", 25_362_856, 3, 4, 6, 3),
    _spec("b2_li", 22_553_512, 3, 4, 6, 3, linear_attention=True),
    _spec("b3", 45_238_696, 3, 4, 18, 3),
    _spec("b4", 62_556_072, 3, 8, 27, 3),
    _spec("b5", 81_956_008, 3, 6, 40, 3, mlp_ratios=(4, 4, 4, 4)),
)


def _hf_fields(config: PVTv2Config) -> dict[str, Any]:
    reductions = {"sr_ratios": config.reduction_ratios}
    return hf_stages(config) | reductions | {"linear_attention": config.linear_attention}


def _hf(spec: ModelSpec) -> ModelSpec:
    """Returns the row of the same weights in transformers, which has one epsilon for all norms."""
    return dataclasses.replace(
        spec,
        name=f"{spec.name}_hf",
        config=dataclasses.replace(spec.config, projection_norm_eps=1e-6),
        timm=None,
        hf=f"OpenGVLab/{spec.name.replace('_li', '_linear')}",
        hf_peer=HFPeer("PvtV2", _hf_fields),
    )


SPECS = (*_TIMM, *map(_hf, _TIMM))
