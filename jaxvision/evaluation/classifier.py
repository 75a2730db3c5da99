"""Everything about the newest checkpoint of a classifier, as numbers and as pictures."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.batch import check_batch
from jaxvision.data.augment.views import with_views
from jaxvision.data.sources.real_labels import read_real_labels, real_correct
from jaxvision.data.types import Transform
from jaxvision.errors import InputError
from jaxvision.evaluation.ensemble import Member, mean_logits, open_member
from jaxvision.evaluation.outputs import collect_outputs, make_views_step
from jaxvision.evaluation.scores import classification_scores, guesses_of
from jaxvision.files import cannot_write, output_path, write_json
from jaxvision.metrics.outputs import Outputs
from jaxvision.plots.confusion_grid import plot_confusion
from jaxvision.plots.reliability import plot_reliability
from jaxvision.tasks.classification import Classification
from jaxvision.tasks.task import Weights
from jaxvision.terminal import counted
from jaxvision.train.loop import restore_run
from jaxvision.train.run import Run

logger = logging.getLogger(__name__)

RESULTS_FILE = "evaluation.json"


def evaluate_classifier(
    run: Run, task: Classification, workdir: str | pathlib.Path
) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run and writes what comes out into its folder.

    `evaluation.json` holds the scores of the weights (`eval`), of the averaged ones (`eval_ema`,
    `eval_swa`) and of the ensemble with other models (`ensemble`); `confusion.png` and
    `reliability.png` show the last of these.

    Args:
      run: Run of `make_run`.
      task: Task of the run.
      workdir: Folder of the run.

    Returns:
      The content of the file.

    Raises:
      InputError: if the folder holds no checkpoint, or one of another model, or a file that the
        options name cannot be used.
    """
    state, step = restore_run(run, workdir)
    results, _ = score_weights(run, task, run.weights_of(state), step)
    if jax.process_index() == 0:
        _write(results, output_path(workdir))
    return results


def score_weights(
    run: Run, task: Classification, sets: dict[str, Weights], step: int
) -> tuple[dict[str, Any], Outputs]:
    """Returns what evaluation.json holds, {} but in the first process, and the last set's logits.

    Args:
      run: Run of the weights; its options say what else is evaluated.
      task: Task of the run.
      sets: Sets of weights by name, as of `Run.weights_of`.
      step: Number of updates that made them.

    Raises:
      InputError: if a file that the options name cannot be used, or too many images are corrupt.
    """
    options, real = run.options.eval, None
    if options.real_labels:
        classes = run.num_outputs
        real = read_real_labels(options.real_labels, run.eval_source, num_classes=classes)
    members = [open_member(path, run, task.class_names) for path in options.ensemble]
    found = _outputs(run, run.graphdef, [*sets.values()], run.preprocess_fn, run.eval_transform)
    outputs = dict(zip(sets, found, strict=True))
    others = [_member_outputs(run, member) for member in members]
    best = found[-1]  # of the averaged weights where there are any
    logits = {name: each.values for name, each in outputs.items()}
    if members:
        logits["ensemble"] = mean_logits([best.values, *(each.values for each in others)])
    if jax.process_index() > 0:
        return {}, best
    weights = {
        name: classification_scores(values, best.labels, task.class_names)
        | _real_scores(values, best.records, real)
        for name, values in logits.items()
    }
    results = {
        "step": step,
        "path": run.options.data.path,
        "split": run.options.data.eval_split,
        "image_size": run.options.data.image_size,
        "examples": len(best.labels),
        "tta": options.tta,
        "members": {
            member.name: float(np.mean(guesses_of(each.values) == each.labels))
            for member, each in zip(members, others, strict=True)
        },
        "weights": weights,
    }
    logger.info("Step %d: %s", step, _summary(weights))
    return results, best


def _outputs(
    run: Run,
    graphdef: Any,
    weights: Sequence[tuple[Any, Any]],
    preprocess_fn: Callable,
    transform: Transform,
) -> list[Outputs]:
    """Returns the logits of each set of weights, in one pass over the images."""
    views = run.options.eval.tta
    step = make_views_step(graphdef, preprocess_fn=preprocess_fn, views=views)
    corrupt = run.corrupt_counter(run.eval_source)

    def batches() -> Iterator[dict]:
        dataset = run.eval_batches(transform=with_views(transform, views))
        for batch in counted(dataset, len(dataset), "Evaluating"):
            check_batch(batch, num_classes=run.num_outputs)
            corrupt.update(batch)
            yield batch

    def side_by_side(images: jax.Array) -> jax.Array:
        return jnp.concatenate([step(*tree, images) for tree in weights], axis=-1)

    joined = collect_outputs(side_by_side, batches(), run.mesh)
    parts = np.split(joined.values, len(weights), axis=-1)
    return [dataclasses.replace(joined, values=values) for values in parts]


def _member_outputs(run: Run, member: Member) -> Outputs:
    """Returns the logits of a member for the classes of the run, in their order."""
    outputs = _outputs(
        run, member.graphdef, [member.weights], member.preprocess_fn, member.transform
    )[0]
    if member.order is None:
        return outputs
    return dataclasses.replace(outputs, values=outputs.values[:, np.array(member.order)])


def _real_scores(
    logits: np.ndarray, records: np.ndarray, real: list[frozenset[int]] | None
) -> dict[str, Any]:
    if real is None:
        return {}
    correct = real_correct(guesses_of(logits), records, real)
    if not len(correct):
        raise InputError(
            "ImageNet-ReaL has no right label for any image of the evaluation split; leave "
            "--config.eval.real_labels empty."
        )
    return {"real_accuracy": float(correct.mean()), "real_examples": len(correct)}


def _summary(weights: dict[str, Any]) -> str:
    numbers = {
        f"{name}/{key}": value
        for name, scores in weights.items()
        for key, value in (scores | (scores["calibration"] or {})).items()
        if isinstance(value, float)
    }
    return "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())


def _write(results: dict[str, Any], workdir: pathlib.Path) -> None:
    last = list(results["weights"].values())[-1]
    try:
        write_json(workdir / RESULTS_FILE, results)
        written = [RESULTS_FILE, plot_confusion(last, workdir / "confusion.png").name]
        if last["calibration"] is not None:
            written.append(plot_reliability(last["calibration"], workdir / "reliability.png").name)
    except OSError as error:
        raise cannot_write(workdir, error) from error
    logger.info("See %s in %s.", ", ".join(written), workdir)
