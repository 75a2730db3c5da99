"""The optimizer: gradient clipping, weight decay by parameter name, and the update rule."""

import itertools
from typing import Any

import jax
import optax

from jaxvision.errors import InputError, check_choice
from jaxvision.train.sharding import path_name

OPTIMIZERS = ("adamw", "sgd", "lamb", "lion")

# The last name of a parameter's path says whether weight decay pulls it to zero. The number of
# dimensions would not do: the blocks of a transformer may be stacked, and then a bias has two.
DECAYED = frozenset({"kernel", "embedding"})
NOT_DECAYED = frozenset(
    {
        "bias",
        "scale",  # of norms
        "gamma",  # of LayerScale
        "cls_token",
        "dist_token",
        "pos_embed",
        "table",  # of relative positions
        "logit_scale",  # of cosine attention
    }
)
# Whatever the parameters of these modules are called.
NOT_DECAYED_MODULES = frozenset({"position_bias"})


def make_optimizer(
    params: Any,
    *,
    name: str,
    schedule: optax.Schedule,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Returns the gradient transformation of a run.

    First the gradient is clipped by its global norm, then the rule and the weight decay follow.
    Each rule keeps the conventions of its PyTorch peer, so that published recipes keep their
    numbers.

    Args:
      params: nested dict of arrays or of `jax.ShapeDtypeStruct`; only its names are read.
      name: `adamw` (torch.optim.AdamW), `sgd` (torch.optim.SGD), `lamb` (timm's Lamb) or `lion`
        (timm's Lion).
      schedule: from the number of updates to the learning rate, see `make_schedule`.
      weight_decay: decoupled and scaled by the learning rate for adamw and lion; added to the
        gradient before the momentum for sgd (L2); part of the rescaled update for lamb. 0: off.
      momentum: of sgd; 0 keeps no momentum buffer.
      nesterov: of sgd.
      b1: decay of the first moment, in adamw, lamb and lion.
      b2: decay of the second moment, in adamw and lamb; of the momentum in lion.
      eps: added to the root of the second moment, in adamw and lamb.
      clip_norm: greatest global norm of the gradient; 0: off.

    Raises:
      InputError: if the name is unknown, a number is out of range, or a parameter's name is in
        neither DECAYED nor NOT_DECAYED.

    Note:
      torch's clip_grad_norm_ divides by norm + 1e-6, optax by the norm. lamb rescales the update of
      each decayed array; of stacked blocks, that of each block, so that stacking changes nothing.

    Source: Loshchilov and Hutter 2019 (AdamW); You et al. 2020 (LAMB); Chen et al. 2023 (Lion).
    """
    check_choice("optimizer.name", name, OPTIMIZERS)
    for option, value in (("weight_decay", weight_decay), ("clip_norm", clip_norm)):
        if value < 0:
            raise InputError(f"optimizer.{option} must be 0 (off) or positive, got {value}.")
    for option, value in (("momentum", momentum), ("b1", b1), ("b2", b2)):
        if not 0 <= value < 1:
            raise InputError(f"optimizer.{option} must be in [0, 1), got {value}.")

    mask = decay_mask(params)
    decay = optax.add_decayed_weights(weight_decay, mask)
    if name == "adamw":
        rule = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)
    elif name == "lion":
        rule = optax.lion(schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=mask)
    elif name == "sgd":
        rule = optax.chain(decay, optax.sgd(schedule, momentum=momentum or None, nesterov=nesterov))
    else:
        # optax.lamb also rescales biases and norms, which the authors' and timm's code leave alone.
        rule = optax.chain(
            optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
            decay,
            optax.masked(_scale_by_trust_ratio(), mask),
            optax.scale_by_learning_rate(schedule),
        )
    return optax.chain(optax.clip_by_global_norm(clip_norm), rule) if clip_norm else rule


def decay_mask(params: Any) -> Any:
    """Returns True for each parameter that weight decay applies to, in the structure of `params`.

    Raises:
      InputError: naming every parameter whose last name is in neither DECAYED nor NOT_DECAYED.
    """
    names = jax.tree_util.tree_map_with_path(
        lambda path, _: path_name(path).rsplit("/", 1)[-1], params
    )
    unknown = sorted(set(jax.tree.leaves(names)) - DECAYED - NOT_DECAYED)
    if unknown:
        paths = [
            path_name(path)
            for path, name in jax.tree_util.tree_leaves_with_path(names)
            if name in unknown
        ]
        raise InputError(
            f"Weight decay is not decided for {', '.join(paths)}; add {', '.join(unknown)} to "
            "DECAYED or NOT_DECAYED in jaxvision/train/optimizer.py."
        )

    def decays(path: tuple, name: str) -> bool:
        return name in DECAYED and not NOT_DECAYED_MODULES & set(path_name(path).split("/"))

    return jax.tree_util.tree_map_with_path(decays, names)


def _scale_by_trust_ratio() -> optax.GradientTransformation:
    """Returns LAMB's rescaling, with one ratio for each block of an array that stacks blocks."""
    ratio = optax.scale_by_trust_ratio()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def rescale(path: tuple, update: jax.Array, param: jax.Array) -> Any:
            def one(update, param):
                return ratio.update(update, state, param)[0]

            # `blocks/0/...` is a block of its own, `blocks/attn/...` all of them, see
            # block_stack.py.
            names = itertools.pairwise(path_name(path).split("/"))
            stacked = any(name == "blocks" and not after.isdigit() for name, after in names)
            return (jax.vmap(one) if stacked else one)(update, param)

        return jax.tree_util.tree_map_with_path(rescale, updates, params), state

    return optax.GradientTransformation(ratio.init, update)
