"""Everything about the newest checkpoint of a model that gives images several labels."""

import logging
import pathlib
from typing import Any

import jax
import numpy as np

from jaxvision.data.class_lists import readable
from jaxvision.evaluation.classifier import RESULTS_FILE
from jaxvision.evaluation.scores import MAX_MATRIX, NUM_PAIRS
from jaxvision.files import cannot_write, output_path, write_json
from jaxvision.metrics.multi_label import (
    average_precision,
    best_thresholds,
    confused_pairs,
    count_outcomes,
    cross_entropy,
    f1_scores,
    multi_label_scores,
    sigmoid,
)
from jaxvision.tasks.multi_label import MultiLabel, collect_logits
from jaxvision.train.loop import restore_run
from jaxvision.train.run import Run

logger = logging.getLogger(__name__)


def evaluate_label_sets(run: Run, task: MultiLabel, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run and writes `evaluation.json` into its folder.

    The thresholds are those that the run has kept in `thresholds.json`; while there are none, those
    that fit this split best.

    Args:
      run: Run of `make_run`.
      task: Task of the run.
      workdir: Folder of the run.

    Returns:
      The content of the file; in other processes than the first, nothing.

    Raises:
      InputError: if the folder holds no checkpoint, or one of another model.
    """
    state, step = restore_run(run, workdir)
    logits, labels = collect_logits(run, run.weights_of(state))
    if jax.process_index() > 0:
        return {}
    weights = {
        name: label_set_scores(values, labels, task.class_names, task.thresholds)
        for name, values in logits.items()
    }
    results = {
        "step": step,
        "path": run.options.data.path,
        "split": run.options.data.eval_split,
        "image_size": run.options.data.image_size,
        "examples": len(labels),
        "thresholds": "of the run" if task.thresholds else "of this split",
        "weights": weights,
    }
    numbers = (
        f"{name}/{key} {value:.4f}"
        for name, scores in weights.items()
        for key, value in scores.items()
        if isinstance(value, float)
    )
    logger.info("Step %d: %s", step, "  ".join(numbers))
    workdir = output_path(workdir)
    try:
        write_json(workdir / RESULTS_FILE, results)
    except OSError as error:
        raise cannot_write(workdir, error) from error
    logger.info("See %s in %s.", RESULTS_FILE, workdir)
    return results


def label_set_scores(
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    thresholds: tuple[float, ...] = (),
) -> dict[str, Any]:
    """Returns the metrics of an evaluation, with "classes" and "confusion".

    `classes` has a row for each class, at its threshold: average precision (None without any
    example), precision, recall, F1, the four counts and the number of images of which it is
    unknown. `confusion` says in how many images a class was missed while another was said wrongly:
    the matrix of up to 100 classes, missed by row, and the most common pairs.

    Args:
      logits: Logits of the images.
      labels: Label of each class of each image, below 0 where it is unknown.
      class_names: Names of the classes, by output.
      thresholds: Probability of each class from which on it is said; empty: those of best F1 here.
    """
    probabilities, names = sigmoid(logits), readable(class_names)
    at = np.array(thresholds or best_thresholds(probabilities, labels))
    said = probabilities >= at
    outcomes, each = count_outcomes(said, labels), f1_scores(said, labels)
    pairs = confused_pairs(said, labels)
    rows = []
    for i, name in enumerate(names):
        ap = average_precision(probabilities[:, i], labels[:, i])
        rows.append(
            {
                "class": name,
                "threshold": float(at[i]),
                "average_precision": None if np.isnan(ap) else ap,
                "precision": float(np.asarray(each["precision"])[i]),
                "recall": float(np.asarray(each["recall"])[i]),
                "f1": float(np.asarray(each["f1_by_class"])[i]),
                **{key: int(count[i]) for key, count in outcomes.items()},
                "unknown": int(np.sum(labels[:, i] < 0)),
            }
        )
    order = np.argsort(-pairs, axis=None, kind="stable")[:NUM_PAIRS]
    worst = zip(*np.unravel_index(order, pairs.shape), strict=True)
    return multi_label_scores(probabilities, labels, at) | {
        "loss": cross_entropy(logits, labels),
        "classes": rows,
        "confusion": {
            "matrix": pairs.tolist() if len(names) <= MAX_MATRIX else None,
            "most_confused": [
                {"missed": names[i], "said": names[j], "count": int(pairs[i, j])}
                for i, j in worst
                if pairs[i, j]
            ],
        },
    }
