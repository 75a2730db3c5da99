"""A family of a user's own: all that jaxvision asks of a model, and no line inside the package.

python launch.py --config=configs/smoke.py --config.model.name=tiny_mixer:spec
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.interop.adapt import Source
from jaxvision.interop.rules import Rule, conv, linear
from jaxvision.models.image_model import ImageModel, LayerGroups
from jaxvision.models.spec import ModelSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyMixerConfig:
    """Every choice; three of the fields are asked of any family."""

    width: int = 8
    depth: int = 2
    in_channels: int = 3
    num_classes: int = 1000
    dtype: str = "float32"


class TinyMixer(ImageModel):
    """Patches of 8 x 8 pixels, and linear maps of each."""

    # Optional, each of the three: what is not said is as usual.
    layer_groups = LayerGroups(stem="patches/", blocks=r"mixers/(\d+)/")  # for layer decay
    not_decayed = frozenset({"temperature"})  # by weight decay
    weight_sources = {  # of files that another program wrote: its names, and ours
        "lab": Source(
            rules=lambda config: (
                *conv("embed", "patches"),
                *linear("layer{i}", "mixers/{i}"),
                Rule("tau", "temperature"),
                *linear("classifier", "head"),
            )
        )
    }

    def __init__(self, config: TinyMixerConfig, *, rngs: nnx.Rngs):
        self.config, width = config, config.width
        self.patches = nnx.Conv(config.in_channels, width, (8, 8), strides=8, rngs=rngs)
        self.mixers = nnx.List(nnx.Linear(width, width, rngs=rngs) for _ in range(config.depth))
        self.temperature = nnx.Param(jnp.ones(()))
        self.head = self.new_head(width, jax.nn.initializers.lecun_normal(), rngs)

    def trunk(self, images, *, train=False, rngs=None):
        """Returns the features that the head reads the mean of, and all maps by their stride."""
        features = self.patches(images)
        for mixer in self.mixers:
            features = features + nnx.gelu(mixer(features) / self.temperature)
        return features, {8: features}


spec = ModelSpec(name="tiny_mixer", build=TinyMixer, config=TinyMixerConfig())
