"""Vision models and a trainer in JAX and Flax NNX."""

__version__ = "0.1.0"
