"""What every image model is: a trunk, and a head that reads what the trunk returns."""

import jax
from flax import nnx
from jaxtyping import Array, Float

# The path of what a student has while it learns from a teacher's features, and leaves behind in
# what it exports.
PROJECTION = "distill_projection"


class ImageModel(nnx.Module):
    """The call that all families share; each has its own trunk and head."""

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch outputs"]:
        """Returns the logits, or what the head would read if the model has none.

        Args:
          images: normalised, of a size that `features` takes.
          train: uses and moves batch statistics, and turns every kind of dropping on.
          rngs: needed only if `train` and some rate is > 0.

        Raises:
          ValueError: if the images do not fit, or randomness is needed and `rngs` is None.
        """
        features = self.features(images, train=train, rngs=rngs)
        return self.classify(features, train=train, rngs=rngs)

    def features(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Returns what stands before the pooling and the head."""
        return self.trunk(images, train=train, rngs=rngs)[0]

    def trunk(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Returns what `features` and what `pyramid` return, of one pass.

        The features are the coarsest map here; a family whose features are others says so.
        """
        maps = self.pyramid(images, train=train, rngs=rngs)
        return list(maps.values())[-1], maps

    def pyramid(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> dict[int, jax.Array]:
        """Returns the maps of all stages by their stride in pixels, the finest first."""
        raise NotImplementedError

    def classify(
        self, features: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Returns the logits, or what the head would read, of what `features` returned."""
        raise NotImplementedError
