"""Mixup and cutmix of a whole batch, on the device and inside the jitted step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def mix(
    key: PRNGKeyArray,
    images: Float[Array, "batch height width channels"],
    labels: Int[Array, " batch"] | Int[Array, "batch classes"],
    *,
    num_classes: int,
    mixup_alpha: float | Float[Array, ""],
    cutmix_alpha: float | Float[Array, ""],
    mix_probability: float | Float[Array, ""],
    cutmix_probability: float | Float[Array, ""],
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch classes"]]:
    """Blends every image with another of its batch, and their labels in the same proportion.

    One proportion and one box serve the batch, as in timm's batch mode. An image's partner is
    the one before it: the batch is shuffled, so a neighbour is as random as any other. It works for
    odd batches and does not depend on the number of devices. A batch split over devices sends only
    one image from each to the next, where a permutation would gather the whole batch on all.

    Args:
      key: Key of this batch.
      images: Normalised images.
      labels: Class indices of the images; or a label for each class, 1 there, 0 not, -1 unknown.
      num_classes: Number of classes, the width of the soft labels.
      mixup_alpha: Parameter of the Beta(alpha, alpha) that the share of an image is drawn from in
        mixup; 0: no mixup.
      cutmix_alpha: Parameter of the Beta(alpha, alpha) that the share of an image is drawn from in
        cutmix; 0: no cutmix.
      mix_probability: Probability that a batch is mixed at all.
      cutmix_probability: Probability that a mixed batch gets cutmix, where both are on.

    Returns:
      The images, in their dtype, and labels that sum to 1, in at least float32. A batch that is not
      mixed comes back unchanged, with one-hot labels. Of a label for each class it is the mean, -1
      where that of either image is unknown.

    Note:
      Cutmix rounds its box to pixels and cuts it at the border; the labels follow the area that is
      left, not the drawn share.

    Source: Zhang et al. 2018, mixup; Yun et al. 2019, CutMix, eq. 1-2 and section 3.1.
    """
    height, width = images.shape[1:3]
    apply_key, switch_key, share_key, box_key = jax.random.split(key, 4)
    mixup_on, cutmix_on = jnp.asarray(mixup_alpha) > 0, jnp.asarray(cutmix_alpha) > 0

    # Alone, each of the two always takes its turn.
    switch_probability = jnp.where(mixup_on & cutmix_on, cutmix_probability, cutmix_on)
    use_cutmix = jax.random.uniform(switch_key) < switch_probability
    apply = (jax.random.uniform(apply_key) < mix_probability) & (mixup_on | cutmix_on)

    alpha = jnp.where(use_cutmix, cutmix_alpha, mixup_alpha).astype(jnp.float32)
    alpha = jnp.where(apply, alpha, 1.0)  # Beta(0, 0) is NaN
    share = jax.random.beta(share_key, alpha, alpha, dtype=jnp.float32)
    share = jnp.where(apply, share, 1.0)  # of the image itself
    share = share.astype(jnp.promote_types(images.dtype, jnp.float32))

    box = _box(box_key, share, height=height, width=width)
    box_share = 1.0 - jnp.sum(box) / (height * width)
    label_share = jnp.where(use_cutmix, box_share, share)
    # How much of each pixel is the image's own: the drawn share everywhere, or 0 inside the box.
    weight = jnp.where(use_cutmix, 1.0 - box, share)[None, :, :, None]

    # Weights of exactly 0 and 1 keep the pixels of cutmix and of unmixed batches bit for bit.
    mixed = weight * images + (1.0 - weight) * jnp.roll(images, 1, axis=0)
    if labels.ndim == 2:
        one_hot = jnp.maximum(labels, 0).astype(share.dtype)
    else:
        one_hot = jax.nn.one_hot(labels, num_classes, dtype=share.dtype)
    soft_labels = label_share * one_hot + (1.0 - label_share) * jnp.roll(one_hot, 1, axis=0)
    if labels.ndim == 2:
        mine, other = labels < 0, jnp.roll(labels < 0, 1, axis=0)
        unknown = (mine & (label_share > 0.0)) | (other & (label_share < 1.0))
        soft_labels = jnp.where(unknown, -1.0, soft_labels)
    return mixed.astype(images.dtype), soft_labels


def _box(
    key: PRNGKeyArray, share: Float[Array, ""], *, height: int, width: int
) -> Float[Array, "height width"]:
    """Returns 1 inside a box of about (1 - share) of the area, centred anywhere, else 0."""
    side = jnp.sqrt(1.0 - share)
    y_key, x_key = jax.random.split(key)

    def interval(key: PRNGKeyArray, size: int) -> jax.Array:
        length = jnp.floor(side * size).astype(jnp.int32)
        start = jax.random.randint(key, (), 0, size, jnp.int32) - length // 2
        position = jnp.arange(size)
        return (position >= start) & (position < start + length)  # the border cuts it

    inside = interval(y_key, height)[:, None] & interval(x_key, width)[None, :]
    return inside.astype(share.dtype)
