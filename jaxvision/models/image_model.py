"""What every image model is: a trunk, and a head that reads what the trunk returns."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxvision.errors import InputError
from jaxvision.layers.adapter import ADAPTER
from jaxvision.layers.dropout import dropout
from jaxvision.layers.head import linear_head
from jaxvision.layers.pool import global_pool
from jaxvision.models.spec import Model, param_dtype

# The path of what a student has while it learns from a teacher's features, and leaves behind in
# what it exports.
PROJECTION = "distill_projection"
# The same of what a model has only while it learns without labels, see `tasks.momentum_contrast`.
PRETRAINING = "pretraining"
TRAINING_ONLY = (PROJECTION, PRETRAINING)


def remove_training_parts(model: nnx.Module) -> None:
    """Makes a model of a run the plain one that others know: without `TRAINING_ONLY` and adapters.

    Args:
      model: Model, also of shapes, changed in place.
    """
    for name in TRAINING_ONLY:
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
    for _, module in list(nnx.iter_modules(model)):
        if getattr(module, ADAPTER, None) is not None:
            setattr(module, ADAPTER, None)


@dataclasses.dataclass(frozen=True)
class LayerGroups:
    """Which parameters stand where between image and head, for transfer recipes.

    Regexes of parameter paths with one name for each block, such as `blocks/11/mlp/fc1/bias`; they
    are matched from the first letter on. A family that names its parts as the others do needs none.

    Attributes:
      stem: Regex of the parameters before the first block.
      blocks: Regex of a block's parameters; its groups are the numbers of stage and block, or of
        one of them. Each match with other numbers is a layer of its own.
      behind: Regex of the parameters behind the last block that are a layer of their own; the
        others count to the last block.
      with_head: Regex of the parameters behind the last block that count to the head.
    """

    stem: str = r"(stem|stem_norm|\w+_token|(stages/0/)?(patch_embed|patch_norm|pos_embed))(/|$)"
    blocks: str = r"(?:stages/(\d+)/(?:blocks/)?(\d+)|blocks/(\d+))/"
    behind: str | None = None
    with_head: str | None = None


def chosen_blocks(blocks: int | Sequence[int] | None, count: int) -> list[int]:
    """Returns the indices from 0 on, in the order in which they were asked for.

    Args:
      blocks: Indices, number of the last ones, or None for all; see `ImageModel.intermediates`.
      count: Number of blocks that there are.

    Raises:
      InputError: if there is no such block.
    """
    if blocks is None:
        return list(range(count))
    if isinstance(blocks, int) and blocks < 1:
        raise InputError(
            f"A number of blocks counts the last ones, from 1 on, got {blocks}: a single one is "
            f"({blocks},)."
        )
    wanted = range(-blocks, 0) if isinstance(blocks, int) else blocks
    for index in wanted:
        if not -count <= index < count:
            raise InputError(
                f"The model has {count} blocks or stages, 0 to {count - 1} or -{count} to -1, got"
                f" {index}."
            )
    return [index % count for index in wanted]


class ImageModel(Model):
    """The calls that all families share; a family has a trunk, and rarely a way to pool of its own.

    Attributes:
      head: Classifier, a linear map; None: the model returns what it would read.
      head_hidden: Hidden layer of the classifier, in families with `config.head_hidden`; None: the
        classifier is linear.
      layer_groups: Places of the family's parameters between image and head.
      head_dropout: Field of the config that is the dropout rate before the head; None: no dropout.
      stage_tap: Name of the values that explanations look at, one for each stage: "map", or
        "tokens" where a class token is read; see `jaxvision.layers.tap`.
    """

    head: nnx.Linear | None
    head_hidden: nnx.Linear | None = None
    layer_groups: ClassVar[LayerGroups] = LayerGroups()
    head_dropout: ClassVar[str | None] = None
    stage_tap: ClassVar[str] = "map"

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch outputs"]:
        """Returns the logits, or what the head would read if the model has none.

        Args:
          images: Normalised images of a size that `trunk` takes.
          train: Whether batch statistics are used and updated, and every kind of dropping is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.

        Raises:
          ValueError: if the images do not fit, or randomness is needed and `rngs` is None.
        """
        features = self.features(images, train=train, rngs=rngs)
        return self.classify(features, train=train, rngs=rngs)

    def features(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Returns what stands before the pooling and the head; the arguments are those of a call.

        The coarsest map [batch, rows, columns, channels], or tokens [batch, tokens, channels].
        """
        return self.trunk(images, train=train, rngs=rngs)[0]

    def pyramid(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> dict[int, jax.Array]:
        """Returns the maps [batch, rows, columns, channels] by their stride in pixels.

        The finest map comes first. The arguments are those of a call.
        """
        return self.trunk(images, train=train, rngs=rngs)[1]

    def intermediates(
        self,
        images: Float[Array, "batch height width channels"],
        blocks: int | Sequence[int] | None = None,
        *,
        normalize: bool = False,
    ) -> list[Float[Array, "batch rows columns features"]]:
        """Returns maps of the middle of the model: timm's `forward_intermediates`, channels last.

        Those of a Vision Transformer are what its blocks return, on the grid of the patches; of the
        other families, what their stages return, which are the maps of `pyramid`.

        Args:
          images: Normalised images of a size that `trunk` takes.
          blocks: Indices of the blocks or stages, negative ones from the end, in any order; a
            number: so many, the last ones; None: all.
          normalize: Whether each map goes through the final norm of a Vision Transformer.

        Raises:
          InputError: if there is no such block, or no final norm.
        """
        if normalize:
            raise InputError(
                f"normalize=True is for a final norm that all blocks share, and a"
                f" {type(self).__name__} has none: normalize=False."
            )
        maps = list(self.pyramid(images).values())
        return [maps[index] for index in chosen_blocks(blocks, len(maps))]

    def trunk(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Returns what `features` and what `pyramid` return, of one pass; every family has its own.

        The arguments are those of a call.
        """
        raise NotImplementedError

    def new_head(
        self, width: int, kernel_init: jax.nn.initializers.Initializer, rngs: nnx.Rngs
    ) -> nnx.Linear | None:
        """Returns a classifier for `config.num_classes`, or None for 0; sets its hidden layer.

        Args:
          width: Number of channels of what the head reads.
          kernel_init: Initialiser of the kernel; the bias starts at 0.
          rngs: Source of the initial values.
        """
        config, dtype = self.config, param_dtype(self.config.dtype)
        hidden = getattr(config, "head_hidden", 0) if config.num_classes else 0
        if hidden:
            init = jax.nn.initializers.he_normal()
            self.head_hidden = linear_head(
                width, hidden, kernel_init=init, param_dtype=dtype, rngs=rngs
            )
        return linear_head(
            hidden or width,
            config.num_classes,
            kernel_init=kernel_init,
            param_dtype=dtype,
            rngs=rngs,
        )

    def pool(self, features: jax.Array) -> Float[Array, "batch channels"]:
        """Returns what the head reads of the features: here the mean of a map."""
        return global_pool(features)

    def classify(
        self, features: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch outputs"]:
        """Returns the logits, or what the head would read, of what `features` returned.

        Args:
          features: Features of this model.
          train: Whether the dropout before the head, and in it, is on.
          rngs: Source of randomness; needed only if `train` and some rate is > 0.
        """
        pooled = self.pool(features).astype(param_dtype(self.config.dtype))
        if self.head_dropout is not None:
            rate = getattr(self.config, self.head_dropout)
            pooled = dropout(pooled, rate, train=train, rngs=rngs)
        if self.head_hidden is not None:
            rate = self.config.head_hidden_dropout_rate
            pooled = dropout(nnx.relu(self.head_hidden(pooled)), rate, train=train, rngs=rngs)
        return pooled if self.head is None else self.head(pooled)
