"""Weights into a model of shapes: all of them, or an error."""

import jax
from flax import nnx

from jaxvision.errors import InputError
from jaxvision.interop.assign import assign_weights
from jaxvision.interop.identify import naming_the_model
from jaxvision.interop.read import read_file_or_run
from jaxvision.interop.report import LoadReport, WeightFile, whole_report


def fill_weights(model: nnx.Module, path: str) -> LoadReport:
    """Puts the weights of a file into a model of `nnx.eval_shape`, in place.

    Args:
      model: Model whose arrays are shapes only.
      path: Path of the weights, see `load_weights`.

    Raises:
      InputError: if the file cannot be read, belongs to another model, or leaves out a part, such
        as a head for other classes.
    """
    return assign_all(model, read_file_or_run(path, model), path=path, name=type(model).__name__)


def assign_all(model: nnx.Module, file: WeightFile, *, path: str, name: str) -> LoadReport:
    """Puts weights that are in memory into a model of shapes; see `fill_weights`.

    Args:
      model: Model whose arrays are shapes only.
      file: Weights, and what is known of them.
      path: Path that the weights were read from, for the text of an error.
      name: Name of the model, for the text of an error.
    """
    with naming_the_model(path, file.weights, model):
        report = assign_weights(model, file.weights, source=file.source, image_size=file.image_size)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(model))):
        reasons = "; ".join(f"{part}: {reason}" for part, reason in report.adapted.items())
        raise InputError(f"{path} does not fill a {name} ({reasons}).")
    return whole_report(report, file)
