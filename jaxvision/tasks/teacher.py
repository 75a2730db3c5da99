"""The teacher of a run: opened by its file or its run, and checked against the student."""

import dataclasses

import jax
from flax import nnx

from jaxvision.data.classes import class_difference, class_order
from jaxvision.errors import InputError
from jaxvision.interop.trained import open_trained, pixels_of
from jaxvision.models.registry import get_spec
from jaxvision.options.options import Options
from jaxvision.options.size import sides
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.distillation import Distillation, Teacher


def with_teacher(task: Classification, options: Options) -> Distillation:
    """Returns the task of a student.

    Args:
      task: Task without a teacher.
      options: Options of the run, which name a teacher.

    Raises:
      InputError: if the teacher's weights cannot be read, or it knows other classes.
    """
    distill, num_classes = options.distill, task.data.num_outputs
    size = sides(distill.image_size or options.data.image_size)
    try:
        trained = open_trained(
            distill.teacher_weights,
            distill.teacher or None,
            weights_size=distill.teacher_image_size or None,
            image_size=size,
            dtype=options.model.dtype,
        )
        graphdef, *states = nnx.split(trained.model, nnx.Param, nnx.BatchStat)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0].replace("--model", "--config.distill.teacher")
        raise InputError(f"config.distill.teacher_weights: {reason}") from error
    if trained.spec.task != task.name:
        raise InputError(f"A teacher must be a classifier, {trained.spec.name} is none.")
    if trained.thresholds is not None:
        raise InputError(
            f"The teacher {distill.teacher_weights} gives images several labels: give a classifier "
            "of one."
        )
    data = {"mean": options.data.mean, "std": options.data.std}
    mine = pixels_of(data, get_spec(options.model.name)).preprocess
    its = trained.spec.preprocess
    teacher = Teacher(
        graphdef=graphdef,
        scale=tuple(a / b for a, b in zip(mine.std, its.std, strict=True)),
        shift=tuple((a - b) / s for a, b, s in zip(mine.mean, its.mean, its.std, strict=True)),
        image_size=size,
    )
    weights = jax.device_get(tuple(map(nnx.to_pure_dict, states)))
    logits, _ = teacher.shapes(weights, size)
    if logits.shape[-1] != num_classes:
        raise InputError(
            f"The teacher {distill.teacher_weights} knows {logits.shape[-1]} classes, the student "
            f"{num_classes}: train a teacher on the same data, or give another."
        )
    its_names, names = trained.class_names, task.class_names
    if its_names and names and its_names != names:
        order = class_order(its_names, names)
        if order is None:
            raise InputError(
                f"The teacher {distill.teacher_weights} {class_difference(its_names, names)} among "
                "its classes, which must be those of the data."
            )
        teacher = dataclasses.replace(teacher, order=(*order, *range(len(order), num_classes)))
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    return Distillation(
        **fields,
        teacher=teacher,
        weights=weights,
        report=trained.report.splitlines()[0],
        kind=distill.loss,
        alpha=distill.alpha,
        temperature=distill.temperature,
        features=distill.features,
        feature_weight=distill.feature_weight,
    )
