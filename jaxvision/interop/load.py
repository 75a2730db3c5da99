"""Weights of other libraries into a model, and a model's weights out to them."""

import pathlib

from flax import nnx

from jaxvision.interop.assign import assign_weights, extract_weights
from jaxvision.interop.describe import check_padding, completed, describe_weights
from jaxvision.interop.formats import check_writable, write_weights
from jaxvision.interop.identify import naming_the_model
from jaxvision.interop.read import read_file_or_run
from jaxvision.interop.report import LoadReport, whole_report
from jaxvision.models.registry import get_spec
from jaxvision.models.spec import Model
from jaxvision.options.size import Size


def load_weights(
    model: nnx.Module,
    path: str | pathlib.Path,
    *,
    source: str | None = None,
    ema: bool = False,
    part: str | None = None,
    image_size: Size | None = None,
) -> LoadReport:
    """Puts the weights of a file into a model, in place, and returns what was done.

    Everything must fit, with four exceptions that the report names: a head for another number of
    classes or none (the model keeps its own), positions of another grid, a first kernel for another
    number of channels, and what only self-supervised training needed. A model that raises is as it
    was before.

    Args:
      model: Any model of `create_model`.
      path: Path of a file of safetensors, `numpy.savez` or `torch.save`, whatever its suffix, or
        `hub:owner/name[/file]`. Never runs code from the file. Or of a folder as transformers and
        timm have it: `config.json` and weights, sharded or not. Or the tag of published weights,
        "resnet50.a1_in1k". Or the folder of a run: the newest checkpoint, the averaged weights if
        it has them; or one of its checkpoints, `<run>/checkpoints/<step>`.
      source: Library whose names the file has: "timm", "torchvision", "hf" (transformers), "augreg"
        (Google's .npz), "efficientnet_pytorch", of a ResNet for CIFAR "akamaster", of a captioner
        "cs231n", "cs231n_2025" or "torch", or "jaxvision" (our own names); None: told by the names
        in the file.
      ema: Whether the averaged weights of a training checkpoint are taken; False: only if it has no
        others.
      part: Name of the place in a file whose weights are meant, where those of several fit, e.g.
        "teacher"; None: only one does.
      image_size: Size of the images that the weights belong to, in pixels, where the file does not
        tell it.

    Raises:
      InputError: if the file cannot be read, or an array is neither used nor excused; the message
        names it.
    """
    known = describe_weights(path)
    if isinstance(model, Model):
        check_padding(known, model)
    file = read_file_or_run(path, model, ema=ema, part=part)
    if image_size is None:
        image_size = file.image_size or (known.image_size if known is not None else None)
    with naming_the_model(path, file.weights, model):
        report = assign_weights(
            model, file.weights, source=source or file.source, image_size=image_size
        )
    if isinstance(model, Model):
        if model.spec_name is not None:
            known = completed(known, get_spec(model.spec_name), report.source, of=str(path))
        # Also where nobody tells: those of the weights before are not theirs.
        model.preprocess = known.preprocess if known is not None else None
        model.wanted_size = known.image_size if known is not None else None
    return whole_report(report, file)


def save_weights(model: nnx.Module, path: str | pathlib.Path, *, format: str = "timm") -> None:
    """Writes a model's weights under another library's names; they load there with strict=True.

    Args:
      model: Any model of `create_model`.
      path: Path of the file, `.safetensors` or `.npz`; replaced at once when all is written.
      format: Library whose names are written: "timm", "torchvision", "hf", ...; see `load_weights`.

    Raises:
      InputError: if the suffix is another, or the library has no such model.
    """
    check_writable(path)
    write_weights(path, extract_weights(model, format=format))
