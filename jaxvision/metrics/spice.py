"""SPICE, by the Java program in pycocoevalcap where everything that it needs is there."""

import importlib
import shutil
import subprocess
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from jaxvision.errors import InputError
from jaxvision.metrics.evaluation_package import INSTALL, find_package

_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def spice(
    references: Sequence[Sequence[str]], candidates: Sequence[str]
) -> Float64[np.ndarray, " candidates"]:
    """Returns SPICE of each candidate; the corpus value is their mean.

    Args:
      references: Tokenized captions of each image.
      candidates: Tokenized captions to score, one for each image.

    Raises:
      InputError: if pycocoevalcap, Java or the models of its parser are missing, or if the program
        fails. Nothing is downloaded.

    Source: Anderson et al. 2016, SPICE: Semantic Propositional Image Caption Evaluation.
    """
    folder = find_package()
    if folder is None:
        raise InputError(f"SPICE is a program in the package pycocoevalcap; {INSTALL}.")
    missing = [name for name in _MODELS if not (folder / "spice" / "lib" / name).is_file()]
    if missing:
        raise InputError(
            f"SPICE needs the models of its parser, {missing[0]}; to download them (385 MB, over "
            "http) type python -m pycocoevalcap.spice.get_stanford_models."
        )
    if not shutil.which("java"):
        raise InputError("SPICE needs Java; install a Java runtime, so that `java` is found.")
    program = importlib.import_module("pycocoevalcap.spice.spice").Spice()
    texts = [[text] for text in candidates]
    try:
        _, scores = program.compute_score(
            dict(enumerate(map(list, references))), dict(enumerate(texts))
        )
    except subprocess.CalledProcessError as error:
        raise InputError(
            f"The Java program of SPICE failed with exit code {error.returncode}; what it said is "
            "above. It was written for Java 8."
        ) from error
    return np.array([score["All"]["f"] for score in scores], np.float64)
