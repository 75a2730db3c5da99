"""A run that starts from other weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from opening import make_run, train
from train import helpers

import jaxvision as jv
from configs import smoke
from jaxvision.errors import InputError
from jaxvision.models.airbench import whitening_kernel
from jaxvision.train.init_from import load_initial, start_from
from jaxvision.train.state import create_state


def config(**options):
    config = smoke.get_config()
    config.schedule.warmup_steps = 1
    with config.unlocked():
        config.update_from_flattened_dict({"total_steps": 2, "mesh.data": 1} | options)
    return config


def new_state(run):
    return create_state(
        run.build, run.optimizer.tx, seed=run.options.seed, abstract=run.abstract_state
    )


def test_starts_from_a_file_and_keeps_its_own_head(tmp_path):
    run = make_run(config())
    other = run.build(nnx.Rngs(7))
    path = tmp_path / "weights.safetensors"
    jv.save_weights(other, path)
    wanted = nnx.to_pure_dict(nnx.state(other, nnx.Param))

    state = new_state(run)
    started = start_from(state, load_initial(run.build, str(path), seed=0))
    helpers.assert_equal(started.params, wanted)
    helpers.assert_equal(started.ema_params, wanted)
    assert started.params["head"]["kernel"].sharding == state.params["head"]["kernel"].sharding

    more = make_run(config(**{"model.num_classes": 1000}))
    started = start_from(new_state(more), load_initial(more.build, str(path), seed=0))
    helpers.assert_equal(started.params["blocks"], wanted["blocks"])
    ours, fresh = (state.params["head"]["kernel"] for state in (started, new_state(more)))
    np.testing.assert_allclose(ours, fresh, atol=1e-7)  # compiled apart


def test_a_run_that_starts_from_a_run_goes_on_without_it(tmp_path):
    first = train(config(), tmp_path / "first")
    started = config(**{"model.init_from": str(tmp_path / "first"), "optimizer.learning_rate": 0.0})
    second = train(started, tmp_path / "second")
    # A run with averaged weights gives those.
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6),
        second.params,
        first.ema_params,
    )
    (tmp_path / "first").rename(tmp_path / "gone")
    helpers.assert_equal(second, train(started, tmp_path / "second"))


def test_weights_that_do_not_fit_leave_no_folder(tmp_path):
    path = tmp_path / "weights.safetensors"
    jv.save_weights(jv.create_model("vit_ti16", num_classes=3, rngs=nnx.Rngs(0)), path)
    with pytest.raises(
        InputError, match=r"config.model.init_from: .* holds a deit_ti16 \(or vit_ti16\)"
    ):
        train(config(**{"model.init_from": str(path)}), tmp_path / "run")
    with pytest.raises(InputError, match=r"config.model.init_from: .*nowhere.pth"):
        train(config(**{"model.init_from": "nowhere.pth"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_new_run_whitens_its_training_images(tmp_path):
    """And one that starts from weights, or goes on, keeps those."""
    options = {
        "model.name": "airbench94",
        "model.kwargs": {"stage_widths": (8,)},
        "optimizer.learning_rate": 0.0,
    }
    run = make_run(config(**options))
    images = np.stack([run.eval_transform(x["image"], None) for x in run.train_source])
    expected = whitening_kernel(np.asarray(run.preprocess_fn(jnp.asarray(images))), 2, 5e-4)
    state = train(config(**options), tmp_path / "run")
    kernel = np.asarray(state.params["stem"]["kernel"])
    np.testing.assert_allclose(kernel, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state.ema_params["stem"]["kernel"], kernel, rtol=1e-6)
    path = tmp_path / "weights.npz"
    other = jv.create_model("airbench94", num_classes=8, stage_widths=(8,), rngs=nnx.Rngs(1))
    other.stem.kernel[...] = 2 * other.stem.kernel[...]
    jv.save_weights(other, path, format="jaxvision")
    started = make_run(config(**options, **{"model.init_from": str(path)})).initial_weights()
    np.testing.assert_array_equal(started[0]["stem"]["kernel"], other.stem.kernel[...])
