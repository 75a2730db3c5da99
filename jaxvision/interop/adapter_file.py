"""Adapters alone, a few MB beside the weights that they change: the folders of Hugging Face's peft.

peft names a layer as the library of the weights does, so the same folder serves both sides. Where a
library keeps several of our kernels in one, as timm's `qkv`, their LoRAs are written as one of as
many ranks together, whose B is made of blocks; one of peft's that was trained on `qkv` is read as
what it adds to each.
"""

import contextlib
import dataclasses
import math
import pathlib
import re
from typing import Any

import numpy as np
from flax import nnx

from jaxvision.errors import InputError, reason, shorten
from jaxvision.files import output_path, read_json, write_json
from jaxvision.interop import pretrained
from jaxvision.interop.assign import (
    assign_weights,
    count_classes,
    entries_of,
    extract_weights,
    formats_of,
    source_of,
    weight_names,
)
from jaxvision.interop.formats import read_weights, write_weights
from jaxvision.interop.report import LoadReport
from jaxvision.interop.rules import Entry, Weights
from jaxvision.interop.run_folder import open_run, read_run
from jaxvision.interop.trained import open_trained
from jaxvision.layers.adapter import ADAPTER
from jaxvision.models.registry import create_model
from jaxvision.models.spec import Model, ModelSpec
from jaxvision.options.adapter import KINDS, AdapterOptions

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PART = re.compile(r"(.+)\.(lora_A|lora_B|ia3_l)(?:\.default)?(?:\.weight)?")
_MAX_ALPHA = 1e9
# What changes the meaning of the numbers.
_REFUSED = (
    *("use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora", "kasa_config"),
    *("arrow_config", "layer_replication", "alora_invocation_tokens"),
)
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")  # others change the weights


def load_adapter(model: nnx.Module, path: str | pathlib.Path) -> LoadReport:
    """Changes a model's weights by an adapter of peft, in place, and returns what was done.

    The head comes with it, if the adapter has one for as many classes.

    Args:
      model: Model with the weights that the adapter was trained on.
      path: Folder with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
      InputError: if the folder cannot be read, or holds what is not for this model.
    """
    weights, source, own = _changed_weights(model, path)
    report = assign_weights(model, weights, source=source)
    loaded = tuple(name for name in report.loaded if name in own)
    return dataclasses.replace(report, loaded=loaded)


def with_adapter(model: nnx.Module, spec: ModelSpec, path: str | pathlib.Path) -> nnx.Module:
    """Returns a model like another, changed by an adapter of peft, with the classes of that.

    Args:
      model: Model with the weights that the adapter was trained on.
      spec: Row of the model.
      path: Folder of the adapter, see `load_adapter`.

    Raises:
      InputError: as `load_adapter`.
    """
    weights, source, _ = _changed_weights(model, path)
    assert isinstance(model, Model)
    fields = {
        field.name: getattr(model.config, field.name) for field in dataclasses.fields(model.config)
    }
    if spec.outputs_option is not None:
        fields[spec.outputs_option] = count_classes(model, weights, source=source) or 0
    new = nnx.eval_shape(lambda: create_model(spec.name, rngs=nnx.Rngs(0), **fields))
    assign_weights(new, weights, source=source)
    return new


def _changed_weights(
    model: nnx.Module, path: str | pathlib.Path
) -> tuple[Weights, str, frozenset[str]]:
    """Returns changed weights, the library whose names they have, and which of them changed."""
    folder = pathlib.Path(path).expanduser()
    said = _read_config(folder)
    parts: dict[str, dict[str, np.ndarray]] = {}
    saved = {}  # what was trained as it is
    for name, array in read_weights(folder / _WEIGHTS).items():
        name = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        if match := _PART.fullmatch(name):
            parts.setdefault(match[1], {})[match[2]] = array
        else:
            saved[name] = array
    source = _source_of(model, parts, folder)
    for key in said["alpha_pattern"]:
        if not any(_is_called(layer, key) for layer in parts):
            raise InputError(
                f"{folder / _CONFIG}: {shorten(key)!r} of alpha_pattern is the name of no layer in "
                "it; regexes are not read."
            )
    weights = extract_weights(model, format=source)
    for layer, arrays in parts.items():
        weights |= _changed(layer, arrays, weights, said, folder)
    return weights | saved, source, frozenset([*(f"{layer}.weight" for layer in parts), *saved])


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what says how the arrays are meant."""
    if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
        raise InputError(
            f"{folder} is no folder of an adapter, with {_CONFIG} and {_WEIGHTS}: write one by "
            "`jaxvision convert RUN FOLDER --format=peft`."
        )
    try:
        said = read_json(folder / _CONFIG)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / _CONFIG} is damaged: {shorten(reason(error))}.") from error
    kind, alpha = said.get("peft_type"), said.get("lora_alpha")
    if kind not in ("LORA", "IA3"):
        raise InputError(f"{folder} is an adapter of kind {shorten(kind)}; LORA and IA3 are read.")
    for option in _REFUSED:
        if said.get(option):
            raise InputError(f"{folder} was trained with {option}, which is not read.")
    if (start := said.get("init_lora_weights")) not in _PLAIN_STARTS:
        raise InputError(
            f"{folder} was trained with init_lora_weights={shorten(start)}, which changes the "
            "weights beside the adapter: write it by peft's save_pretrained with "
            "path_initial_model_for_weight_conversion."
        )
    alphas, inputs = said.get("alpha_pattern") or {}, said.get("feedforward_modules") or []
    if not isinstance(alphas, dict) or not isinstance(inputs, list):  # a text is a regex
        raise InputError(
            f"{folder / _CONFIG}: alpha_pattern should be an object and feedforward_modules a list."
        )
    numbers: tuple[Any, ...] = (*([alpha] if kind == "LORA" else []), *alphas.values())
    if not all(type(x) in (int, float) and abs(x) < _MAX_ALPHA for x in numbers):
        raise InputError(f"{folder / _CONFIG} is damaged: lora_alpha should be numbers.")
    return said | {"alpha_pattern": alphas, "feedforward_modules": inputs}


def _source_of(model: nnx.Module, layers: Any, folder: pathlib.Path) -> str:
    """Returns the library that has a weight of each of these names."""
    names = {f"{layer}.weight" for layer in layers}
    for source in formats_of(model):
        with contextlib.suppress(InputError):  # the library has no such model
            if names and names <= weight_names(model, format=source).keys():
                return source
    raise InputError(
        f"{folder} changes layers that this {type(model).__name__} has not, e.g. "
        f"{shorten(next(iter(layers), 'none'))!r}: give it to the model that it was trained on."
    )


def _changed(
    layer: str,
    arrays: dict[str, np.ndarray],
    weights: Weights,
    said: dict[str, Any],
    folder: pathlib.Path,
) -> Weights:
    """Returns weight and bias of a layer as its adapter changes them."""
    name, bias = f"{layer}.weight", f"{layer}.bias"
    old = weights[name]
    wide = {part: array.astype(np.float64) for part, array in arrays.items()}
    try:
        if said["peft_type"] == "LORA":
            a, b = wide.pop("lora_A"), wide.pop("lora_B")
            alpha = _of_layer(layer, said["alpha_pattern"], said["lora_alpha"])
            root = math.sqrt(len(a)) if said.get("use_rslora") else len(a)
            if (len(b), *a.shape[1:]) != old.shape:
                raise ValueError("they are of another layer")
            product = np.einsum("or,ri...->oi...", b.reshape(len(b), -1), a)
            new, new_bias = old + alpha / root * product, None
        else:
            factors = wide.pop("ia3_l")
            of_inputs = any(layer.endswith(each) for each in said["feedforward_modules"])
            axis = 1 if of_inputs else 0
            shape = [1] * old.ndim
            shape[axis] = old.shape[axis]
            new = old * factors.reshape(shape)
            new_bias = None if of_inputs or bias not in weights else weights[bias] * factors.ravel()
        if wide:
            raise ValueError("there are parts of another kind")
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        shapes = ", ".join(f"{part} {array.shape}" for part, array in arrays.items())
        raise InputError(
            f"{folder}: {shorten(layer)!r} has {shapes}, beside a weight of shape {old.shape}: the "
            "adapter is of another model, or damaged."
        ) from error
    changed = {name: new.astype(old.dtype)}
    return changed if new_bias is None else changed | {bias: new_bias.astype(old.dtype)}


def _of_layer(layer: str, pattern: dict[str, Any], otherwise: Any) -> Any:
    """Returns what a pattern of peft says of a layer."""
    return next((x for key, x in pattern.items() if _is_called(layer, key)), otherwise)


def _is_called(layer: str, key: str) -> bool:
    """Returns whether a key of peft, a name or the last parts of one, means a layer."""
    return layer == key or layer.endswith(f".{key}")


def save_adapter(path: str | pathlib.Path, folder: str | pathlib.Path) -> None:
    """Writes the adapters and the head of a run alone; peft reads them over timm's model.

    Args:
      path: Folder of a run of --config.optimizer.preset=lora, see `open_run`.
      folder: New folder of the adapter.

    Raises:
      InputError: if the run has no adapters or has trained more than them, or timm has no such
        model.
    """
    run = open_run(path)
    optimizer, kind = run.config["optimizer"], run.config["optimizer"]["preset"]
    if kind not in KINDS:
        raise InputError(
            f"{path} was trained by --config.optimizer.preset={kind}, which has no adapters: give a"
            " run of lora or ia3, or write all weights by --format=timm."
        )
    trained, _ = read_run(path, whole=True)
    moves = run.config["model"]["freeze_batch_stats"] == "none" and any(
        name.endswith("/mean") for name in trained
    )
    if optimizer["rules"] or optimizer["unfreeze"] or moves:
        raise InputError(
            f"{path} has trained more than adapters and head (by rules, a timetable or "
            "freeze_batch_stats=none): write all weights by --format=timm."
        )
    if first := run.config["model"]["adapter_from"]:
        raise InputError(
            f"{path} went on from the adapter {first}, which its own adapters do not hold: write "
            "all weights by --format=timm."
        )
    options = AdapterOptions(**run.config["adapter"])
    model = open_trained(str(path)).model
    source, _ = source_of(model, "timm")
    merged = extract_weights(model, format="timm")
    weights, ranks, layers, inputs = {}, {}, [], []
    for entry in entries_of(model, format="timm"):
        name = entry.names[0]
        layer = name.removesuffix(".weight")
        if entry.rule.constant is not None:
            continue
        if any(target.startswith(f"{head}/") for head in source.heads for target in entry.targets):
            weights[name] = merged[name]
        elif kind == "lora" and (factors := _lora_factors(entry, trained)):
            a, b = factors
            weights[f"{layer}.lora_A.weight"], weights[f"{layer}.lora_B.weight"] = a, b
            layers.append(layer)
            ranks[layer] = len(a)
        elif kind == "ia3" and (found := _ia3_factors(entry, trained, merged[name].ndim)):
            weights[f"{layer}.ia3_l"], of_inputs = found
            layers.append(layer)
            inputs += [layer] * of_inputs
    config: dict[str, Any] = {
        "base_model_name_or_path": _public_name(run.config["model"]["init_from"]),
        "inference_mode": True,
        "modules_to_save": sorted({n.rpartition(".")[0] for n in weights if n in merged}),
        "target_modules": layers,
        "task_type": None,
    }
    if kind == "ia3":
        config |= {"peft_type": "IA3", "feedforward_modules": inputs}
    else:
        roots = {n: math.sqrt(r) if options.rank_stabilized else r for n, r in ranks.items()}
        others = [layer for layer in layers if ranks[layer] != options.rank]
        config |= {
            "peft_type": "LORA",
            "r": options.rank,
            "lora_alpha": options.alpha,
            "lora_dropout": options.dropout,
            "use_rslora": options.rank_stabilized,
            "bias": "none",
            "rank_pattern": {layer: ranks[layer] for layer in others},
            "alpha_pattern": {layer: options.scale * roots[layer] for layer in others},
        }
    out = output_path(folder)
    out.mkdir(parents=True, exist_ok=True)
    write_weights(out / _WEIGHTS, {_PREFIX + name: x for name, x in weights.items()})
    write_json(out / _CONFIG, config)


def _lora_factors(entry: Entry, trained: Weights) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns A and B of a weight in the layout of its library; None if none of its parts has any.

    Args:
      entry: Name and layout of the weight.
      trained: Arrays of the run by our paths, adapters among them.
    """
    parts = []
    for target in entry.targets:
        kernel, place = trained[target], f"{target.rpartition('/')[0]}/{ADAPTER}/"
        if f"{place}lora_a" not in trained or not target.endswith("/kernel"):
            parts.append((kernel.shape[-1], None))
            continue
        a, b = (trained[f"{place}{name}"] for name in ("lora_a", "lora_b"))
        ones = (1,) * (kernel.ndim - 2)
        turned = [entry.rule.transform.to_torch(x.reshape(ones + x.shape)) for x in (a, b)]
        parts.append((kernel.shape[-1], turned))
    found = [turned for _, turned in parts if turned is not None]
    if not found:
        return None
    a = np.concatenate([a for a, _ in found])
    b = np.zeros((sum(size for size, _ in parts), len(a), *found[0][1].shape[2:]), a.dtype)
    row = column = 0
    for size, turned in parts:
        if turned is not None:
            rank = turned[1].shape[1]
            b[row : row + size, column : column + rank] = turned[1]
            column += rank
        row += size
    return np.array(a, order="C"), b


def _ia3_factors(entry: Entry, trained: Weights, ndim: int) -> tuple[np.ndarray, bool] | None:
    """Returns the factors of a weight as peft shapes them, and whether they are of its inputs.

    Args:
      entry: Name and layout of the weight.
      trained: Arrays of the run by our paths, adapters among them.
      ndim: Number of dimensions of the weight in the library.
    """
    places = [f"{target.rpartition('/')[0]}/{ADAPTER}/" for target in entry.targets]
    if not entry.targets[0].endswith("/kernel"):
        return None
    if f"{places[0]}ia3_inputs" in trained:
        return trained[f"{places[0]}ia3_inputs"].reshape(1, -1, *(1,) * (ndim - 2)), True
    if not any(f"{place}ia3_outputs" in trained for place in places):
        return None
    factors = [
        trained.get(f"{place}ia3_outputs", np.ones(trained[target].shape[-1], np.float32))
        for place, target in zip(places, entry.targets, strict=True)
    ]
    shape = (-1, 1) if ndim == 2 else (1, -1, 1, 1)
    return np.concatenate(factors).reshape(shape), False


def _public_name(weights: str) -> str:
    """Returns a tag or an address as it is, and of a path what does not tell where it lay."""
    public = weights.startswith(("hub:", "pip:", "https://")) or pretrained.is_tag(weights)
    return weights if public else pathlib.PurePath(weights).name
