"""MobileNetV1, as timm and as transformers compute it."""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float

from jaxvision.layers.activation import ACTIVATIONS
from jaxvision.layers.conv import ConvNormAct, kaiming_depthwise
from jaxvision.models.mobilenet import Block, BlockRow, MobileNet, MobileNetConfig, hf_fields
from jaxvision.models.spec import HALF, HFPeer, ModelSpec, Preprocess

# Table 1 of the paper behind the first convolution; a row of it is half a block.
_ROWS = (
    BlockRow(channels=64),
    BlockRow(channels=128, stride=2, repeats=2),
    BlockRow(channels=256, stride=2, repeats=2),
    BlockRow(channels=512, stride=2, repeats=6),
    BlockRow(channels=1024, stride=2, repeats=2),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileNetV1Config(MobileNetConfig):
    """Every choice of a MobileNetV1; see `MobileNetConfig`.

    Attributes:
      rows: Rows of the paper's table of blocks.
    """

    rows: tuple[BlockRow, ...] = _ROWS

    def __post_init__(self):
        super().__post_init__()
        if any(row.squeeze or row.expansion != 1 for row in self.rows):
            raise ValueError("A row of MobileNetV1 has neither expansion nor squeeze.")
        if self.drop_path_rate:
            raise ValueError(
                "MobileNetV1 has no shortcuts, so that nothing would be left of a dropped block: "
                "set drop_path_rate=0."
            )


class SeparableConv(nnx.Module):
    """A depthwise convolution and a 1x1 one, each with batch norm and activation.

    They cost 1 / out_channels + 1 / kernel_size^2 of the dense convolution that they replace.

    Args:
      config: Config of the model.
      shape: Shape of the block: its channels, kernel size, stride and activation.
      rngs: Source of the initial values.

    Source: Howard et al. 2017, MobileNets, section 3.1 and figure 3.
    """

    def __init__(self, config: MobileNetV1Config, shape: Block, *, rngs: nnx.Rngs):
        activation, convs = ACTIVATIONS[shape.activation], config.conv_options()
        self.depthwise = ConvNormAct(
            shape.in_channels,
            shape.in_channels,
            shape.kernel_size,
            stride=shape.stride,
            groups=shape.in_channels,
            kernel_init=kaiming_depthwise,
            activation=activation,
            rngs=rngs,
            **convs,
        )
        self.project = ConvNormAct(
            shape.in_channels, shape.out_channels, 1, activation=activation, rngs=rngs, **convs
        )

    def __call__(
        self,
        inputs: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        """Returns the new map; moves the running statistics if `train`."""
        del rngs
        return self.project(self.depthwise(inputs, train=train), train=train)


class MobileNetV1(MobileNet):
    """A stem and 13 separable convolutions.

    Source: Howard et al. 2017, MobileNets: Efficient Convolutional Neural Networks for Mobile
      Vision Applications, https://arxiv.org/abs/1704.04861.
    """

    config: MobileNetV1Config
    weight_sources = "jaxvision.interop.mobilenet:V1_SOURCES"

    def make_block(self, shape: Block, drop_path_rate: float, *, rngs: nnx.Rngs) -> SeparableConv:
        """Returns a new block."""
        del drop_path_rate
        return SeparableConv(self.config, shape, rngs=rngs)


def _spec(
    name: str,
    width: float,
    num_params: int,
    *,
    same: bool = False,
    image_size: int = 224,
    timm: str | None = None,
    hf: str | None = None,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="mobilenet_v1",
        build=MobileNetV1,
        config=MobileNetV1Config(
            width=width, padding="same" if same else "symmetric", norm_eps=1e-3 if same else 1e-5
        ),
        image_size=image_size,
        preprocess=Preprocess(HALF, HALF, "bilinear" if same else "bicubic"),
        num_params=num_params,
        source="Howard et al. 2017, tables 1 and 6",
        timm=timm,
        hf=hf,
        # Its momentum is TensorFlow's, taken for torch's.
        hf_peer=HFPeer("MobileNetV1", hf_fields, {"norm_momentum": 0.9997}) if hf else None,
    )


# tf_: padding and epsilon as in TensorFlow, whose weights transformers has (1001 classes, the first
# of which is the background).
SPECS = (
    _spec("mobilenet_v1", 1.0, 4_231_976, timm="mobilenetv1_100"),
    _spec("mobilenetv1_075", 0.75, 2_585_560),
    _spec("mobilenetv1_050", 0.5, 1_331_592),
    _spec("mobilenetv1_025", 0.25, 470_072),
    _spec("mobilenetv1_125", 1.25, 6_270_840, timm="mobilenetv1_125"),
    _spec("tf_mobilenetv1_100", 1.0, 4_231_976, same=True, hf="google/mobilenet_v1_1.0_224"),
    _spec(
        "tf_mobilenetv1_075",
        0.75,
        2_585_560,
        same=True,
        image_size=192,
        hf="google/mobilenet_v1_0.75_192",
    ),
)
