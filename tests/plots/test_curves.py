import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxvision.errors import InputError
from jaxvision.plots.curves import plot_curves


def draw(workdir, records, tail=""):
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (workdir / "metrics.jsonl").write_text(lines + tail)
    path = plot_curves(workdir)
    assert path == workdir / "curves.png"
    assert np.asarray(Image.open(path).convert("L")).std() > 5  # not a blank page


def train(step, **values):
    rates = {"train/learning_rate": 0.1, "train/images_per_second": 100.0}
    return {"step": step, "train/loss": 5.0 - step / 100} | rates | values


def evaluation(step):
    accuracies = {"eval/accuracy": 0.5, "eval_ema/accuracy": 0.6}
    return {"step": step, "eval/loss": 2.0, "eval_ema/loss": 1.5} | accuracies


def texts(axes):
    return [text.get_text() for text in axes.texts]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_every_series_is_drawn(tmp_path, figures):
    records = [train(10), train(20), evaluation(20), train(30), train(40), evaluation(40)]
    draw(tmp_path, records)
    loss, accuracy, rate, speed = figures[0].axes
    assert legend(loss) == ["train", "eval", "eval, averaged weights"]
    assert legend(accuracy) == ["eval", "eval, averaged weights"]
    np.testing.assert_allclose(
        loss.lines[0].get_xydata(), [(s, 5 - s / 100) for s in (10, 20, 30, 40)]
    )
    np.testing.assert_allclose(accuracy.lines[1].get_xydata(), [(20, 0.6), (40, 0.6)])
    for axes, title in zip(
        (loss, accuracy, rate, speed),
        ("Loss", "Accuracy", "Learning rate", "Throughput"),
        strict=True,
    ):
        assert axes.get_title(loc="left") == title
        assert axes.get_xlabel() == "step" and axes.get_ylabel()
        assert not texts(axes)


def test_a_captioner_has_cider_in_the_place_of_accuracy(tmp_path, figures):
    evaluated = {"eval/cider": 0.5, "eval_ema/cider": 0.75, "eval/token_accuracy": 0.25}
    words = {"train/token_accuracy": 0.25}
    draw(tmp_path, [train(10, **words), evaluation(20) | evaluated])  # both: a task of one's own
    assert figures[0].axes[1].get_title(loc="left") == "Accuracy"
    draw(tmp_path, [train(10, **words), {"step": 20, "eval/loss": 2.0} | evaluated])
    panel = figures[1].axes[1]
    assert panel.get_title(loc="left") == "CIDEr of the captions" and not texts(panel)
    assert [line.get_ydata().tolist() for line in panel.lines] == [[0.5], [0.75]]
    draw(tmp_path, [train(10, **words)])  # before the first evaluation
    panel = figures[2].axes[1]
    assert panel.get_title(loc="left") == "Accuracy of the words" and not texts(panel)


def test_missing_series_and_a_single_point(tmp_path, figures):
    draw(tmp_path, [{"step": 5, "train/loss": 1.0}], tail='{"step": 6, "tr')
    loss, *others = figures[0].axes
    assert loss.lines[0].get_marker() == "o"  # a line through one point is invisible
    assert [texts(axes) for axes in others] == [["no data"]] * 3


def test_values_that_were_not_finite_leave_a_gap(tmp_path, figures):
    draw(tmp_path, [train(1), train(2, **{"train/loss": None}), train(3)])
    np.testing.assert_array_equal(np.isnan(figures[0].axes[0].lines[0].get_ydata()), [0, 1, 0])
    draw(tmp_path, [{"step": 1, "train/loss": None}])
    assert texts(figures[1].axes[0]) == ["no data"]


def test_long_noisy_series_get_a_running_mean(tmp_path, figures):
    rng = np.random.default_rng(0)
    losses = 3 + rng.normal(size=1000)
    draw(tmp_path, [train(i, **{"train/loss": x}) for i, x in enumerate(losses)])
    raw, smooth = figures[0].axes[0].lines
    np.testing.assert_allclose(raw.get_ydata(), losses)
    np.testing.assert_allclose(smooth.get_ydata()[500], losses[490:511].mean())
    np.testing.assert_allclose(smooth.get_ydata()[0], losses[:11].mean())
    assert len(figures[0].axes[2].lines) == 1  # the learning rate is exact


def test_no_run_and_an_empty_one(tmp_path):
    with pytest.raises(InputError, match="There is no"):
        plot_curves(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(InputError, match="There are no metrics in .* yet"):
        plot_curves(tmp_path)


def test_matplotlib_is_imported_only_to_draw():
    code = (
        "import sys, jaxvision.plots.curves, jaxvision.plots.prediction_grid\n"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
