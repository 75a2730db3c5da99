"""Weights of a file, a folder, the hub, the table of published weights, or a run."""

import pathlib

from flax import nnx

from jaxvision.errors import InputError
from jaxvision.interop import pretrained
from jaxvision.interop.assign import OWN, tables_of
from jaxvision.interop.choose import choose
from jaxvision.interop.formats import locate, read_places, read_values
from jaxvision.interop.report import WeightFile
from jaxvision.interop.run_folder import is_run, open_run, read_run, run_image_size
from jaxvision.interop.weight_folder import read_beside


def read_file_or_run(
    path: str | pathlib.Path,
    model: nnx.Module | None = None,
    *,
    ema: bool = False,
    part: str | None = None,
) -> WeightFile:
    """Returns the weights of a file or a run, and what it tells of them.

    Args:
      path: Path of the weights, see `load_weights`.
      model: Model that they are for, also of shapes, whose names are looked for in the file; None:
        it is not known yet.
      ema: Whether the averaged weights are taken, see `load_weights`.
      part: Name of the place whose weights are meant, see `load_weights`.

    Raises:
      InputError: if the file or the run cannot be read, or several places in it fit.
    """
    if is_run(path):
        if part is not None:
            raise InputError(f"{path} is a run, which has no part {part!r}: leave part out.")
        weights, wrapper = read_run(path, ema=ema)
        return WeightFile(weights, wrapper, OWN, image_size=run_image_size(open_run(path)))
    row = pretrained.published(path)
    file = locate(path) if row is None else row.fetch()
    places, beside = read_places(file), read_beside(file)
    tables = [] if model is None else tables_of(model)
    choice = choose(places, tables, path=path, ema=ema, part=part)
    weights = read_values(choice, tables, path=path)
    return WeightFile(
        weights,
        choice.wrapper,
        source=None if row is None else row.source,
        config=beside.config,
        preprocessor=beside.preprocessor,
        image_size=beside.image_size if row is None else row.image_size,
        left_out=choice.left_out,
    )
