"""Hybrid ViT: a ResNet sees the image first, a Transformer sees the ResNet's map."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.group_norm import GroupNorm
from jaxvision.layers.patch import PatchEmbed, check_divisible
from jaxvision.layers.pool import max_pool
from jaxvision.layers.std_conv import StdConv
from jaxvision.models.spec import ModelSpec, layer_dtypes
from jaxvision.models.vit import SIZES, ViT, ViTConfig, eval_transform


@dataclasses.dataclass(frozen=True, kw_only=True)
class HybridViTConfig(ViTConfig):
    """Every choice of a hybrid: those of `ViTConfig`, with another stem, and those of its ResNet.

    Attributes:
      patch_size: Side of a token in pixels of the image, over ResNet and patches together.
      stem: Kind of stem: "resnet", the only one.
      stage_depths: Number of blocks in each stage of the ResNet; none: its first convolution and
        pooling alone.
      stage_widths: Number of inner channels of the blocks in each stage; a block puts out four
        times as many.
      stem_width: Number of channels of the ResNet's first convolution.
      norm_groups: Number of groups of every GroupNorm.
      group_norm_eps: Epsilon of every GroupNorm.
    """

    stem: str = "resnet"
    stage_depths: tuple[int, ...]
    stage_widths: tuple[int, ...]
    stem_width: int = 64
    norm_groups: int = 32
    group_norm_eps: float = 1e-5

    STEMS: ClassVar[tuple[str, ...]] = ("resnet",)

    def __post_init__(self):
        super().__post_init__()
        if len(self.stage_depths) != len(self.stage_widths):
            raise ValueError(
                "stage_depths and stage_widths must name the same stages, got "
                f"{self.stage_depths} and {self.stage_widths}."
            )
        if self.patch_size % self.stride:
            raise ValueError(
                f"patch_size counts pixels of the image, of which the ResNet makes {self.stride} "
                f"into one: it must be a multiple of {self.stride}, got {self.patch_size}."
            )

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of the ResNet's map."""
        return 4 * 2 ** max(len(self.stage_depths) - 1, 0)


class Bottleneck(nnx.Module):
    """A residual block: three standardised convolutions with a group norm after each.

    Args:
      config: Config of the model.
      in_channels: Number of channels of the input.
      width: Number of inner channels; the output has four times as many.
      stride: Stride of the 3x3 convolution, 1 or 2.
      projects: Whether the shortcut is a convolution of its own.
      rngs: Source of the initial values.

    Source: He et al. 2016, Deep Residual Learning, figure 5; Kolesnikov et al. 2020, Big Transfer,
      for norms and kernels, but not for its order (BiT normalises before it convolves).
    """

    def __init__(
        self,
        config: HybridViTConfig,
        in_channels: int,
        width: int,
        *,
        stride: int,
        projects: bool,
        rngs: nnx.Rngs,
    ):
        dtypes = layer_dtypes(config.dtype)
        out_channels = 4 * width
        self.conv1 = StdConv(in_channels, width, 1, rngs=rngs, **dtypes)
        self.norm1 = _norm(width, config)
        self.conv2 = StdConv(width, width, 3, stride=stride, rngs=rngs, **dtypes)
        self.norm2 = _norm(width, config)
        self.conv3 = StdConv(width, out_channels, 1, rngs=rngs, **dtypes)
        self.norm3 = _norm(out_channels, config)
        self.downsample = (
            StdConvNorm(config, in_channels, out_channels, 1, stride=stride, rngs=rngs)
            if projects
            else None
        )

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the new map."""
        branch = nnx.relu(self.norm1(self.conv1(inputs)))
        branch = nnx.relu(self.norm2(self.conv2(branch)))
        branch = self.norm3(self.conv3(branch))
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        return nnx.relu(shortcut + branch)


class StdConvNorm(nnx.Module):
    """A standardised convolution and a group norm.

    Args:
      config: Config of the model.
      in_channels: Number of channels of the input.
      out_channels: Number of channels of the output.
      kernel_size: Side of the kernel in pixels.
      stride: Step of the kernel in pixels.
      rngs: Source of the initial values.
    """

    def __init__(
        self,
        config: HybridViTConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int,
        rngs: nnx.Rngs,
    ):
        self.conv = StdConv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )
        self.norm = _norm(out_channels, config)

    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the new map."""
        return self.norm(self.conv(inputs))


def _norm(width: int, config: HybridViTConfig) -> GroupNorm:
    return GroupNorm(
        width,
        groups=config.norm_groups,
        eps=config.group_norm_eps,
        **layer_dtypes(config.dtype),
    )


class ResNetEmbed(nnx.Module):
    """Makes tokens of an image by a ResNet, whose map is then cut into patches.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, section 3.1 "Hybrid
      Architecture" and appendix B.1.
    """

    def __init__(self, config: HybridViTConfig, *, rngs: nnx.Rngs):
        channels = config.stem_width
        self.stem = StdConvNorm(config, config.in_channels, channels, 7, stride=2, rngs=rngs)
        stages = []
        for stage, (depth, width) in enumerate(
            zip(config.stage_depths, config.stage_widths, strict=True)
        ):
            blocks = []
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(
                    Bottleneck(config, channels, width, stride=stride, projects=i == 0, rngs=rngs)
                )
                channels = 4 * width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.proj = PatchEmbed(
            channels,
            config.width,
            patch_size=config.patch_size // config.stride,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )
        self.patch_size = config.patch_size

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns new_channels"]:
        """Returns the grid of tokens; `train` changes nothing here.

        Raises:
          ValueError: if the image is not a whole number of patches.
        """
        del train
        check_divisible(images.shape[1], images.shape[2], self.patch_size)
        outputs = nnx.relu(self.stem(images))
        # SAME on even sides: one more row and column at the end. After a relu 0 is the least.
        outputs = jnp.pad(outputs, ((0, 0), (0, 1), (0, 1), (0, 0)))
        outputs = max_pool(outputs, kernel_size=3, stride=2)
        for blocks in self.stages:
            for block in blocks:
                outputs = block(outputs)
        return self.proj(outputs)


class HybridViT(ViT):
    """Vision Transformer over the map of a ResNet.

    Initial values of the Transformer as `ViT`; convolutions Kaiming normal by fan-out.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, section 3.1; Steiner et al.
      2021, How to train your ViT?, table 2, https://arxiv.org/abs/2106.10270.
    """

    config: HybridViTConfig
    weight_sources = "jaxvision.interop.hybrid_vit:SOURCES"

    def _stem(self, rngs: nnx.Rngs) -> ResNetEmbed:
        return ResNetEmbed(self.config, rngs=rngs)


def _spec(
    name: str, size: str, patch_size: int, num_params: int, timm: str, *stage_depths: int
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="hybrid_vit",
        build=HybridViT,
        config=HybridViTConfig(
            patch_size=patch_size,
            stage_depths=stage_depths,
            stage_widths=(64, 128, 256, 512)[: len(stage_depths)],
            **SIZES[size],
        ),
        image_size=224,
        preprocess=eval_transform(224),
        num_params=num_params,
        source="Steiner et al. 2021, table 2; R50: Dosovitskiy et al. 2021, section 4.1",
        timm=timm,
    )


# The paper's R+Ti/16 has 8x8 patches of a map of stride 4: 32 pixels per token, for all its name.
SPECS = (
    _spec("vit_r_ti16", "ti", 32, 6_337_704, "vit_tiny_r_s16_p8_224"),
    _spec("vit_r26_s32", "s", 32, 36_431_912, "vit_small_r26_s32_224", 2, 2, 2, 2),
    _spec("vit_r26_b32", "b", 32, 101_383_976, "vit_base_r26_s32_224", 2, 2, 2, 2),
    _spec("vit_r50_b16", "b", 16, 98_659_112, "vit_base_r50_s16_224", 3, 4, 9),
    _spec("vit_r50_l32", "l", 32, 328_994_856, "vit_large_r50_s32_224", 3, 4, 6, 3),
)
