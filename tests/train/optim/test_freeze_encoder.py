"""A frozen encoder keeps every bit, weight decay or not, and costs no optimizer state."""

import jax
import numpy as np
import pytest
from opening import make_run
from train import helpers
from train.test_captioning_run import TINY, config, fewer_captions  # noqa: F401

from jaxvision.errors import InputError
from jaxvision.preflight.group_table import group_table
from jaxvision.train.state import create_state

FROZEN = dict(TINY, freeze_encoder=True)


def test_encoder_keeps_every_bit_and_owns_no_state():
    run = make_run(config(model__kwargs=FROZEN, optimizer__weight_decay=0.5))
    abstract = run.abstract_state
    shapes = {x.shape for x in jax.tree.leaves(abstract.params["encoder"])}
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(abstract.opt_state)]
    assert shapes and not [path for path in paths if "encoder" in path]
    assert [path for path in paths if "decoder" in path]

    state = create_state(run.build, run.optimizer.tx, seed=0, abstract=abstract)
    before = jax.device_get((state.params, state.batch_stats))
    step, batches = run.train_step(), run.train_batches()
    for _ in range(3):
        state, _ = step(state, run.put(next(batches)))
    batches.close()
    after = jax.device_get((state.params, state.batch_stats))
    helpers.assert_equal(after[0]["encoder"], before[0]["encoder"])
    assert after[1].get("encoder") == before[1].get("encoder")
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves(after[0]["decoder"]), jax.tree.leaves(before[0]["decoder"]), strict=True
        )
    ]
    assert all(moved)
    assert "encoder, by freeze_encoder" in group_table(run)


@pytest.mark.parametrize("what", ["full", "^encoder/"])
def test_timetable_and_frozen_encoder_contradict_each_other(what):
    options = dict(optimizer__preset="head") if what == "full" else {}
    rules = (("^encoder/", {"frozen": True}),) if what != "full" else ()
    with pytest.raises(InputError, match="leave freeze_encoder out"):
        make_run(
            config(
                model__kwargs=FROZEN,
                optimizer__rules=rules,
                optimizer__unfreeze=((0.5, what),),
                **options,
            )
        )
