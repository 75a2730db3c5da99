"""A model as a repository of the Hugging Face hub, which timm opens, with a model card."""

import importlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from flax import nnx

from jaxvision.errors import InputError
from jaxvision.files import METRICS_FILE, output_path, read_json, write_json, write_text
from jaxvision.interop.describe import run_preprocess
from jaxvision.interop.load import save_weights
from jaxvision.interop.run_folder import RunFolder, is_run, open_run
from jaxvision.interop.timm_config import timm_config
from jaxvision.interop.trained import open_trained, wanted_size
from jaxvision.models.registry import get_spec
from jaxvision.models.spec import Model
from jaxvision.options.options import Options, as_json
from jaxvision.train.workdir import flat

_PICTURES = ("predictions.png", "curves.png", "confusion.png", "reliability.png")

# Options that are places on the machine of the run: nothing for a page that all can read.
_PATHS = (
    "data.path", "data.images", "data.features", "model.init_from", "model.encoder_from",
    "model.adapter_from", "distill.teacher_weights", "eval.ensemble", "eval.real_labels",
    "compilation_cache",
)  # fmt: skip


def push(
    weights: str | os.PathLike | nnx.Module,
    repository: str,
    *,
    class_names: Sequence[str] = (),
    private: bool = False,
) -> str:
    """Puts a model on the Hugging Face hub, where timm opens it; returns its address there.

    Args:
      weights: Folder of a run, or a model with loaded weights.
      repository: Name of the repository, "owner/name"; it is made if it is not there.
      class_names: Names of the classes by label, of a model that is no run.
      private: Whether a new repository is seen by its owner alone.

    Raises:
      InputError: if timm has no such model, or the hub refuses it.
    """
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name:
        raise InputError(f"A repository is called owner/name, got {repository!r}.")
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            "push needs huggingface_hub, which is not installed: pip install huggingface_hub."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        write_repository(weights, folder, repository=repository, class_names=class_names)
        try:
            hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Model by jaxvision"
            )
        except Exception as error:  # of many kinds: no login, no right, no connection
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(
                f"{repository} cannot be written ({reason}): log in by `hf auth login`, or set"
                " HF_TOKEN."
            ) from error
    return f"hub:{repository}"


def write_repository(
    weights: str | os.PathLike | nnx.Module,
    folder: str | os.PathLike,
    *,
    repository: str = "owner/name",
    class_names: Sequence[str] = (),
) -> pathlib.Path:
    """Writes the files of a repository: weights, config.json, model card, pictures.

    Args:
      weights: Folder of a run, or a model with loaded weights.
      folder: Folder to write to, made if it is not there.
      repository: Name that the repository will have, for the model card.
      class_names: Names of the classes by label, of a model that is no run.

    Raises:
      InputError: if timm has no such model.
    """
    run = None
    if isinstance(weights, nnx.Module):
        model, names = weights, tuple(class_names)
        if not isinstance(model, Model) or model.spec_name is None or model.preprocess is None:
            raise InputError(
                "push takes the folder of a run, or a model whose weights tell how images are"
                " prepared, as those of load_weights(model, 'resnet50.a1_in1k')."
            )
        preprocess = model.preprocess
        size = wanted_size(model, get_spec(model.spec_name))
    else:
        path = os.fspath(weights)
        if not is_run(path):
            raise InputError(f"{path} is no folder of a run: give one, or a model.")
        run = open_run(path)
        trained = open_trained(path)
        get_spec(trained.spec.name, task="classification")
        if trained.thresholds is not None:  # others would read softmax out of it
            raise InputError(
                f"{path} was trained on several labels an image, which timm's config.json cannot"
                " say: `jaxvision convert` writes its weights alone."
            )
        model, names = trained.model, trained.class_names
        preprocess, size = run_preprocess(run, trained.spec.preprocess)
    config = timm_config(model, preprocess, size, names)
    out = output_path(folder)
    out.mkdir(parents=True, exist_ok=True)
    save_weights(model, out / "model.safetensors", format="timm")
    write_json(out / "config.json", config)
    drawn = [run.folder / name for name in _PICTURES] if run is not None else []
    pictures = [picture for picture in drawn if picture.is_file()]
    for picture in pictures:
        shutil.copyfile(picture, out / picture.name)
    write_text(out / "README.md", _card(repository, config, run, [p.name for p in pictures]))
    return out


def _card(
    repository: str, config: dict[str, Any], run: RunFolder | None, pictures: Sequence[str]
) -> str:
    """Returns the model card, in Markdown."""
    name = repository.partition("/")[2]
    cfg = config["pretrained_cfg"]
    task = "image-classification" if config["num_classes"] else "image-feature-extraction"
    use = [
        "```python", "import jaxvision as jv", "",
        f'model = jv.from_pretrained("hub:{repository}")', 'model.predict("photo.jpg")', "```", "",
    ] if config["num_classes"] else []  # fmt: skip
    lines = [
        "---", "library_name: timm", f"pipeline_tag: {task}", "tags:",
        f"- {task}", "- timm", "- jaxvision", "---", "",
        f"# {name}", "",
        f"A `{config['architecture']}` with {config['num_classes']} outputs"
        f"{', trained by jaxvision' if run is not None else ''}.",
        "", "```python", "import timm", "",
        f'model = timm.create_model("hf-hub:{repository}", pretrained=True)', "```", "",
        *use,
        f"Images: {' x '.join(map(str, cfg['input_size'][1:]))} pixels, {cfg['crop_mode']} crop of"
        f" {cfg['crop_pct']:.3g}, {cfg['interpolation']}, mean {cfg['mean']}, deviation"
        f" {cfg['std']}.", "",
    ]  # fmt: skip
    if "label_names" in config:
        lines += ["## Classes", "", ", ".join(config["label_names"]), ""]
    if run is not None:
        lines += _of_training(run)
    for picture in pictures:
        lines += [f"![{picture.removesuffix('.png')}]({picture})", ""]
    return "\n".join(lines)


def _of_training(run: RunFolder) -> list[str]:
    """Returns the parts of the card that a run tells: data, results, recipe."""
    data = run.config["data"]
    lines = ["## Data", "", f"`{data['name']}`, training split `{data['train_split']}`,"]
    lines[-1] += f" evaluation split `{data['eval_split']}`."
    counts = _json(run.folder / "data.json")
    for split in ("train", "eval"):
        if "examples" in counts.get(split, {}):
            lines.append(f"- {split}: {counts[split]['examples']:,} images")
    lines.append("")
    results = _results(run.folder)
    if results:
        lines += ["## Results", "", "| metric | value |", "|---|---|"]
        lines += [f"| {metric} | {value:.4f} |" for metric, value in sorted(results.items())]
        lines.append("")
    usual, own = flat(as_json(Options())), flat(run.config)
    changed = [f"{n}: {json.dumps(x)}" for n, x in sorted(own.items()) if usual.get(n) != x]
    changed = [line for line in changed if not line.startswith(_PATHS)]
    versions = _json(run.folder / "versions.json")
    made_by = ", ".join(f"{n} {versions[n]}" for n in ("jaxvision", "jax", "flax") if n in versions)
    return [
        *lines,
        "## Recipe",
        "",
        "```",
        *changed,
        "```",
        "",
        *([made_by, ""] if made_by else []),
    ]


def _results(folder: pathlib.Path) -> dict[str, float]:
    """Returns the last evaluation of a run."""
    path = folder / METRICS_FILE
    found: dict[str, float] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a killed run
            continue
        new = {name: x for name, x in record.items() if name.startswith("eval") and x is not None}
        found = new or found
    return found


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}  # what a card does not need
