"""The choices that all families with attention have."""

import dataclasses

from jaxvision.layers.attention import check_implementation
from jaxvision.layers.block_stack import Remat, Scan
from jaxvision.models.spec import check_rates


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Choices about blocks with attention, and how they are run.

    Attributes:
      in_channels: Number of channels of the image.
      num_classes: Number of outputs of the head; 0: no head, the call returns what the head would
        read.
      dropout_rate: Dropout rate after positions that are added to tokens, after the projection of
        attention, and after both layers of the MLP.
      attention_dropout_rate: Dropout rate of attention weights.
      drop_path_rate: Drop-path rate of the last block's branches; rises linearly from 0 over all
        blocks.
      norm_eps: Epsilon of the LayerNorms.
      attention: Implementation of the attention: "auto", "fused", "cudnn" or "reference"; see
        `dot_product_attention`.
      remat: Whether each block is computed again in the backward pass instead of keeping its
        activations; "offload": and what goes into each is kept in the memory of the host.
      scan: Whether the blocks (of a stage) are kept stacked and run by `jax.lax.scan`; False: a
        list and a loop; "auto": where it is faster, see `build_blocks`.
      dtype: Compute dtype; parameters and logits are float32 (float64 if this is).
    """

    in_channels: int = 3
    num_classes: int = 1000
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_eps: float = 1e-6
    attention: str = "auto"
    remat: Remat = False
    scan: Scan = "auto"
    dtype: str = "float32"

    def __post_init__(self):
        check_implementation(self.attention)
        check_rates(self)

    @property
    def block_rates(self) -> tuple[float, float, float]:
        """The rates at which blocks drop something."""
        return self.dropout_rate, self.attention_dropout_rate, self.drop_path_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedConfig(AttentionConfig):
    """The same of a model that is made for a size of image; see `AttentionConfig`.

    Attributes:
      image_size: Image size in pixels that positions or windows are made for: side, or (height,
        width).
    """

    image_size: int | tuple[int, int] = 224

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size
