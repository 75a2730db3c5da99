"""The choices of a Vision Transformer."""

import dataclasses
from typing import ClassVar

from jaxvision.errors import check_choice
from jaxvision.layers.activation import GELUS
from jaxvision.layers.patch import check_divisible
from jaxvision.models.attention_config import SizedConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(SizedConfig):
    """Every choice of a Vision Transformer.

    Attributes:
      width: Number of channels of a token.
      depth: Number of blocks.
      num_heads: Number of attention heads.
      patch_size: Side of a patch in pixels.
      mlp_ratio: Ratio of the hidden channels of the MLP to the width.
      gated_mlp: Whether the MLP is gated, a SwiGLU; its hidden channels are those behind the gate.
      activation: Name of the activation of the MLPs: "gelu", "quick_gelu" (CLIP) or "gelu_tanh"
        (SigLIP).
      pre_norm: Whether the tokens are normalised before the first block, whose patches have no bias
        then, as in CLIP.
      pool: Kind of pooling: "token" (the class token after the final norm), "average" (the mean of
        the patches, timm's `global_pool="avg"`) or "attention" (a learned query that attends to the
        patches, timm's "map").
      fc_norm: Whether the final norm of pool="average" stands behind the mean, as usual in timm;
        False: before it.
      pooler: Whether what was pooled goes through one more layer and tanh: the pooler of a ViTModel
        in transformers, the `pre_logits` of Google's files and of torchvision.
      class_token: Whether there is a class token; "average" can do without.
      class_token_position: Whether the class token has a row in the table of learned positions.
      num_registers: Number of registers, learned tokens that stand between the class token and the
        patches, have no positions and are read by nobody; they need class_token_position=False.
      position: Kind of positions: "learned" or "sincos2d" (fixed).
      stem: Kind of stem: "patch" (one linear map) or "conv" (3x3 convolutions of stride 2, for
        small runs).
      layer_scale_init: Starting value of LayerScale; None: no LayerScale.
      local_window: Side of the neighbourhood in patches, odd, that a patch may attend to; None:
        all.
      zero_init_head: Whether the head's kernel starts at 0, so that the logits do.
      head_dropout_rate: Dropout rate before the head, timm's `drop_rate`.
      head_hidden: Number of units of a hidden layer with ReLU in the head; 0: a linear head.
      head_hidden_dropout_rate: Dropout rate after the hidden layer.
    """

    width: int
    depth: int
    num_heads: int
    patch_size: int
    mlp_ratio: float = 4.0
    gated_mlp: bool = False
    activation: str = "gelu"
    pre_norm: bool = False
    pool: str = "token"
    fc_norm: bool = True
    pooler: bool = False
    class_token: bool = True
    class_token_position: bool = True
    num_registers: int = 0
    position: str = "learned"
    stem: str = "patch"
    layer_scale_init: float | None = None
    local_window: int | None = None
    zero_init_head: bool = False
    head_dropout_rate: float = 0.0
    head_hidden: int = 0
    head_hidden_dropout_rate: float = 0.0

    STEMS: ClassVar[tuple[str, ...]] = ("patch", "conv")

    def __post_init__(self):
        super().__post_init__()
        check_choice("activation", self.activation, tuple(GELUS))
        check_choice("pool", self.pool, ("token", "average", "attention"))
        check_choice("position", self.position, ("learned", "sincos2d"))
        check_choice("stem", self.stem, self.STEMS)
        if self.pool == "token" and not self.class_token:
            raise ValueError("pool='token' needs class_token=True; without one use pool='average'.")
        if self.num_registers and self.num_prefix_positions:
            raise ValueError(
                "num_registers needs class_token_position=False: the table of positions is that of "
                "the patches alone."
            )
        check_divisible(*self.image_shape, self.patch_size)

    @property
    def norm_first(self) -> bool:
        """Whether the final norm stands before the pooling."""
        return self.pool != "average" or not self.fc_norm

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches."""
        return int(self.class_token) + self.num_registers

    @property
    def num_prefix_positions(self) -> int:
        """Rows of the table of learned positions before those of the patches."""
        tokens = self.num_prefix_tokens - self.num_registers
        return tokens if self.class_token_position else 0
