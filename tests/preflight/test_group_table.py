"""The table of parameter groups."""

import jax
import pytest
from opening import make_run, train

from configs import smoke
from jaxvision.errors import InputError
from jaxvision.preflight.group_table import group_table
from jaxvision.train.state import count_params


def config(**options):
    config = smoke.get_config()
    config.schedule.warmup_steps = 1
    with config.unlocked():
        config.update_from_flattened_dict({"total_steps": 4, "mesh.data": 1} | options)
    return config


def per_step(config, updates):
    """Returns the epoch after a number of updates."""
    return updates * config.batch_size / config.data.shapes.num_train


def timetable(**options):
    result = config(**{"optimizer.preset": "head"} | options)
    result.optimizer.unfreeze = ((per_step(result, 2), "late"),)
    return result


def test_every_parameter_is_in_one_row():
    run = make_run(timetable())
    rows = [line.split("  ") for line in group_table(run).splitlines()[1:]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    counts = [int(row[1].replace(",", "")) for row in cells]
    assert sum(counts) == count_params(run.abstract_state.params)
    frozen = [row for row in cells if row[2] == "frozen"]
    assert frozen and all(row[3] == "0.0 MiB" for row in frozen)
    assert {row[4] for row in cells if row[2] != "frozen"} == {"0", "2"}


def test_a_run_with_a_timetable_stops_and_goes_on_bit_for_bit(tmp_path):
    whole = train(timetable(), tmp_path / "whole")
    interrupted = timetable(**{"checkpoint.every_steps": 3})
    train(interrupted, tmp_path / "parts")
    for folder in (tmp_path / "parts" / "checkpoints").iterdir():
        if folder.name == "4":
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()
    again = train(interrupted, tmp_path / "parts")
    for a, b in zip(*(jax.tree.leaves(state.params) for state in (whole, again)), strict=True):
        assert (jax.device_get(a) == jax.device_get(b)).all()


@pytest.mark.parametrize("entry", [(0, "late"), (1e9, "late"), ("x", "late"), (1, "("), 3])
def test_wrong_timetables(entry):
    wrong = config(**{"optimizer.preset": "head"})
    wrong.optimizer.unfreeze = (entry,)
    with pytest.raises(InputError, match="optimizer.unfreeze must be .epoch inside the run"):
        make_run(wrong)
