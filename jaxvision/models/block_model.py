"""An image model whose trunk is a row of encoder blocks over the tokens of a grid of patches."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxvision.errors import InputError
from jaxvision.layers.tap import capture
from jaxvision.models.image_model import ImageModel, chosen_blocks


class BlockModel(ImageModel):
    """The calls that look at single blocks.

    Attributes:
      config: Config of the model, with `patch_size`, `num_prefix_tokens` and `norm_first`.
      norm: Final norm.
    """

    config: Any
    norm: nnx.LayerNorm

    def intermediates(
        self,
        images: Float[Array, "batch height width channels"],
        blocks: int | Sequence[int] | None = None,
        *,
        normalize: bool = False,
    ) -> list[Float[Array, "batch rows columns features"]]:
        """Returns what blocks return, on the grid of the patches; see `ImageModel.intermediates`.

        Raises:
          InputError: if there is no such block, or the final norm stands behind the pooling.
        """
        tokens = self.intermediate_tokens(images, blocks, normalize=normalize)
        size, prefix = self.config.patch_size, self.config.num_prefix_tokens
        grid = images.shape[1] // size, images.shape[2] // size
        return [each[:, prefix:].reshape(len(images), *grid, -1) for each in tokens]

    def intermediate_tokens(
        self,
        images: Float[Array, "batch height width channels"],
        blocks: int | Sequence[int] | None = None,
        *,
        normalize: bool = False,
    ) -> list[Float[Array, "batch tokens features"]]:
        """Returns the same with the tokens before the patches, such as the class token.

        Raises:
          InputError: if there is no such block, or the final norm stands behind the pooling.
        """
        if normalize and not self.config.norm_first:
            raise InputError(
                "normalize=True needs the final norm before the pooling, and this model has it"
                " behind (fc_norm): normalize=False."
            )
        (features, _), found = capture(lambda: self.trunk(images), "block")
        tokens = [found[index].value for index in chosen_blocks(blocks, len(found))]
        tokens = [each[:, : features.shape[1]] for each in tokens]  # what follows is padding
        return [self.norm(each) for each in tokens] if normalize else tokens
