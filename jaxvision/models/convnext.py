"""ConvNeXt: a convolutional network with the proportions of a Swin Transformer."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxvision.layers.block_stack import Remat, Scan, build_blocks, run_blocks
from jaxvision.layers.conv import Conv
from jaxvision.layers.drop_path import drop_path, stage_drop_path_rates
from jaxvision.layers.dropout import draw_block_key
from jaxvision.layers.initializer import trunc_normal
from jaxvision.layers.layer_scale import LayerScale
from jaxvision.layers.mlp import Mlp
from jaxvision.layers.norm import layer_norm
from jaxvision.layers.patch import PatchEmbed, whole_patches
from jaxvision.layers.pool import global_pool
from jaxvision.layers.tap import tap
from jaxvision.models.image_model import ImageModel, LayerGroups
from jaxvision.models.spec import (
    HFPeer,
    ModelSpec,
    Preprocess,
    check_images,
    check_rates,
    layer_dtypes,
)

_INIT = trunc_normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """Every choice of a ConvNeXt.

    Attributes:
      stage_depths: Number of blocks in each stage.
      stage_widths: Number of channels in each stage.
      in_channels: Number of channels of the image.
      num_classes: Number of outputs of the head; 0: no head, the call returns the pooled features.
      layer_scale_init: Starting value of LayerScale; None: no LayerScale.
      dropout_rate: Dropout rate before the head.
      drop_path_rate: Drop-path rate of the last block's branch; rises linearly from 0 over all
        stages.
      norm_eps: Epsilon of every LayerNorm but the one before the head.
      head_norm_eps: Epsilon of the LayerNorm before the head: 1e-6 in timm and torchvision, 1e-12
        in Hugging Face.
      remat: Whether each block is computed again in the backward pass instead of keeping its
        activations; "offload": and what goes into each is kept in the memory of the host.
      scan: Whether a stage's blocks are kept stacked and run by `jax.lax.scan`; False: a list and a
        loop; "auto": where it is faster, see `build_blocks`.
      dtype: Compute dtype; parameters and logits are float32 (float64 if this is).
    """

    stage_depths: tuple[int, ...]
    stage_widths: tuple[int, ...]
    in_channels: int = 3
    num_classes: int = 1000
    layer_scale_init: float | None = 1e-6
    dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_eps: float = 1e-6
    head_norm_eps: float = 1e-6
    remat: Remat = False
    scan: Scan = "auto"
    dtype: str = "float32"

    def __post_init__(self):
        check_rates(self)
        if len(self.stage_depths) != len(self.stage_widths):
            raise ValueError(
                "stage_depths and stage_widths must name the same stages, got "
                f"{self.stage_depths} and {self.stage_widths}."
            )


class ConvNeXtBlock(nnx.Module):
    """A residual block: 7x7 depthwise convolution, norm, and an MLP of each pixel.

    Args:
      config: Config of the model.
      width: Number of channels in and out.
      rngs: Source of the initial values.

    Source: Liu et al. 2022, A ConvNet for the 2020s, figure 4 and section 2.
    """

    def __init__(self, config: ConvNeXtConfig, width: int, *, rngs: nnx.Rngs):
        dtypes, init = layer_dtypes(config.dtype), config.layer_scale_init
        self.conv = Conv(
            width,
            width,
            7,
            groups=width,
            use_bias=True,
            kernel_init=_INIT,
            rngs=rngs,
            **dtypes,
        )
        self.norm = layer_norm(width, eps=config.norm_eps, rngs=rngs, **dtypes)
        self.mlp = Mlp(width, 4 * width, rngs=rngs, **dtypes)
        self.layer_scale = None if init is None else LayerScale(width, init=init, **dtypes)

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
          drop_path_rate: Probability of dropping the branch.
          train: Whether drop path is on.
          rngs: Source of randomness; needed only if `train` and the rate is > 0.
        """
        # Named to be kept for the backward pass: it is no matrix product, but dear all the same.
        branch = checkpoint_name(self.conv(inputs), "depthwise")
        branch = self.mlp(self.norm(branch))
        if self.layer_scale is not None:
            branch = self.layer_scale(branch)
        return inputs + drop_path(branch, drop_path_rate, train=train, rngs=rngs)


class Downsample(nnx.Module):
    """Halves the sides of a map by a norm and a linear map of patches of 2x2.

    Args:
      config: Config of the model.
      in_channels: Number of channels of the map.
      width: Number of channels of the new map.
      rngs: Source of the initial values.
    """

    def __init__(self, config: ConvNeXtConfig, in_channels: int, width: int, *, rngs: nnx.Rngs):
        dtypes = layer_dtypes(config.dtype)
        self.norm = layer_norm(in_channels, eps=config.norm_eps, rngs=rngs, **dtypes)
        self.proj = PatchEmbed(
            in_channels, width, patch_size=2, kernel_init=_INIT, rngs=rngs, **dtypes
        )

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the new map; raises a ValueError if a side has one pixel only."""
        return self.proj(whole_patches(self.norm(inputs), 2))


class ConvNeXtStage(nnx.Module):
    """A map of half the sides (in the first stage, that of the stem), then the blocks.

    Args:
      config: Config of the model.
      stage: Index of the stage, from 0.
      drop_path_rates: Drop-path rate of each block.
      rngs: Source of the initial values.
    """

    def __init__(
        self,
        config: ConvNeXtConfig,
        stage: int,
        *,
        drop_path_rates: tuple[float, ...],
        rngs: nnx.Rngs,
    ):
        width = config.stage_widths[stage]
        before = config.stage_widths[stage - 1]
        self.downsample = Downsample(config, before, width, rngs=rngs) if stage else None
        self.blocks = build_blocks(
            lambda rngs: ConvNeXtBlock(config, width, rngs=rngs),
            config.stage_depths[stage],
            scan=config.scan,
            rngs=rngs,
        )
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
        inputs = inputs if self.downsample is None else self.downsample(inputs)

        def step(block, outputs, rate, rngs):
            return block(outputs, drop_path_rate=rate, train=train, rngs=rngs), None

        key = draw_block_key(rngs, config.drop_path_rate, train=train, what="drop path")
        return run_blocks(
            self.blocks, inputs, step, rates=self.drop_path_rates, key=key, remat=config.remat
        )[0]


class ConvNeXt(ImageModel):
    """ConvNeXt.

    Initial values as timm and torchvision: all kernels trunc-normal 0.02, biases 0.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Liu et al. 2022, A ConvNet for the 2020s, https://arxiv.org/abs/2201.03545.
    """

    config: ConvNeXtConfig
    weight_sources = "jaxvision.interop.convnext:SOURCES"
    layer_groups = LayerGroups(with_head="norm/")
    head_dropout = "dropout_rate"

    def __init__(self, config: ConvNeXtConfig, *, rngs: nnx.Rngs):
        widths, dtypes = config.stage_widths, layer_dtypes(config.dtype)
        self.config = config
        self.stem = PatchEmbed(
            config.in_channels, widths[0], patch_size=4, kernel_init=_INIT, rngs=rngs, **dtypes
        )
        self.stem_norm = layer_norm(widths[0], eps=config.norm_eps, rngs=rngs, **dtypes)
        rates = stage_drop_path_rates(config.drop_path_rate, config.stage_depths)
        self.stages = nnx.List(
            ConvNeXtStage(config, stage, drop_path_rates=each, rngs=rngs)
            for stage, each in enumerate(rates)
        )
        self.norm = layer_norm(widths[-1], eps=config.head_norm_eps, rngs=rngs, **dtypes)
        self.head = self.new_head(widths[-1], _INIT, rngs)

    def pool(
        self, features: Float[Array, "batch rows columns features"]
    ) -> Float[Array, "batch channels"]:
        """Returns the mean of the map, normalised."""
        return self.norm(global_pool(features))

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch rows columns features"], dict[int, jax.Array]]:
        """Returns the map of the last stage, and the maps of all; the norm follows the pooling.

        Pixels at the lower and right border that fill no patch are left out, as in torch.

        The images may have any size from 32 x 32.
        """
        check_images(images, self.config.in_channels)
        outputs = self.stem_norm(self.stem(whole_patches(images, 4)))
        maps = {}
        for i, stage in enumerate(self.stages):
            outputs = tap("map", stage(outputs, train=train, rngs=rngs))
            maps[4 * 2**i] = outputs
        return outputs, maps


def _spec(
    size: str, num_params: int, stage_depths: tuple[int, ...], stage_widths: tuple[int, ...]
) -> ModelSpec:
    name = f"convnext_{size}"
    return ModelSpec(
        name=name,
        family="convnext",
        build=ConvNeXt,
        config=ConvNeXtConfig(stage_depths=stage_depths, stage_widths=stage_widths),
        image_size=224,
        preprocess=Preprocess(interpolation="bicubic"),
        num_params=num_params,
        source="Liu et al. 2022, section 3",
        timm=name,
        torchvision=name,
    )


_TORCH = (
    _spec("tiny", 28_589_128, (3, 3, 9, 3), (96, 192, 384, 768)),
    _spec("small", 50_223_688, (3, 3, 27, 3), (96, 192, 384, 768)),
    _spec("base", 88_591_464, (3, 3, 27, 3), (128, 256, 512, 1024)),
    _spec("large", 197_767_336, (3, 3, 27, 3), (192, 384, 768, 1536)),
)


def _hf(spec: ModelSpec) -> ModelSpec:
    """Returns the row of the same weights in transformers, whose last norm has another epsilon."""
    return dataclasses.replace(
        spec,
        name=f"{spec.name}_hf",
        config=dataclasses.replace(spec.config, head_norm_eps=1e-12),
        timm=None,
        torchvision=None,
        hf=f"facebook/{spec.name.replace('_', '-')}-224",
        hf_peer=HFPeer("ConvNext", _hf_fields),
    )


def _hf_fields(config: ConvNeXtConfig) -> dict[str, Any]:
    return {"hidden_sizes": config.stage_widths, "depths": config.stage_depths}


SPECS = (*_TORCH, *map(_hf, _TORCH))
