"""Compiled programs that outlive their process."""

import os

import jax


def cache_compilation(folder: str = "~/.cache/jaxvision") -> None:
    """Keeps compiled programs in a folder, from where the next process takes them.

    Args:
      folder: Path of the folder; the default is that of a run.
    """
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
