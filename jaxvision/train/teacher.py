"""The teacher of a run: its weights, what it is for the student, and that it stays the same."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.errors import InputError, check_choice
from jaxvision.interop.rules import flatten
from jaxvision.interop.trained import open_trained
from jaxvision.models.registry import get_spec
from jaxvision.models.spec import param_dtype
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.distillation import (
    FEATURES,
    LOSSES,
    Distillation,
    Teacher,
    build_with_projection,
)
from jaxvision.train.image_sizes import is_size, sides
from jaxvision.train.workdir import Config, cannot_write, write_json

TEACHER_FILE = "teacher.json"


@dataclasses.dataclass(frozen=True)
class OpenTeacher:
    """A teacher whose weights are in host memory.

    Attributes:
      teacher: the function of weights and images.
      weights: (params, batch_stats) as numpy arrays.
      report: where they come from, in words.
    """

    teacher: Teacher
    weights: Any
    report: str


def open_teacher(
    config: Config, *, num_classes: int, class_names: tuple[str, ...]
) -> OpenTeacher | None:
    """Returns the teacher that a config names; None without any.

    Args:
      config: see configs/common.py.
      num_classes: of the student.
      class_names: of the data, by label.

    Raises:
      InputError: if its weights cannot be read, or it knows other classes.
    """
    options = config.distill
    check_choice("--config.distill.loss", options.loss, LOSSES)
    check_choice("--config.distill.features", options.features, FEATURES)
    if not options.teacher_weights:
        if options.teacher or options.features != "none":
            raise InputError(
                "A teacher needs weights: give --config.distill.teacher_weights=FILE or the "
                "folder of a run, or leave --config.distill.teacher and .features out."
            )
        return None
    if options.image_size and not is_size(options.image_size):
        raise InputError(
            "--config.distill.image_size must be pixels, a whole number or '(height, width)', or "
            f"0, got {options.image_size!r}."
        )
    size = sides(options.image_size or config.data.image_size)
    try:
        trained = open_trained(
            options.teacher_weights,
            options.teacher or None,
            image_size=size,
            dtype=config.model.dtype,
        )
        graphdef, *states = nnx.split(trained.model, nnx.Param, nnx.BatchStat)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0].replace("--model", "--config.distill.teacher")
        raise InputError(f"config.distill.teacher_weights: {reason}") from error
    if trained.spec.task != "classification":
        raise InputError(f"A teacher must be a classifier, {trained.spec.name} is none.")
    mine, its = get_spec(config.model.name).preprocess, trained.spec.preprocess
    teacher = Teacher(
        graphdef=graphdef,
        scale=tuple(a / b for a, b in zip(mine.std, its.std, strict=True)),
        shift=tuple((a - b) / s for a, b, s in zip(mine.mean, its.mean, its.std, strict=True)),
        image_size=size,
    )
    weights = jax.device_get(tuple(map(nnx.to_pure_dict, states)))
    logits, _ = _shapes(teacher, weights, size)
    if logits.shape[-1] != num_classes:
        raise InputError(
            f"The teacher {options.teacher_weights} knows {logits.shape[-1]} classes, the student "
            f"{num_classes}: train a teacher on the same data, or give another."
        )
    if trained.class_names and class_names and trained.class_names != class_names:
        pairs = zip(trained.class_names, class_names, strict=True)
        label, (its_name, name) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
        raise InputError(
            f"The teacher {options.teacher_weights} calls class {label} {its_name!r}, the data "
            f"{name!r}: its classes must be those of the data, in their order."
        )
    return OpenTeacher(teacher, weights, trained.report.splitlines()[0])


def distillation(config: Config, base: Classification, opened: OpenTeacher) -> Distillation:
    """Returns the task of a student.

    Args:
      config: see configs/common.py.
      base: what it is without a teacher.
      opened: the teacher.
    """
    options = config.distill
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    return Distillation(
        **fields,
        teacher=opened.teacher,
        kind=options.loss,
        alpha=options.alpha,
        temperature=options.temperature,
        features=options.features,
        feature_weight=options.feature_weight,
    )


def with_projection(
    config: Config, build: Callable[[nnx.Rngs], Any], task: Distillation, opened: OpenTeacher
) -> tuple[Callable[[nnx.Rngs], Any], Distillation]:
    """Returns the student's `build` and its task, once it is clear which maps are compared.

    Args:
      config: see configs/common.py.
      build: makes the student from `nnx.Rngs`.
      task: of `distillation`.
      opened: the teacher.

    Raises:
      InputError: if one of the two has no map of that stride.
    """
    size = sides(config.data.image_size)
    student: Any = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graphdef, *states = nnx.split(student, nnx.Param, nnx.BatchStat)
    plain = Teacher(graphdef=graphdef, scale=(1.0,) * 3, shift=(0.0,) * 3, image_size=size)
    found = []
    for who, (_, maps) in (
        ("student", _shapes(plain, tuple(map(nnx.to_pure_dict, states)), size)),
        ("teacher", _shapes(opened.teacher, opened.weights, size)),
    ):
        stride = config.distill.feature_stride or max(maps)
        if stride not in maps:
            raise InputError(
                f"The {who} has maps of the strides {', '.join(map(str, maps))}, none of "
                f"--config.distill.feature_stride={stride}; 0 takes the last map of both."
            )
        found.append((stride, maps[stride].shape[-1]))
    (ours, width), (theirs, teacher_width) = found
    dtype = config.model.dtype
    build = functools.partial(
        build_with_projection,
        build=build,
        width=width,
        teacher_width=teacher_width,
        dtype=dtype,
        param_dtype=param_dtype(dtype),
    )
    return build, dataclasses.replace(task, strides=(ours, theirs))


def _shapes(teacher: Teacher, weights: Any, size: tuple[int, int]) -> Any:
    """Returns the shapes of the logits and of the maps of one image of the student's."""
    return jax.eval_shape(teacher, weights, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))


def keep_teacher(workdir: pathlib.Path, opened: OpenTeacher, *, resumes: bool) -> None:
    """Writes down which teacher a run has, or makes sure that it still is the same.

    Its weights are in no checkpoint, so that a run which goes on reads them again.

    Args:
      workdir: of the run.
      opened: the teacher.
      resumes: whether the run goes on.

    Raises:
      InputError: if a run that goes on began with another teacher.
    """
    digest = hashlib.sha256()
    for tree in opened.weights:
        for path, array in sorted(flatten(tree).items()):
            digest.update(f"{path} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    path, found = workdir / TEACHER_FILE, digest.hexdigest()
    if not resumes:
        if jax.process_index() == 0:
            try:
                write_json(path, {"sha256": found, "weights": opened.report})
            except OSError as error:
                raise cannot_write(workdir, error) from error
        return
    try:
        kept = json.loads(path.read_text())
        same, began_with = kept["sha256"] == found, kept["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): restore it.") from error
    if not same:
        raise InputError(
            f"The run in {workdir} began with another teacher ({began_with}) than "
            f"--config.distill.teacher_weights holds now ({opened.report}): give that one; of a "
            "run that went on, the folder <run>/checkpoints/<step> of the checkpoint."
        )
