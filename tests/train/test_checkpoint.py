import json
import logging
import resource
import shutil

import jax
import numpy as np
import pytest
from train import helpers

from jaxvision.errors import InputError, RunError
from jaxvision.train.checkpoint import Checkpointer
from jaxvision.train.optim.weight_average import Ema
from jaxvision.train.sharding import make_mesh, put_batch
from jaxvision.train.state import abstract_state

POSITION = {"next": 16}


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def test_round_trip_is_bitwise_while_the_next_step_donates(tmp_path):
    state, step, mesh, _ = helpers.make(build=helpers.build_resnet, average=Ema(0.9))
    state, _ = step(state, put_batch(helpers.batch(0), mesh))
    expected = jax.tree.map(lambda x: x.copy(), state)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state, {"next": 16}, {"eval/accuracy": 0.5})
    state, _ = step(state, put_batch(helpers.batch(1), mesh))
    restored, data, number = checkpointer.restore(abstract(state))
    checkpointer.close()
    assert (data, number) == ({"next": 16}, 1)
    helpers.assert_equal(restored, expected)


def test_keeps_latest_and_best_and_knows_them_after_reopening(tmp_path):
    state, *_ = helpers.make()
    checkpointer = Checkpointer(tmp_path, keep=1)
    for number, accuracy in [(1, 0.1), (2, 0.9), (3, None), (4, 0.3), (5, None)]:
        metrics = None if accuracy is None else {"eval/accuracy": accuracy}
        checkpointer.save(number, state, POSITION, metrics)
    checkpointer.close()
    checkpointer = Checkpointer(tmp_path, keep=1)
    assert checkpointer.steps == [2, 5]
    assert (checkpointer.latest_step, checkpointer.best_step) == (5, 2)
    checkpointer.save(6, state, POSITION, {"eval/accuracy": 0.8})
    checkpointer.close()
    assert Checkpointer(tmp_path).steps == [2, 6]


def test_names_on_disk_do_not_depend_on_scan_and_load_into_the_other(tmp_path):
    names = {}
    states = {}
    for scan in (True, False):
        build = lambda rngs, scan=scan: helpers.build_vit(rngs, scan=scan)  # noqa: E731
        state, *_ = helpers.make(build=build)
        states[scan] = state
        checkpointer = Checkpointer(tmp_path / str(scan))
        checkpointer.save(1, state, POSITION)
        checkpointer.close()
        metadata = (tmp_path / str(scan) / "1" / "state" / "_METADATA").read_text()
        names[scan] = sorted(json.loads(metadata)["tree_metadata"])
    assert names[True] == names[False]
    assert any("'blocks', '1', 'attn'" in name for name in names[True])
    for here, there in ((True, False), (False, True)):
        checkpointer = Checkpointer(tmp_path / str(there))
        restored, _, _ = checkpointer.restore(abstract(states[here]))
        checkpointer.close()
        helpers.assert_equal(restored, states[here])


def test_restores_onto_another_mesh(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxvision.train.sharding.MIN_FSDP_SIZE", 1)
    state, *_ = helpers.make()
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state, POSITION)
    target = abstract_state(
        helpers.build_vit,
        helpers.optax.adamw(helpers.optax.constant_schedule(1e-2)),
        mesh=make_mesh(data=2, fsdp=4),
    )
    restored, _, _ = checkpointer.restore(target)
    checkpointer.close()
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(
        lambda x: x.sharding, target
    )
    for a, b in zip(helpers.leaves(restored), helpers.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_damaged_newest_falls_back_loudly(tmp_path, caplog):
    state, step, mesh, _ = helpers.make()
    checkpointer = Checkpointer(tmp_path, keep=2)
    expected = jax.tree.map(lambda x: x.copy(), state)
    checkpointer.save(1, state, POSITION)
    state, _ = step(state, put_batch(helpers.batch(0), mesh))
    checkpointer.save(2, state, POSITION)
    checkpointer.close()
    for path in (tmp_path / "2" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(b"\0" * path.stat().st_size)
    checkpointer = Checkpointer(tmp_path, keep=2)
    with caplog.at_level(logging.ERROR):
        restored, _, number = checkpointer.restore(abstract(state))
    assert number == 1 and "step 2 cannot be read" in caplog.text
    helpers.assert_equal(restored, expected)
    assert (tmp_path / "2.damaged").is_dir()
    checkpointer.save(2, state, POSITION)  # the same step, computed again
    checkpointer.close()
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(abstract(state))[2] == 2


def test_full_disk_is_reported_and_training_goes_on(tmp_path, caplog):
    state, *_ = helpers.make(build=lambda rngs: helpers.build_vit(rngs, width=128))
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state, POSITION)
    checkpointer.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond 8 KiB: to the writer the same as a disk that is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with caplog.at_level(logging.ERROR):
            checkpointer.save(2, state, POSITION)
            checkpointer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpointer.failures == 1 and "step 2 could not be saved" in caplog.text
    assert checkpointer.steps == [1]
    checkpointer.save(3, state, POSITION)
    checkpointer.close()
    assert checkpointer.failures == 1
    assert Checkpointer(tmp_path).steps == [3]


def test_a_reader_leaves_the_save_in_flight_of_the_run_alone(tmp_path):
    state, *_ = helpers.make()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, POSITION)
    in_flight = tmp_path / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "1", in_flight)
    with Checkpointer(tmp_path, read_only=True) as reader:
        assert reader.restore(abstract(state))[2] == 1
    assert in_flight.is_dir()
    with Checkpointer(tmp_path) as checkpointer:  # the run itself, started again, cleans up
        checkpointer.save(3, state, POSITION)  # in the background, done before its first save
    assert not in_flight.exists()


@pytest.mark.parametrize("renamed", [True, False])
def test_a_folder_that_is_gone_is_noticed_at_the_next_save(tmp_path, renamed):
    state, *_ = helpers.make()
    folder = tmp_path / "run" / "checkpoints"
    with (
        pytest.raises(RunError, match="run/checkpoints is not the folder any more") as error,
        Checkpointer(folder) as checkpointer,
    ):
        checkpointer.save(1, state, POSITION)
        checkpointer.wait()
        if renamed:
            (tmp_path / "run").rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(tmp_path / "run")
        checkpointer.save(2, state, POSITION)
    assert "the same command resumes" in str(error.value)
    assert not folder.exists()


def test_a_copy_under_another_number_is_refused(tmp_path):
    state, *_ = helpers.make()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state, POSITION)
    shutil.copytree(tmp_path / "1", tmp_path / "20")
    for read_only in (True, False):
        with Checkpointer(tmp_path, read_only=read_only) as checkpointer:
            with pytest.raises(InputError, match="/20 holds the checkpoint of step 1, copied"):
                checkpointer.restore(abstract(state))
            assert checkpointer.restore(abstract(state), step=1)[1:] == (POSITION, 1)


def test_what_is_left_of_a_deleted_checkpoint_is_none(tmp_path):
    state, *_ = helpers.make()
    with Checkpointer(tmp_path, keep=3) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, state, POSITION)
    (tmp_path / "1").rename(tmp_path / "1.deleted")  # by us, and killed before it was gone
    (tmp_path / "3" / "state" / "manifest.ocdbt").unlink()  # by others
    with Checkpointer(tmp_path, read_only=True) as reader:
        assert reader.steps == [2] and reader.restore(abstract(state))[2] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"1.deleted", "2", "3"}
    with Checkpointer(tmp_path) as checkpointer:
        assert {path.name for path in tmp_path.iterdir()} == {"2", "3.damaged"}
        checkpointer.save(3, state, POSITION)
    assert {path.name for path in tmp_path.iterdir()} == {"3", "3.damaged"}


def test_nothing_to_restore(tmp_path):
    state, *_ = helpers.make()
    with pytest.raises(InputError, match="No readable checkpoint"):
        Checkpointer(tmp_path).restore(abstract(state))
