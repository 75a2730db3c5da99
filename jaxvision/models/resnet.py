"""ResNet with its wide and grouped relatives as in torchvision, and the paper's for CIFAR-10."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.errors import check_choice
from jaxvision.layers.activation import relu, relu_of_sum
from jaxvision.layers.conv import Conv, ConvNormAct
from jaxvision.layers.drop_path import drop_path, drop_path_rates
from jaxvision.layers.norm import BatchNorm
from jaxvision.layers.pool import max_pool
from jaxvision.layers.tap import tap
from jaxvision.models.image_model import ImageModel
from jaxvision.models.spec import (
    HFPeer,
    ModelSpec,
    Preprocess,
    check_images,
    check_rates,
    layer_dtypes,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Every choice of a ResNet.

    Attributes:
      block: Kind of block: "basic" (two 3x3) or "bottleneck" (1x1, 3x3, 1x1 with four times the
        channels).
      stage_depths: Number of blocks in each stage.
      stage_widths: Number of channels in each stage, before the factor 4 of a bottleneck.
      first_stride: Stride of the first stage; 2 makes a small net on small images cheaper.
      groups: Number of groups of the 3x3 convolution in a bottleneck (ResNeXt).
      base_width: Number of inner channels of a bottleneck per group and per 64 of the stage's
        width.
      stem: Kind of stem: "imagenet" (7x7 of stride 2, then max-pooling) or "cifar" (3x3 of stride
        1, no pooling).
      stem_width: Number of channels of the stem.
      in_channels: Number of channels of the image.
      num_classes: Number of outputs of the head; 0: no head, the call returns the pooled features.
      shortcut: Kind of shortcut where a block changes the size: "projection" (a 1x1 convolution and
        its norm, the paper's option B) or "zero_padding" (every second pixel, with channels of
        zeros in equal numbers before and behind; no parameters, the paper's option A).
      plain: Whether the shortcuts are left out, to see why they are there.
      zero_init_last: Whether the scale of the last norm of each block starts at 0, so that the
        block is the identity; without effect if `plain`.
      drop_path_rate: Drop-path rate of the last block's branch; rises linearly from 0.
      dropout_rate: Dropout rate before the head.
      head_hidden: Number of units of a hidden layer with ReLU in the head; 0: a linear head.
      head_hidden_dropout_rate: Dropout rate after the hidden layer.
      norm_eps: Epsilon of every batch norm.
      norm_momentum: Momentum of every batch norm, in torch's sense.
      dtype: Compute dtype; parameters, statistics and logits are float32 (float64 if this is).
    """

    block: str
    stage_depths: tuple[int, ...]
    stage_widths: tuple[int, ...] = (64, 128, 256, 512)
    first_stride: int = 1
    groups: int = 1
    base_width: int = 64
    stem: str = "imagenet"
    stem_width: int = 64
    in_channels: int = 3
    num_classes: int = 1000
    shortcut: str = "projection"
    plain: bool = False
    zero_init_last: bool = True
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    head_hidden: int = 0
    head_hidden_dropout_rate: float = 0.0
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    dtype: str = "float32"

    def __post_init__(self):
        check_choice("block", self.block, ("basic", "bottleneck"))
        check_choice("stem", self.stem, ("imagenet", "cifar"))
        check_choice("shortcut", self.shortcut, ("projection", "zero_padding"))
        check_rates(self)
        if len(self.stage_depths) != len(self.stage_widths):
            raise ValueError(
                "stage_depths and stage_widths must name the same stages, got "
                f"{self.stage_depths} and {self.stage_widths}."
            )
        if self.block == "basic" and (self.groups, self.base_width) != (1, 64):
            raise ValueError("groups and base_width need block='bottleneck'.")
        widths = [self.stem_width, *(width * self.expansion for width in self.stage_widths)]
        if self.shortcut == "zero_padding" and widths != sorted(widths):
            raise ValueError(
                "shortcut='zero_padding' adds channels and takes none away: stem_width and "
                f"stage_widths must not fall, got {self.stem_width} and {self.stage_widths}."
            )
        if self.plain and self.drop_path_rate:
            raise ValueError(
                "plain=True leaves nothing when a branch is dropped: set drop_path_rate=0."
            )

    @property
    def expansion(self) -> int:
        """Channels of a block's output / width of its stage."""
        return 4 if self.block == "bottleneck" else 1


class ResNetBlock(nnx.Module):
    """A residual block: two or three convolutions beside a shortcut.

    The stride is in the 3x3 convolution of a bottleneck, as in torchvision ("v1.5"); the paper had
    it in the first 1x1.

    Args:
      config: Config of the model.
      in_channels: Number of channels of the input.
      width: Number of channels of the stage, before the factor 4 of a bottleneck.
      stride: Stride of the block, 1 or 2.
      drop_path_rate: Probability of dropping the branch.
      rngs: Source of the initial values.

    Source: He et al. 2016, Deep Residual Learning, figure 5; Xie et al. 2017 for the groups.
    """

    def __init__(
        self,
        config: ResNetConfig,
        in_channels: int,
        width: int,
        *,
        stride: int,
        drop_path_rate: float,
        rngs: nnx.Rngs,
    ):
        dtypes = layer_dtypes(config.dtype)
        norm = {"eps": config.norm_eps, "momentum": config.norm_momentum, **dtypes}
        out_channels = width * config.expansion
        # Without a shortcut a block that starts at 0 would pass nothing on.
        last_scale = 0.0 if config.zero_init_last and not config.plain else 1.0
        if config.block == "basic":
            self.conv1 = Conv(in_channels, width, 3, stride=stride, rngs=rngs, **dtypes)
            self.norm1 = BatchNorm(width, **norm)
            self.conv2 = Conv(width, out_channels, 3, rngs=rngs, **dtypes)
            self.norm2 = BatchNorm(out_channels, init_scale=last_scale, **norm)
        else:
            groups = config.groups
            inner = width * config.base_width // 64 * groups
            self.conv1 = Conv(in_channels, inner, 1, rngs=rngs, **dtypes)
            self.norm1 = BatchNorm(inner, **norm)
            self.conv2 = Conv(inner, inner, 3, stride=stride, groups=groups, rngs=rngs, **dtypes)
            self.norm2 = BatchNorm(inner, **norm)
            self.conv3 = Conv(inner, out_channels, 1, rngs=rngs, **dtypes)
            self.norm3 = BatchNorm(out_channels, init_scale=last_scale, **norm)
        resizes = stride != 1 or in_channels != out_channels
        projects = resizes and config.shortcut == "projection" and not config.plain
        self.downsample = (
            None
            if not projects
            else ConvNormAct(
                in_channels,
                out_channels,
                1,
                stride=stride,
                activation=None,
                norm_eps=config.norm_eps,
                norm_momentum=config.norm_momentum,
                rngs=rngs,
                **dtypes,
            )
        )
        self.bottleneck = config.block == "bottleneck"
        self.plain = config.plain
        self.stride = stride
        self.drop_path_rate = drop_path_rate

    def __call__(
        self,
        inputs: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the new map; moves the running statistics if `train`."""
        branch = self.norm1.activated(self.conv1(inputs), relu, train=train)
        last = relu if self.plain else None
        if self.bottleneck:
            branch = self.norm2.activated(self.conv2(branch), relu, train=train)
            branch = self.norm3.activated(self.conv3(branch), last, train=train)
        else:
            branch = self.norm2.activated(self.conv2(branch), last, train=train)
        if self.plain:
            return branch
        branch = drop_path(branch, self.drop_path_rate, train=train, rngs=rngs)
        if self.downsample is not None:
            shortcut = self.downsample(inputs, train=train)
        else:
            shortcut = _subsample_and_pad(inputs, self.stride, branch.shape[-1])
        return relu_of_sum(shortcut + branch)


def _subsample_and_pad(inputs: jax.Array, stride: int, channels: int) -> jax.Array:
    """Returns every `stride`-th pixel, with zeros around its channels; most blocks change nothing.

    The paper does not say where the zeros are: Idelbayev's weights have half of them on each side.
    """
    more = channels - inputs.shape[-1]
    if stride == 1 and more == 0:
        return inputs
    around = ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2))
    return jnp.pad(inputs[:, ::stride, ::stride], around)


class ResNet(ImageModel):
    """Residual network.

    Initial values as timm: convolutions Kaiming normal by fan-out, the last norm of each block 0
    (Goyal et al. 2017; torchvision starts it at 1, `zero_init_last=False`), head uniform as torch's
    Linear, bias 0.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.

    Source: He et al. 2016, Deep Residual Learning for Image Recognition,
      https://arxiv.org/abs/1512.03385.
    """

    config: ResNetConfig
    weight_sources = "jaxvision.interop.resnet:SOURCES"
    head_dropout = "dropout_rate"

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        imagenet = config.stem == "imagenet"
        self.stem = ConvNormAct(
            config.in_channels,
            config.stem_width,
            7 if imagenet else 3,
            stride=2 if imagenet else 1,
            norm_eps=config.norm_eps,
            norm_momentum=config.norm_momentum,
            rngs=rngs,
            **layer_dtypes(config.dtype),
        )
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.stage_depths)))
        channels = config.stem_width
        stages = []
        for stage, (depth, width) in enumerate(
            zip(config.stage_depths, config.stage_widths, strict=True)
        ):
            blocks = []
            for i in range(depth):
                first = config.first_stride if stage == 0 else 2
                blocks.append(
                    ResNetBlock(
                        config,
                        channels,
                        width,
                        stride=first if i == 0 else 1,
                        drop_path_rate=next(rates),
                        rngs=rngs,
                    )
                )
                channels = width * config.expansion
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.head = self.new_head(channels, _torch_linear, rngs)

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch rows columns features"], dict[int, jax.Array]]:
        """Returns the map of the last stage, and the maps of all.

        The images may have any size.
        """
        check_images(images, self.config.in_channels)
        outputs = self.stem(images, train=train)
        stride = 1
        if self.config.stem == "imagenet":
            outputs = max_pool(outputs, kernel_size=3, stride=2, padding=1)
            stride = 4
        maps = {}
        for stage, blocks in enumerate(self.stages):
            stride *= self.config.first_stride if stage == 0 else 2
            for block in blocks:
                outputs = block(outputs, train=train, rngs=rngs)
            outputs = maps[stride] = tap("map", outputs)
        return outputs, maps


# U(-1/sqrt(in), 1/sqrt(in)), what torch.nn.Linear starts with.
_torch_linear = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _spec(
    name: str,
    config: ResNetConfig,
    num_params: int,
    source: str = "He et al. 2016, table 1",
    hf: str | None = None,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="resnet",
        build=ResNet,
        config=config,
        image_size=224,
        preprocess=Preprocess(),
        num_params=num_params,
        source=source,
        timm=name,
        torchvision=name,
        hf=hf,
        hf_peer=HFPeer("ResNet", _hf_fields) if hf else None,
    )


def _hf_fields(config: ResNetConfig) -> dict[str, Any]:
    return {
        "embedding_size": config.stem_width,
        "hidden_sizes": [width * config.expansion for width in config.stage_widths],
        "depths": config.stage_depths,
        "layer_type": config.block,
    }


def _basic(*stage_depths: int) -> ResNetConfig:
    return ResNetConfig(block="basic", stage_depths=stage_depths)


def _bottleneck(*stage_depths: int, groups: int = 1, base_width: int = 64) -> ResNetConfig:
    return ResNetConfig(
        block="bottleneck", stage_depths=stage_depths, groups=groups, base_width=base_width
    )


def _cifar(blocks: int, num_params: int) -> ModelSpec:
    """Returns a net of 6 * `blocks` + 2 layers for images of 32 pixels."""
    return ModelSpec(
        name=f"cifar_resnet{6 * blocks + 2}",
        family="resnet",
        build=ResNet,
        config=ResNetConfig(
            block="basic",
            stage_depths=(blocks,) * 3,
            stage_widths=(16, 32, 64),
            stem="cifar",
            stem_width=16,
            num_classes=10,
            shortcut="zero_padding",
            zero_init_last=False,
        ),
        image_size=32,
        # Idelbayev's weights (github.com/akamaster/pytorch_resnet_cifar10) were trained with the
        # mean and deviation of ImageNet, not with those of CIFAR-10.
        preprocess=Preprocess(crop_fraction=1.0),
        num_params=num_params,
        source="He et al. 2016, section 4.2",
    )


_RESNEXT = _bottleneck(3, 4, 6, 3, groups=32, base_width=4)
_WIDE = _bottleneck(3, 4, 6, 3, base_width=128)

# torchvision and timm use the same names.
SPECS = (
    _spec("resnet18", _basic(2, 2, 2, 2), 11_689_512, hf="microsoft/resnet-18"),
    _spec("resnet34", _basic(3, 4, 6, 3), 21_797_672, hf="microsoft/resnet-34"),
    _spec("resnet50", _bottleneck(3, 4, 6, 3), 25_557_032, hf="microsoft/resnet-50"),
    _spec("resnet101", _bottleneck(3, 4, 23, 3), 44_549_160, hf="microsoft/resnet-101"),
    _spec("resnet152", _bottleneck(3, 8, 36, 3), 60_192_808, hf="microsoft/resnet-152"),
    _spec("resnext50_32x4d", _RESNEXT, 25_028_904, "Xie et al. 2017, table 1"),
    _spec("wide_resnet50_2", _WIDE, 68_883_240, "Zagoruyko and Komodakis 2016"),
    _cifar(3, 269_722),
    _cifar(5, 464_154),
    _cifar(7, 658_586),
    _cifar(9, 853_018),
    _cifar(18, 1_727_962),
    _cifar(200, 19_421_274),
)
