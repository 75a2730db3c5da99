"""MobileNetV2, as torchvision, timm and transformers compute it."""

import dataclasses

from flax import nnx

from jaxvision.layers.activation import ACTIVATIONS
from jaxvision.layers.conv import make_divisible
from jaxvision.layers.inverted_residual import InvertedResidual
from jaxvision.models.mobilenet import Block, BlockRow, MobileNet, MobileNetConfig, hf_fields
from jaxvision.models.spec import HALF, HFPeer, ModelSpec, Preprocess

# Table 2 of the paper: its t, c, n and s.
_ROWS = (
    BlockRow(expansion=1, channels=16, repeats=1, stride=1),
    BlockRow(expansion=6, channels=24, repeats=2, stride=2),
    BlockRow(expansion=6, channels=32, repeats=3, stride=2),
    BlockRow(expansion=6, channels=64, repeats=4, stride=2),
    BlockRow(expansion=6, channels=96, repeats=3, stride=1),
    BlockRow(expansion=6, channels=160, repeats=3, stride=2),
    BlockRow(expansion=6, channels=320, repeats=1, stride=1),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileNetV2Config(MobileNetConfig):
    """Every choice of a MobileNetV2; see `MobileNetConfig`.

    Attributes:
      rows: Rows of the paper's table of blocks.
      last_width: Number of channels of the last convolution; a width multiplier below 1 leaves them
        alone.
      dropout_rate: Dropout rate before the head.
    """

    rows: tuple[BlockRow, ...] = _ROWS
    last_width: int = 1280
    dropout_rate: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        if any(row.squeeze for row in self.rows):
            raise ValueError("A row of MobileNetV2 has no squeeze.")

    @property
    def last_channels(self) -> int:
        """Channels of the 1x1 convolution behind the blocks."""
        return make_divisible(self.last_width * max(1.0, self.width))


class MobileNetV2(MobileNet):
    """A stem, 17 inverted residuals, a 1x1 convolution.

    Source: Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks,
      https://arxiv.org/abs/1801.04381.
    """

    config: MobileNetV2Config
    weight_sources = "jaxvision.interop.mobilenet:V2_SOURCES"

    def make_block(
        self, shape: Block, drop_path_rate: float, *, rngs: nnx.Rngs
    ) -> InvertedResidual:
        """Returns a new block."""
        return InvertedResidual(
            shape.in_channels,
            shape.expanded_channels,
            shape.out_channels,
            kernel_size=shape.kernel_size,
            stride=shape.stride,
            activation=ACTIVATIONS[shape.activation],
            drop_path_rate=drop_path_rate,
            rngs=rngs,
            **self.config.conv_options(),
        )


def _spec(
    name: str,
    width: float,
    num_params: int,
    *,
    same: bool = False,
    image_size: int = 224,
    preprocess: Preprocess,
    torchvision: str | None = None,
    timm: str | None = None,
    hf: str | None = None,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="mobilenet_v2",
        build=MobileNetV2,
        config=MobileNetV2Config(
            width=width, padding="same" if same else "symmetric", norm_eps=1e-3 if same else 1e-5
        ),
        image_size=image_size,
        preprocess=preprocess,
        num_params=num_params,
        source="Sandler et al. 2018, tables 2 and 4",
        torchvision=torchvision,
        timm=timm,
        hf=hf,
        # Its momentum is TensorFlow's, taken for torch's.
        hf_peer=HFPeer("MobileNetV2", hf_fields, {"norm_momentum": 0.997}) if hf else None,
    )


def _timm(name: str, width: float, num_params: int) -> ModelSpec:
    return _spec(name, width, num_params, preprocess=Preprocess(interpolation="bicubic"), timm=name)


def _tf(name: str, width: float, image_size: int, num_params: int) -> ModelSpec:
    """Padding and epsilon as in TensorFlow; transformers has the weights, with 1001 classes."""
    return _spec(
        name,
        width,
        num_params,
        same=True,
        image_size=image_size,
        preprocess=Preprocess(HALF, HALF),
        hf=f"google/mobilenet_v2_{width}_{image_size}",
    )


SPECS = (
    _spec(
        "mobilenet_v2",
        1.0,
        3_504_872,
        preprocess=Preprocess(),
        torchvision="mobilenet_v2",
        timm="mobilenetv2_100",
    ),
    _timm("mobilenetv2_035", 0.35, 1_677_128),
    _timm("mobilenetv2_050", 0.5, 1_968_680),
    _timm("mobilenetv2_075", 0.75, 2_636_424),
    _timm("mobilenetv2_140", 1.4, 6_108_776),
    _tf("tf_mobilenetv2_035", 0.35, 96, 1_677_128),
    _tf("tf_mobilenetv2_075", 0.75, 160, 2_636_424),
    _tf("tf_mobilenetv2_100", 1.0, 224, 3_504_872),
    _tf("tf_mobilenetv2_140", 1.4, 224, 6_108_776),
)
