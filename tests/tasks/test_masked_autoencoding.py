import json

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx
from opening import make_run, train, write_report

import jaxvision as jv
from configs import mae_vit_b16, smoke
from jaxvision.errors import InputError
from jaxvision.evaluation.embed import open_encoder
from jaxvision.tasks.masked_autoencoding import noise_of
from jaxvision.tasks.sums import evaluate_sums
from jaxvision.train.state import create_state

TINY = {
    "width": 32,
    "depth": 1,
    "num_heads": 2,
    "patch_size": 4,
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
}


def config(**options):
    config = smoke.get_config()
    card = mae_vit_b16.get_config("shapes")
    with config.unlocked():
        config.task, config.model.name = card.task, card.model.name
        config.model.kwargs = TINY
        config.checkpoint.best_metric = "eval/loss"
        config.augment.mixup_alpha = config.augment.cutmix_alpha = 0.0
    flat = {"data.image_size": 16, "total_steps": 4, "schedule.warmup_steps": 1, **options}
    config.update_from_flattened_dict(flat)
    return config.lock()


def test_a_run_learns_goes_on_and_draws(tmp_path):
    state = train(config(), tmp_path)
    write_report(config(), state, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.isfinite(losses).all()
    assert any("eval/loss" in line for line in lines)
    picture = PIL.Image.open(tmp_path / "reconstructions.png")
    assert picture.width > picture.height
    # The encoder goes on under the names of a Vision Transformer, and the commands take the run.
    options = {name: TINY[name] for name in ("width", "depth", "num_heads", "patch_size")}
    vit = jv.create_model("vit_ti16", num_classes=3, image_size=16, rngs=nnx.Rngs(0), **options)
    report = jv.load_weights(vit, tmp_path)
    assert "decoder/mask_token" in report.left_out and set(report.adapted) == {"head"}
    trained = open_encoder(str(tmp_path))
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 16, 16, 3)), jnp.float32)
    np.testing.assert_array_equal(vit.features(images), trained.model.features(images))
    assert trained.model(images).shape == (2, 32)


def test_an_evaluation_masks_the_same_in_batches_of_any_size():
    found = []
    for size in (48, 7):
        run = make_run(config(eval_batch_size=size))
        state = create_state(run.build, run.optimizer.tx, seed=0, abstract=run.abstract_state)
        weights = {"eval": run.weights_of(state)["eval"]}
        found.append(
            evaluate_sums(run.eval_step(), weights, run.eval_device_batches())["eval/loss"]
        )
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_labels_are_not_used(tmp_path):
    """A share of the training split is held out as for classifiers, and no label is in a batch."""
    run = make_run(config(**{"data.eval_split": "25%"}))
    assert 0.15 < len(run.eval_source) / (len(run.eval_source) + len(run.train_source)) < 0.35
    batch = next(iter(run.eval_batches()))
    assert "label" not in batch and run.num_outputs == 0


def test_noise_differs_from_image_to_image():
    images = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8, 8, 3)), jnp.float32)
    noise = noise_of(images, 16)
    assert len({row.tobytes() for row in np.asarray(noise)}) == 4
    np.testing.assert_array_equal(noise_of(images[2:3], 16), noise[2:3])


@pytest.mark.parametrize(
    "option, words",
    [
        ({"augment.mixup_alpha": 0.2}, "learns from images as they are"),
        ({"loss.label_smoothing": 0.1}, "has a loss of its own"),
        ({"distill.teacher_weights": "runs/a"}, "has a loss of its own"),
        ({"eval.tta": "flip"}, "are for --config.task=classification, got 'masked"),
        ({"data.sampling": "balanced"}, "sampling=balanced is for"),
        ({"model.kwargs": {"mask_ratio": 0.999}}, "leaves 0 of"),
        ({"model.name": "vit_ti16", "model.kwargs": {}}, "not for --config.task=masked"),
    ],
)
def test_what_cannot_be_is_refused(option, words):
    with pytest.raises(InputError, match=words):
        with_option = config()
        with with_option.unlocked():
            for name, value in option.items():
                with_option.update_from_flattened_dict({name: value})
                if name == "model.kwargs":
                    with_option.model.kwargs = value
        make_run(with_option)
