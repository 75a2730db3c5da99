"""The two-way engine that renames and re-lays weights: a table, read forwards or backwards.

Our side is named by paths such as `blocks/0/attn/query/kernel`, one entry per block, however the
model runs its blocks; the other side by the names in that library's files. A rule is looked up by
the path on our side, so the model decides what must be in a file, and nothing is matched by order.
"""

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvision.errors import InputError
from jaxvision.interop.complaint import complaint

Weights = dict[str, np.ndarray]


class Misfit(InputError):
    """Weights that are not those of the model: their names or shapes are others."""


@dataclasses.dataclass(frozen=True)
class Transform:
    """How an array changes its layout, and how it changes back.

    Attributes:
      to_jax: Function from the file's layout to ours.
      to_torch: Function from our layout to the file's, the exact inverse.
    """

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Transform(lambda array: array, lambda array: array)
LINEAR = Transform(np.transpose, np.transpose)  # (out, in) <-> (in, out)
CONV = Transform(  # OIHW <-> HWIO
    lambda kernel: kernel.transpose(2, 3, 1, 0), lambda kernel: kernel.transpose(3, 2, 0, 1)
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table: what an array is called there and here.

    Attributes:
      source: Name in the file; `{i}` stands for a number of the path, `{i+1}` for the next one.
      targets: Our path, or several: then the file has them stacked along the first axis.
      transform: Transform of each target.
      aliases: Names in older files; read but never written.
      constant: Value of an array of the file that we have no use for: reading ignores it (it may be
        absent), writing writes this. `targets` says what it stands beside. None: an array that we
        use.
    """

    source: str
    targets: str | tuple[str, ...]
    transform: Transform = SAME
    aliases: tuple[str, ...] = ()
    constant: np.ndarray | None = None


def linear(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of a `torch.nn.Linear`."""
    return (
        Rule(f"{source}.weight", f"{target}/kernel", LINEAR),
        Rule(f"{source}.bias", f"{target}/bias"),
    )


def conv(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of a `torch.nn.Conv2d`; the bias counts only where we have one."""
    return (
        Rule(f"{source}.weight", f"{target}/kernel", CONV),
        Rule(f"{source}.bias", f"{target}/bias"),
    )


def classifier(source: str, hidden: int) -> tuple[Rule, ...]:
    """Returns the rules of the head of an image model.

    Args:
      source: Name of the linear head in the other library, without the last part.
      hidden: Number of units of its hidden layer; 0: the head is linear. Otherwise the names are
        those of Sequential(Dropout, Linear, ReLU, Dropout, Linear) in its place.
    """
    if not hidden:
        return linear(source, "head")
    return *linear(f"{source}.1", "head_hidden"), *linear(f"{source}.4", "head")


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of a `torch.nn.LayerNorm`."""
    return (
        Rule(f"{source}.weight", f"{target}/scale"),
        Rule(f"{source}.bias", f"{target}/bias"),
    )


def batch_norm(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of a `torch.nn.BatchNorm2d`, whose count of batches we do not keep."""
    return (
        *norm(source, target),
        Rule(f"{source}.running_mean", f"{target}/mean"),
        Rule(f"{source}.running_var", f"{target}/var"),
        Rule(
            f"{source}.num_batches_tracked",
            f"{target}/mean",
            constant=np.zeros((), np.int64),
        ),
    )


def or_bare(rules: Iterable[Rule], prefix: str) -> tuple[Rule, ...]:
    """Returns the rules, which also read the names without what stands before most of them.

    Args:
      rules: Table of rules.
      prefix: Name of the encoder in a model with a head; files of the encoder alone leave it out.
    """

    def bare(rule: Rule) -> Rule:
        names = (rule.source, *rule.aliases)
        more = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return dataclasses.replace(rule, aliases=(*rule.aliases, *more))

    return tuple(bare(rule) for rule in rules)


def or_as(rules: Iterable[Rule], others: Iterable[Rule]) -> tuple[Rule, ...]:
    """Returns the rules, which also read the names of another table.

    Args:
      rules: Table of rules.
      others: Table with the same layouts, other names.
    """
    names: dict[Any, list[str]] = {}
    for other in others:
        names.setdefault(other.targets, []).append(other.source)
    return tuple(
        dataclasses.replace(rule, aliases=(*rule.aliases, *names.get(rule.targets, ())))
        for rule in rules
    )


def unflattened(weights: Weights, config: object = None) -> Weights:
    """Returns the weights with the names that timm's `features_only=True` flattens: `stages_0.`.

    Args:
      weights: Arrays by name in the file.
      config: Config of the model; not used.
    """
    del config
    flat = re.compile(r"^(stem|stages|layers)_(\d+)\.")
    return {flat.sub(r"\1.\2.", name): array for name, array in weights.items()}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A rule with its numbers filled in.

    Attributes:
      names: Names in the file; the first one is written, all are read.
      targets: Our paths of the array.
      rule: Rule that the entry came from.
    """

    names: tuple[str, ...]
    targets: tuple[str, ...]
    rule: Rule

    def find(self, source: Mapping[str, Any]) -> str | None:
        """Returns the name under which a file has this array, or None."""
        return next((name for name in self.names if name in source), None)

    def shape_in_file(self, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """Returns the shape that the file must have.

        Args:
          shapes: Shape of every path of the model.
        """
        # A scalar spread to the shape takes no memory and can be transposed like the array itself.
        parts = [
            self.rule.transform.to_torch(np.broadcast_to(np.zeros(()), shapes[target])).shape
            for target in self.targets
        ]
        return parts[0] if len(parts) == 1 else (sum(p[0] for p in parts), *parts[0][1:])


def expand(rules: Iterable[Rule], paths: Iterable[str]) -> list[Entry]:
    """Returns one entry for each array that a file of this model has.

    Args:
      rules: Table of rules.
      paths: Every path of the model's parameters and statistics.

    Raises:
      InputError: if a path has no rule: the model has a part that the other library has not.
    """
    paths = list(paths)
    known, named, entries = set(paths), set(), []
    for rule in rules:
        targets = (rule.targets,) if isinstance(rule.targets, str) else rule.targets
        pattern = _pattern(targets[0])
        for path in paths:
            match = pattern.fullmatch(path)
            if not match:
                continue
            numbers = {name: int(number) for name, number in match.groupdict().items()}
            filled = tuple(_fill(target, numbers) for target in targets)
            names = tuple(_fill(name, numbers) for name in (rule.source, *rule.aliases))
            entries.append(Entry(names, filled, rule))
            if rule.constant is None:
                named |= set(filled)
    unnamed = sorted(known - named)
    if unnamed:
        raise InputError(
            f"{len(unnamed)} arrays of this model have no name there, e.g. {unnamed[0]!r}: build "
            "the model without that part, or use another format."
        )
    return entries


def convert(
    source: Weights,
    rules: Iterable[Rule],
    *,
    target: tuple[Any, Any],
    allow_missing: Sequence[str] = (),
    allow_extra: Sequence[str] = (),
) -> tuple[Any, Any]:
    """Returns (params, batch_stats) of NumPy arrays from the weights of another library.

    Strict: every array of the file is used and every array of the model is filled, in the right
    shape. Numbers are cast to the dtype of the model.

    Args:
      source: Arrays by name that `read_weights` returned.
      rules: Table of rules of the family and the library.
      target: Model's (params, batch_stats), nested dicts of anything with shape and dtype, with one
        entry per block as `unstack_blocks` gives them.
      allow_missing: Shell patterns of our paths that may be absent; they are absent in the result.
      allow_extra: Shell patterns of names in the file that may go unused.

    Raises:
      InputError: naming the first arrays that are missing, unused, or of another shape, with the
        nearest names.
    """
    leaves = {path: leaf for tree in target for path, leaf in flatten(tree).items()}
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    entries = expand(rules, leaves)
    missing, extra = _unmatched(source, entries, allow_missing, allow_extra)
    values: Weights = {}
    misfits = []
    for entry in entries:
        name = entry.find(source)
        if name is None or entry.rule.constant is not None:
            continue
        array, shape = source[name], entry.shape_in_file(shapes)
        if array.shape != shape:
            misfits.append(f"{name!r} is {array.shape} in the file, but the model needs {shape}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            misfits.append(f"{name!r} is {array.dtype} in the file, not floating point")
        else:
            count = len(entry.targets)
            parts = np.split(array, count) if count > 1 else [array]
            for path, part in zip(entry.targets, parts, strict=True):
                part = entry.rule.transform.to_jax(part).astype(leaves[path].dtype)
                if path in values and not np.array_equal(part, values[path]):
                    misfits.append(f"{name!r} differs from the array that the model shares with it")
                values[path] = np.asarray(part, order="C")
    if missing or extra or misfits:
        raise Misfit(complaint(missing, extra, misfits, source))
    params, batch_stats = (
        unflatten_dict({k: values[_path(k)] for k in flatten_dict(tree) if _path(k) in values})
        for tree in target
    )
    return params, batch_stats


def check_names(
    source: Weights, entries: Sequence[Entry], *, allow_missing: Sequence[str] = ()
) -> None:
    """Checks the names of `convert` alone, whatever shapes the arrays have.

    Args:
      source: Arrays by name.
      entries: Entries of the table that `expand` returned.
      allow_missing: Shell patterns of our paths that may be absent.

    Raises:
      InputError: naming the first arrays that are missing or unused.
    """
    missing, extra = _unmatched(source, entries, allow_missing, ())
    if missing or extra:
        raise InputError(complaint(missing, extra, [], source))


def _unmatched(
    source: Weights,
    entries: Sequence[Entry],
    allow_missing: Sequence[str],
    allow_extra: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Returns the names that the file lacks, and those that the model has no use for."""
    found = [(entry, entry.find(source)) for entry in entries]
    missing = [
        entry.names[0]
        for entry, name in found
        if name is None
        and entry.rule.constant is None
        and not all(_matches(path, allow_missing) for path in entry.targets)
    ]
    used = {name for _, name in found}
    extra = [name for name in source if name not in used and not _matches(name, allow_extra)]
    return missing, extra


def export(params: Any, batch_stats: Any, rules: Iterable[Rule]) -> Weights:
    """Returns the weights under the names and in the layouts of the other library, bit for bit.

    Args:
      params: Parameters, a nested dict of arrays with one entry per block, see `unstack_blocks`.
      batch_stats: Statistics, a nested dict like that of the parameters.
      rules: Table of rules that `convert` would read.

    Raises:
      InputError: if the model has an array that the table does not name.
    """
    values = {**flatten(params), **flatten(batch_stats)}
    weights = {}
    for entry in expand(rules, values):
        if entry.rule.constant is not None:
            weights[entry.names[0]] = entry.rule.constant.copy()
            continue
        parts = [entry.rule.transform.to_torch(np.asarray(values[path])) for path in entry.targets]
        # A copy, contiguous and writable, whatever the layout of ours was.
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        weights[entry.names[0]] = np.array(array, order="C")
    return weights


def count_known(names: Iterable[str], rules: Iterable[Rule]) -> int:
    """Returns how many of the names in a file some rule of a table could read."""
    pattern = name_pattern(rules)
    return sum(pattern.fullmatch(name) is not None for name in names)


def name_pattern(rules: Iterable[Rule]) -> re.Pattern[str]:
    """Returns the expression that matches the names in a file that some rule could read."""
    names = dict.fromkeys(name for rule in rules for name in (rule.source, *rule.aliases))
    return _any_of(tuple(names))


@functools.lru_cache(maxsize=256)  # the variants of a family share their names
def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    texts = (r"\d+".join(map(re.escape, _NUMBER.split(name)[::3])) for name in names)
    return re.compile("|".join(texts) or "(?!)")


def flatten(tree: Any) -> dict[str, Any]:
    """Returns {"blocks/0/norm1/scale": leaf} for nested dicts."""
    return {_path(keys): leaf for keys, leaf in flatten_dict(tree).items()}


def _path(keys: tuple) -> str:
    return "/".join(map(str, keys))


_NUMBER = re.compile(r"\{(\w+)(?:\+(\d+))?\}")


def _pattern(template: str) -> re.Pattern[str]:
    """Returns the expression that finds the numbers of a template."""
    names = _NUMBER.split(template)  # text, name, offset, text, name, offset, ..., text
    texts = [re.escape(text) for text in names[::3]]
    groups = [rf"(?P<{name}>\d+)" for name in names[1::3]]
    return re.compile("".join(a + b for a, b in zip(texts, [*groups, ""], strict=True)))


def _fill(template: str, numbers: Mapping[str, int]) -> str:
    return _NUMBER.sub(lambda match: str(numbers[match[1]] + int(match[2] or 0)), template)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
