import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from watching import watched

from jaxvision import terminal as terminal_module
from jaxvision.errors import InputError
from jaxvision.options.options import Options
from jaxvision.terminal import TimeLeft
from jaxvision.train import writer as writer_module
from jaxvision.train.writer import MetricWriter, read_metrics

TENSORBOARD = Options()  # whose log goes there
TRAIN = {"train/loss": 2.5, "train/images_per_second": 1234.5}


def steps(workdir):
    return [record["step"] for record in read_metrics(workdir)]


def write_steps(workdir, *which, **options):
    with MetricWriter(workdir, total_steps=100, **options) as writer:
        for step in which:
            writer.write(step, {"train/loss": float(step)})


def test_writes_one_json_object_a_line(tmp_path):
    with MetricWriter(tmp_path / "new", total_steps=10) as writer:
        writer.write(5, {"train/loss": jnp.float32(0.5), "train/skipped_steps": np.int32(2)})
        # There at once, before close.
        lines = (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()
        assert lines == ['{"step": 5, "train/loss": 0.5, "train/skipped_steps": 2.0}']
        writer.write(10, {"eval/loss": 0.25})
    assert read_metrics(tmp_path / "new")[1] == {"step": 10, "eval/loss": 0.25}
    assert sorted(os.listdir(tmp_path / "new")) == ["metrics.jsonl"]


def test_non_finite_values_are_valid_json(tmp_path):
    with MetricWriter(tmp_path, total_steps=10) as writer:
        writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": jnp.nan, "e": 1.0})

    def refuse(constant):
        raise AssertionError(constant)

    line = (tmp_path / "metrics.jsonl").read_text()
    values = json.loads(line, parse_constant=refuse)
    assert values == {"step": 1, "a": None, "b": None, "c": None, "d": None, "e": 1.0}


def test_resume_drops_what_came_after_the_checkpoint(tmp_path):
    write_steps(tmp_path, 10, 20, 30, 40)
    write_steps(tmp_path, 30, 50, resume_step=20)
    assert steps(tmp_path) == [10, 20, 30, 50]
    write_steps(tmp_path, 5, resume_step=0)  # killed before the first checkpoint
    assert steps(tmp_path) == [5]
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl"]  # nothing temporary is left


@pytest.mark.parametrize(
    "torn", ['{"step": 30, "train/lo', '{"step": 30, "train/loss": 3.0}', "{", "3"]
)
def test_resume_after_a_torn_last_line(tmp_path, torn):
    write_steps(tmp_path, 10, 20)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert steps(tmp_path)[:2] == [10, 20]
    write_steps(tmp_path, 30, resume_step=20)
    assert steps(tmp_path) == [10, 20, 30]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"Line 2 of .*metrics.jsonl is no JSON object"):
        read_metrics(tmp_path)


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="There is no .*metrics.jsonl"):
        read_metrics(tmp_path)


def test_a_failed_rewrite_keeps_the_old_file(tmp_path, monkeypatch):
    write_steps(tmp_path, 10, 20)

    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(writer_module.os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        write_steps(tmp_path, resume_step=10)
    assert steps(tmp_path) == [10, 20]


def test_a_killed_process_loses_nothing(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from jaxvision.options.options import Options\n"
        "from jaxvision.train.writer import MetricWriter\n"
        "start = int(sys.argv[2])\n"
        "writer = MetricWriter(\n"
        "    sys.argv[1], total_steps=9, resume_step=start, options=Options()\n"
        ")\n"
        "for step in range(int(sys.argv[2]) + 1, int(sys.argv[3]) + 1):\n"
        "    writer.write(step, {'train/loss': float(step)})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for start, end in ((0, 4), (2, 7)):
        arguments = [str(tmp_path), str(start), str(end)]
        done = subprocess.run([sys.executable, "-c", code, *arguments], timeout=120)
        assert done.returncode == -signal.SIGKILL
    expected = [(step, float(step)) for step in range(1, 8)]
    assert [(line["step"], line["train/loss"]) for line in read_metrics(tmp_path)] == expected
    assert events(tmp_path) == {"train/loss": expected}


def test_two_starts_in_one_second_keep_the_events_of_both(tmp_path):
    for start in range(3):
        with MetricWriter(
            tmp_path, total_steps=9, resume_step=start, options=TENSORBOARD
        ) as writer:
            writer.write(start + 1, {"train/loss": 1.0})
    assert events(tmp_path) == {"train/loss": [(1, 1.0), (2, 1.0), (3, 1.0)]}


def test_a_full_disk_is_said_and_loses_no_line(tmp_path, caplog):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricWriter(tmp_path, total_steps=9, options=TENSORBOARD) as writer:
        writer.write(1, {"train/loss": 1.0})
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))  # in the middle of the next line
        try:
            writer.write(2, {"train/loss": 2.0})
            writer.write(3, {"train/loss": 3.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (tmp_path / "metrics.jsonl").stat().st_size == 40
        assert steps(tmp_path) == [1]
        writer.write(4, {"train/loss": 4.0})
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert caplog.text.count("metrics.jsonl cannot be written: File too large") == 2
    assert caplog.text.count("TensorBoard's record of the run ends here: File too large") == 1


def test_disabled_does_nothing(tmp_path):
    with MetricWriter(tmp_path / "run", total_steps=10, enabled=False) as writer:
        writer.write(1, TRAIN)
    assert not (tmp_path / "run").exists()


def test_a_line_separator_in_a_value_ends_no_line(tmp_path):
    lines = ['{"step": 1, "note": "a\u2028b"}', '{"step": 2}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


def test_closing_twice_is_fine(tmp_path):
    writer = MetricWriter(tmp_path, total_steps=10)
    writer.close()
    writer.close()


def events(workdir):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(workdir))
    reader.Reload()
    return {
        tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]
    }


def test_tensorboard_reads_the_events(tmp_path):
    with MetricWriter(tmp_path, total_steps=10, options=TENSORBOARD) as writer:
        writer.write(5, {"train/loss": 0.5})
        writer.write(10, {"train/loss": 0.25, "eval/accuracy": 0.75})
    assert events(tmp_path) == {
        "train/loss": [(5, 0.5), (10, 0.25)],
        "eval/accuracy": [(10, 0.75)],
    }


def test_tensorboard_forgets_what_came_after_the_checkpoint(tmp_path):
    for resume_step, written in ((0, (10, 20, 30, 40)), (20, (30, 50))):
        with MetricWriter(
            tmp_path, total_steps=100, resume_step=resume_step, options=TENSORBOARD
        ) as writer:
            for step in written:
                writer.write(step, {"train/loss": step + resume_step})
    assert events(tmp_path) == {"train/loss": [(10, 10.0), (20, 20.0), (30, 50.0), (50, 70.0)]}


def test_log_lines_tell_the_progress(tmp_path, caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(writer_module.time, "monotonic", lambda: now[0])
    with (
        caplog.at_level(logging.INFO, logger="jaxvision"),
        MetricWriter(tmp_path, total_steps=1000, resume_step=100) as writer,
    ):
        now[0] = 50.0
        writer.write(110, TRAIN)  # with compilation: nobody can tell yet
        now[0] = 60.0
        writer.write(120, TRAIN)  # 10 steps in 10 s: 880 s
        writer.write(120, {"eval/loss": 1.5, "eval/accuracy": 0.625})
    assert [record.message for record in caplog.records] == [
        "step 110/1000: loss 2.5, images/s 1,234.5",
        "step 120/1000: loss 2.5, images/s 1,234.5, 0:14:40 left",
        "step 120/1000: eval/loss 1.5, eval/accuracy 0.625",
    ]


def test_a_line_tells_loss_and_accuracy(tmp_path, caplog):
    with (
        caplog.at_level(logging.INFO, logger="jaxvision"),
        MetricWriter(tmp_path, total_steps=20) as writer,
    ):
        writer.write(1, TRAIN | {"train/accuracy": 0.5, "train/learning_rate": 0.1})
        writer.write(2, {"train/loss": 2.0, "train/token_accuracy": 0.25})
    assert [record.message for record in caplog.records] == [
        "step 1/20: loss 2.5, accuracy 0.5, images/s 1,234.5",
        "step 2/20: loss 2, token accuracy 0.25, 0:00:00 left",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_line_of_an_epoch(tmp_path, caplog, monkeypatch, terminal):
    if terminal:
        watched(monkeypatch)
    options = {"batch_size": 8, "steps_per_epoch": 10.5, "best_metric": "eval/accuracy"}
    with (
        caplog.at_level(logging.INFO, logger="jaxvision"),
        MetricWriter(tmp_path, total_steps=24, **options) as writer,
    ):
        writer.write_epoch(10, {"loss": 3.0, "accuracy": 0.125}, {})  # the first one compiled
        writer.write(21, TRAIN)
        writer.write_epoch(21, {"loss": 2.0}, {"eval/accuracy": 0.625, "eval/loss": 1.0})
        writer.write_epoch(24, {"loss": 1.0}, {"eval/loss": 1.0})
    lines = [record.message for record in caplog.records if record.message.startswith("epoch")]
    assert lines == [
        "epoch 1/2.29: loss 3, accuracy 0.125, 80 images seen",
        "epoch 2/2.29: loss 2, eval accuracy 0.625, 1,234 images/s, 168 images seen",
        "epoch 2.286/2.29: loss 1, 1,234 images/s, 192 images seen",
    ]


STEP = {"loss": jnp.float32(2.5), "accuracy": jnp.float32(0.5), "learning_rate": jnp.float32(0.01)}


def test_a_terminal_gets_a_bar_that_moves_at_every_step(tmp_path, caplog, monkeypatch):
    terminal = watched(monkeypatch)
    monkeypatch.setattr(writer_module, "_FETCH_SECONDS", -1.0)
    options = {"resume_step": 50, "steps_per_epoch": 40.0}
    with (
        caplog.at_level(logging.INFO, logger="jaxvision"),
        MetricWriter(tmp_path, total_steps=100, **options) as writer,
    ):
        assert terminal.lines()[0].startswith("|#####     | 50/100  epoch 1.25/2.5  0:00:0")
        lines = []
        for step in range(51, 61):
            writer.show(step, STEP)
            lines.append(writer._bar())
        assert all(
            f"| {step}/100  " in line for step, line in zip(range(51, 61), lines, strict=True)
        )
        assert "epoch 1.50/2.5  loss 2.5  accuracy 0.5  rate 0.01  " in lines[-1]
        writer.write(60, TRAIN)
        assert "1,234 images/s" in writer._bar() and not caplog.records
        writer.write(60, {"eval/accuracy": 0.625})  # a line that stays
        assert [x.message for x in caplog.records] == ["step 60/100: eval/accuracy 0.625"]
    assert terminal.text.endswith("\r\033[K")


def test_a_metric_is_fetched_now_and_then_and_never_without_a_terminal(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(writer_module.jax, "device_get", fetched.append)
    with MetricWriter(tmp_path, total_steps=100) as writer:
        for step in range(1, 50):
            writer.show(step, STEP)
    assert not fetched


def test_the_time_left_never_counts_a_compilation(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal_module.time, "monotonic", lambda: now[0])
    left = TimeLeft(1000)
    for step, time, text in (
        (1, 60.0, ""),  # compiled
        (2, 61.0, "0:16:38 left"),
        (3, 62.0, "0:16:37 left"),
        (2, 62.5, "0:16:38 left"),  # the devices lag behind what is written
    ):
        now[0] = time
        left.mark(step)
        assert left.text(step) == text
    left.leave_out()  # the first evaluation compiles
    now[0] = 600.0
    left.mark(4)
    assert left.text(4) == "0:16:36 left"
    now[0] = 602.0
    left.mark(5)
    assert left.text(5) == "0:22:07 left"  # 4 s of 3 steps


def test_only_the_first_evaluation_is_left_out_of_the_time(tmp_path, caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal_module.time, "monotonic", lambda: now[0])
    with (
        caplog.at_level(logging.INFO, logger="jaxvision"),
        MetricWriter(tmp_path, total_steps=1000) as writer,
    ):
        for time, step in ((100, 100), (200, 200), (1000, 0), (1001, 201), (1101, 301), (1201, 0)):
            now[0] = time
            writer.write(step or 301, TRAIN if step else {"eval/loss": 1.0})
        now[0] = 1202
        writer.write(302, TRAIN)
    texts = [record.message.rpartition(", ")[2] for record in caplog.records]
    assert texts[1] == texts[3].replace("13:19", "13:20") == "0:13:20 left"  # 1 s a step
    assert texts[4] == "0:11:39 left" and texts[6] == "0:17:25 left"  # 301 s for 201 steps
