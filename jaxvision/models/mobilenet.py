"""What the MobileNets and EfficientNets share: a table of blocks, and the walk through it."""

import dataclasses
import itertools
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.errors import check_choice
from jaxvision.layers.activation import ACTIVATIONS
from jaxvision.layers.conv import PADDINGS, ConvNormAct, make_divisible
from jaxvision.layers.tap import tap
from jaxvision.models.image_model import ImageModel
from jaxvision.models.spec import check_images, check_rates, layer_dtypes

_HEAD_INIT = jax.nn.initializers.normal(0.01)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockRow:
    """One line of a paper's table: blocks that are equal but for the first one's stride and input.

    Attributes:
      channels: Number of channels of the output, before the width multiplier.
      expansion: Ratio of the channels inside to those of the input.
      kernel_size: Side of the depthwise kernel in pixels.
      stride: Stride of the first block.
      repeats: Number of blocks.
      squeeze: Whether the blocks have a squeeze-and-excitation.
      activation: Name of the activation of the blocks; None: that of the model.
    """

    channels: int
    expansion: int | float = 1
    kernel_size: int = 3
    stride: int = 1
    repeats: int = 1
    squeeze: bool = False
    activation: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A block with all multipliers applied.

    Attributes:
      in_channels: Number of channels of the input.
      expanded_channels: Number of channels inside; equal to `in_channels`: there is no expansion.
      out_channels: Number of channels of the output.
      kernel_size: Side of the depthwise kernel in pixels.
      stride: Stride of the depthwise convolution.
      squeezed_channels: Number of channels inside the squeeze-and-excitation; 0: none.
      activation: Name of the activation.
    """

    in_channels: int
    expanded_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    squeezed_channels: int
    activation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileNetConfig:
    """The choices that all these families have.

    Attributes:
      rows: Rows of the paper's table of blocks.
      width: Multiplier of all channels, which are rounded to multiples of 8.
      stem_width: Number of channels of the stem, before the multiplier.
      activation: Name of the activation: "relu", "relu6", "hard_swish" or "silu".
      padding: Kind of padding: "symmetric", as torch pads, or "same", as TensorFlow does.
      in_channels: Number of channels of the image.
      num_classes: Number of outputs of the head; 0: no head, the call returns what the head would
        read.
      drop_path_rate: Drop-path rate; the branch of block i of n, from 0, gets this rate * i / n.
      dropout_rate: Dropout rate before the head.
      norm_eps: Epsilon of every batch norm.
      norm_momentum: Momentum of every batch norm, in torch's sense.
      dtype: Compute dtype; parameters, statistics and logits are float32 (float64 if this is).
    """

    rows: tuple[BlockRow, ...]
    width: float = 1.0
    stem_width: int = 32
    activation: str = "relu6"
    padding: str = "symmetric"
    in_channels: int = 3
    num_classes: int = 1000
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    dtype: str = "float32"

    def __post_init__(self):
        for name in (self.activation, *(row.activation for row in self.rows if row.activation)):
            check_choice("activation", name, tuple(ACTIVATIONS))
        check_choice("padding", self.padding, PADDINGS)
        check_rates(self)
        if self.width <= 0 or not self.rows:
            raise ValueError(
                f"A network needs a width above 0 and at least one row, got width={self.width} and "
                f"{len(self.rows)} rows."
            )

    @property
    def stem_channels(self) -> int:
        """Channels of the stem."""
        return make_divisible(self.stem_width * self.width)

    @property
    def last_channels(self) -> int:
        """Channels of the 1x1 convolution behind the blocks; 0: there is none."""
        return 0

    def repeats(self, row: BlockRow) -> int:
        """Returns the number of blocks of a row."""
        return row.repeats

    def squeezed(self, in_channels: int, expanded_channels: int) -> int:
        """Returns the channels inside the squeeze-and-excitation of a block."""
        raise NotImplementedError

    def stages(self) -> list[list[Block]]:
        """Returns every block; rows of the same kind of block and as many channels are a stage."""
        channels, stages = self.stem_channels, []
        for _, rows in itertools.groupby(self.rows, key=_kind):
            blocks = []
            for row in rows:
                for i in range(self.repeats(row)):
                    blocks.append(self._block(row, channels, stride=row.stride if i == 0 else 1))
                    channels = blocks[-1].out_channels
            stages.append(blocks)
        return stages

    def _block(self, row: BlockRow, in_channels: int, *, stride: int) -> Block:
        expanded = make_divisible(in_channels * row.expansion)
        return Block(
            in_channels=in_channels,
            expanded_channels=expanded,
            out_channels=make_divisible(row.channels * self.width),
            kernel_size=row.kernel_size,
            stride=stride,
            squeezed_channels=self.squeezed(in_channels, expanded) if row.squeeze else 0,
            activation=row.activation or self.activation,
        )

    def conv_options(self) -> dict[str, Any]:
        """Returns the arguments that every convolution of the model takes."""
        return {
            "padding": self.padding,
            "norm_eps": self.norm_eps,
            "norm_momentum": self.norm_momentum,
            **layer_dtypes(self.dtype),
        }


def _kind(row: BlockRow) -> tuple[int, bool, bool]:
    """Returns what the blocks of one stage have in common."""
    return row.channels, row.squeeze, row.expansion == 1


class MobileNet(ImageModel):
    """A stem of stride 2, stages of blocks, a 1x1 convolution, a head.

    Initial values of convolutions as timm and TensorFlow: normal by fan-out, per channel in
    depthwise ones, where torchvision's are smaller by the root of the channels. Head normal with
    deviation 0.01 as in torchvision's MobileNets: 1 / sqrt(classes), as timm and torchvision's
    EfficientNet have it, would be too much for a few classes. Biases 0.

    Args:
      config: Config of the model.
      rngs: Source of the initial values.
    """

    config: MobileNetConfig
    head_dropout = "dropout_rate"

    def __init__(self, config: MobileNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        activation, convs = ACTIVATIONS[config.activation], config.conv_options()
        self.stem = ConvNormAct(
            config.in_channels,
            config.stem_channels,
            3,
            stride=2,
            activation=activation,
            rngs=rngs,
            **convs,
        )
        shapes = config.stages()
        count, index = sum(map(len, shapes)), itertools.count()
        self.stages = nnx.List(
            nnx.List(
                self.make_block(shape, config.drop_path_rate * next(index) / count, rngs=rngs)
                for shape in stage
            )
            for stage in shapes
        )
        channels, last = shapes[-1][-1].out_channels, config.last_channels
        self.last_conv = (
            ConvNormAct(channels, last, 1, activation=activation, rngs=rngs, **convs)
            if last
            else None
        )
        self.head = self.new_head(self.head_channels(last or channels), _HEAD_INIT, rngs)

    def make_block(self, shape: Block, drop_path_rate: float, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a new block of the family."""
        raise NotImplementedError

    def head_channels(self, channels: int) -> int:
        """Returns what the head reads of a map with so many channels."""
        return channels

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "batch rows columns features"], dict[int, jax.Array]]:
        """Returns the last map before the pooling, and what `pyramid` returns.

        The images may have any size.
        """
        maps = self.pyramid(images, train=train, rngs=rngs)
        last = list(maps.values())[-1]
        if self.last_conv is not None:
            last = tap("map", self.last_conv(last, train=train))
        return last, maps

    def pyramid(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> dict[int, jax.Array]:
        """Returns the last map of each stride in pixels, the finest first, as timm's features_only.

        Not by way of `trunk`: where only maps are read, the statistics of the last convolution
        stay as they are.
        """
        check_images(images, self.config.in_channels)
        outputs = self.stem(images, train=train)
        stride, maps = 2, {2: outputs}
        for shapes, blocks in zip(self.config.stages(), self.stages, strict=True):
            for shape, block in zip(shapes, blocks, strict=True):
                outputs = block(outputs, train=train, rngs=rngs)
                stride *= shape.stride
                maps[stride] = outputs
            outputs = maps[stride] = tap("map", outputs)
        return maps


def hf_fields(config: MobileNetConfig) -> dict[str, Any]:
    """Returns the fields of the config of V1 or V2 in transformers."""
    return {"depth_multiplier": config.width, "classifier_dropout_prob": 0.0}
