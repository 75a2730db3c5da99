"""A pair of encoders against CLIPModel and SiglipModel of transformers, the same random weights."""

import copy
import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.metrics.image_text import LOSSES
from jaxvision.models.image_text import ImageTextConfig
from jaxvision.models.registry import get_spec
from jaxvision.parity.pair import (
    Detail,
    Pair,
    arrays,
    distance,
    each,
    make_pair,
    split,
    to_torch,
    trained_detail,
)

_FAMILIES = {"softmax": ("CLIP", "quick_gelu"), "sigmoid": ("Siglip", "gelu_pytorch_tanh")}


def build_image_text_pair(name: str, library: str = "hf", *, dtype: str, **options: Any) -> Pair:
    """Returns the model of transformers and ours with the same random weights.

    Args:
      name: Name of our model.
      library: Library of the peer: "hf" alone.
      dtype: Dtype of both models, "float64" or "float32".
      **options: Fields of our config that differ from those of the name.

    Raises:
      InputError: if the library has no such model.
    """
    spec = get_spec(name, task="image_text")
    if library not in spec.peers:
        known = ", ".join(spec.peers) or "no library"
        raise InputError(f"{name} has a peer in {known}, not in {library!r}: --against={known}.")
    config = dataclasses.replace(spec.config, **options)
    options = {"vocab_size": config.vocab_size} | options
    return make_pair(hf_model(config), name, source="hf", dtype=dtype, **options)


def hf_model(config: ImageTextConfig) -> torch.nn.Module:
    """Returns a new model of transformers.

    Args:
      config: Config of ours, with an image encoder of Vision Transformers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers  # seconds, which other commands need not wait

    image: Any = dataclasses.replace(
        get_spec(str(config.encoder)).config, **dict(config.encoder_options)
    )
    family, activation = _FAMILIES[config.loss]
    vision = {
        "hidden_size": image.width,
        "intermediate_size": int(image.width * image.mlp_ratio),
        "num_hidden_layers": image.depth,
        "num_attention_heads": image.num_heads,
        "image_size": config.image_size or image.image_size,
        "patch_size": image.patch_size,
        "hidden_act": activation,
        "layer_norm_eps": image.norm_eps,
    }
    text = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.max_length,
        "hidden_act": activation,
        "layer_norm_eps": config.norm_eps,
        "eos_token_id": config.end_token,
    }
    shared = {}
    if family == "CLIP":
        shared = {"projection_dim": config.embed_width}
    else:
        text["projection_size"] = config.embed_width
    make_config = getattr(transformers, f"{family}Config")
    return getattr(transformers, f"{family}Model")(
        make_config(text_config=text, vision_config=vision, **shared)
    )


def batch(pair: Pair, *, size: int = 4, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images and tokens, each text with its end and padding behind it.

    Args:
      pair: Pair of the models.
      size: Number of images and texts.
      seed: Seed of the numbers.
    """
    model: Any = pair.model
    config, rng = model.config, np.random.default_rng(seed)
    height, width = model.encoder.config.image_shape
    images = rng.standard_normal((size, height, width, 3)).astype(pair.dtype)
    words = [n for n in range(config.vocab_size) if n != config.end_token]
    tokens = rng.choice(words, (size, config.max_length))
    for row, end in zip(tokens, rng.integers(1, config.max_length, size), strict=True):
        row[end:] = config.end_token
    return images, tokens.astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def jax_gradients(graphdef: Any, params: Any, images: jax.Array, tokens: jax.Array) -> Any:
    """Returns ((loss, logits), (gradients of params, of images))."""

    def loss(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, params, {}, copy=True)
        logits = model(images, tokens, train=True)
        valid = jnp.ones(len(logits), bool)
        return LOSSES[model.config.loss](logits, valid), logits

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, images)


def torch_gradients(peer: torch.nn.Module, images: np.ndarray, tokens: np.ndarray) -> Any:
    """Returns (loss, logits, gradient of the images); those of the parameters are in `peer`."""
    pixels = to_torch(images, str(images.dtype)).requires_grad_()
    peer.zero_grad()
    output = peer(
        input_ids=torch.from_numpy(tokens.astype(np.int64)), pixel_values=pixels, return_loss=True
    )
    output.loss.backward()
    assert pixels.grad is not None
    logits = output.logits_per_image.detach().numpy()
    return output.loss.detach().numpy(), logits, pixels.grad.numpy().transpose(0, 2, 3, 1)


def gradient_detail(pair: Pair, images: np.ndarray, tokens: np.ndarray) -> Detail:
    """Returns the distances of the logits, of the loss, and of every gradient."""
    peer = copy.deepcopy(pair.peer)
    loss, logits, image_gradient = torch_gradients(peer, images, tokens)
    graphdef, params, _ = split(pair.model)
    (our_loss, our_logits), (grads, our_image_gradient) = jax_gradients(
        graphdef, params, jnp.asarray(images), jnp.asarray(tokens)
    )
    theirs = arrays((name, value.grad) for name, value in peer.named_parameters())
    return {
        "evaluation logits": {"logits": distance(our_logits, logits)},
        "training logits": {"loss": distance(our_loss, loss)},
        "image gradient": {"images": distance(our_image_gradient, image_gradient)},
        "parameter gradients": each(pair.export(grads, {}), theirs),
    }


def training_detail(pair: Pair, images: np.ndarray, tokens: np.ndarray, **how: Any) -> Detail:
    """Returns the distances of every parameter after steps of training, see `trained_detail`."""

    def ours(graphdef: Any, params: Any, stats: Any) -> tuple[Any, Any]:
        _, (grads, _) = jax_gradients(graphdef, params, jnp.asarray(images), jnp.asarray(tokens))
        return grads, stats

    return trained_detail(pair, lambda peer: torch_gradients(peer, images, tokens), ours, **how)
