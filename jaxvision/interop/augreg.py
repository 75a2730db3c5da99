"""Names in the .npz files of Google's vision_transformer: those of the paper, of AugReg and others.

The code that wrote them computes GELU by tanh. timm loads them into models with the exact GELU, and
so do we.
"""

from jaxvision.interop.rules import SAME, Rule, Transform, Weights
from jaxvision.models.vit import ViTConfig

# The layer between class token and head that some models trained on ImageNet-21k have. timm left it
# out; here a model without `pooler` leaves it out only with its head, which would say something
# else without it.
PRE_LOGITS = ("pre_logits/kernel", "pre_logits/bias")

_LAYER, _OURS = "Transformer/encoderblock_{i}", "blocks/{i}"


def rules(config: ViTConfig, patches: str = "patch_embed") -> tuple[Rule, ...]:
    """Returns the table; its aliases are the names of big_vision, the later code.

    Args:
      config: Config of the model: attention has an axis for the heads in these files.
      patches: Our path of the linear map from patches to tokens.
    """
    positions = Rule(
        "Transformer/posembed_input/pos_embedding", "pos_embed", aliases=("pos_embedding",)
    )
    return (
        Rule("cls", "cls_token"),
        positions,
        *_parts("embedding", patches),
        *_parts(f"{_LAYER}/LayerNorm_0", f"{_OURS}/norm1", kind="scale"),
        *_attention(config.num_heads),
        *_parts(
            f"{_LAYER}/LayerNorm_2",
            f"{_OURS}/norm2",
            kind="scale",
            alias=f"{_LAYER}/LayerNorm_1",
        ),
        *_mlp(0, "fc1"),
        *_mlp(1, "fc2"),
        *_parts("Transformer/encoder_norm", "norm", kind="scale"),
        *(_parts("pre_logits", "pooler") if config.pooler else ()),
        *_parts("head", "head"),
    )


def without_empty_axes(weights: Weights, config: object = None) -> Weights:
    """Returns the weights as later files have them: norms without axes of size 1.

    Args:
      weights: Arrays by name in the file.
      config: Config of the model; not used.
    """
    del config
    return {
        name: array.reshape(-1) if array.ndim == 4 and array.shape[:3] == (1, 1, 1) else array
        for name, array in weights.items()
    }


def _parts(
    theirs: str, ours: str, *, kind: str = "kernel", alias: str | None = None
) -> tuple[Rule, ...]:
    """Returns the rules of a layer and its bias, which have our layout."""
    return tuple(
        Rule(
            f"{theirs}/{part}",
            f"{ours}/{part}",
            aliases=() if alias is None else (f"{alias}/{part}",),
        )
        for part in (kind, "bias")
    )


def _mlp(layer: int, ours: str) -> tuple[Rule, ...]:
    theirs, alias = f"{_LAYER}/MlpBlock_3/Dense_{layer}", f"{_LAYER}/MlpBlock_0/Dense_{layer}"
    return _parts(theirs, f"{_OURS}/mlp/{ours}", alias=alias)


def _attention(heads: int) -> tuple[Rule, ...]:
    into = Transform(
        lambda kernel: kernel.reshape(len(kernel), -1),  # (width, heads, head_dim)
        lambda kernel: kernel.reshape(len(kernel), heads, -1),
    )
    into_bias = Transform(lambda bias: bias.reshape(-1), lambda bias: bias.reshape(heads, -1))
    out = Transform(
        lambda kernel: kernel.reshape(-1, kernel.shape[-1]),  # (heads, head_dim, width)
        lambda kernel: kernel.reshape(heads, -1, kernel.shape[-1]),
    )
    found = []
    for name in ("query", "key", "value", "out"):
        kernel, bias = (out, SAME) if name == "out" else (into, into_bias)
        theirs, alias = (f"{_LAYER}/MultiHeadDotProductAttention_{n}/{name}" for n in (1, 0))
        ours = f"{_OURS}/attn/{name}"
        found += [
            Rule(f"{theirs}/kernel", f"{ours}/kernel", kernel, (f"{alias}/kernel",)),
            Rule(f"{theirs}/bias", f"{ours}/bias", bias, (f"{alias}/bias",)),
        ]
    return tuple(found)
