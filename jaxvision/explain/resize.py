import jax
from jaxtyping import Array, Float


def to_image_size(
    maps: Float[Array, "*batch rows columns"], size: tuple[int, int]
) -> Float[Array, "*batch height width"]:
    """Returns maps in the size of an image, bilinearly, and then scaled to 0..1.

    Args:
      maps: Maps of any range; one that is the same everywhere becomes 0.
      size: Height and width in pixels.
    """
    shape = (*maps.shape[:-2], *size)
    maps = jax.image.resize(maps, shape, "bilinear", antialias=False)
    maps = maps - maps.min(axis=(-2, -1), keepdims=True)
    return maps / (1e-7 + maps.max(axis=(-2, -1), keepdims=True))
