import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from opening import make_run, train, write_report

from configs import clip_shapes
from jaxvision.errors import InputError
from jaxvision.evaluation.zero_shot import evaluate_zero_shot, open_image_text, open_labelled
from jaxvision.metrics.image_text import own_text_first, sigmoid_contrast, softmax_contrast
from jaxvision.metrics.retrieval import contrast_loss, recall
from jaxvision.train.sharding import batch_sharding, make_mesh
from jaxvision.train.state import create_state

TINY = {
    "width": 16,
    "depth": 1,
    "num_heads": 2,
    "embed_width": 16,
    "encoder": "vit_ti16",
    "encoder_options": {"width": 16, "depth": 1, "num_heads": 2, "patch_size": 8},
}


def config(loss="softmax", **options):
    config = clip_shapes.get_config(loss)
    with config.unlocked():
        config.model.kwargs = TINY | {"loss": loss}
    flat = {
        "data.image_size": 16,
        "data.num_threads": 2,
        "data.shapes.num_train": 64,
        "data.shapes.num_eval": 20,
        "batch_size": 16,
        "eval_batch_size": 16,
        "total_steps": 4,
        "schedule.warmup_steps": 1,
        "checkpoint.every_steps": 2,
        "eval.every_steps": 4,
        "log.every_steps": 1,
        **options,
    }
    config.update_from_flattened_dict(flat)
    return config.lock()


# --- losses -------------------------------------------------------------------------------------


def pairs(count=24, seed=0):
    rng = np.random.default_rng(seed)
    images, texts = rng.standard_normal((2, count, 8)).astype(np.float32)
    norm = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    return norm(images), norm(texts)


LOSSES = {"softmax": (softmax_contrast, None), "sigmoid": (sigmoid_contrast, -3.0)}


@pytest.mark.parametrize("kind", LOSSES)
def test_what_does_not_count_is_not_there(kind):
    loss, bias = LOSSES[kind]
    images, texts = pairs()
    valid = np.arange(24) % 3 > 0
    logits = 7.0 * images @ texts.T + (bias or 0.0)
    few = jnp.asarray(logits[valid][:, valid])
    broken = np.where(valid[:, None] & valid[None], logits, np.nan)
    want = loss(few, jnp.ones(len(few), bool))
    np.testing.assert_allclose(loss(jnp.asarray(broken), jnp.asarray(valid)), want, rtol=1e-6)
    grads = jax.grad(loss)(jnp.asarray(logits), jnp.asarray(valid))
    assert np.isfinite(grads).all() and not grads[~valid].any() and not grads[:, ~valid].any()
    # The loss of an evaluation is that of one batch of all pairs.
    whole = contrast_loss(images[valid], texts[valid], scale=7.0, bias=bias)
    np.testing.assert_allclose(whole, want, rtol=1e-5)
    best = own_text_first(jnp.asarray(logits), jnp.asarray(valid))
    assert best == np.mean(np.argmax(logits[valid][:, valid], 1) == np.arange(len(few)))


@pytest.mark.parametrize("kind", LOSSES)
def test_eight_devices_hold_their_rows_and_compute_the_same(kind):
    """The table of logits [256, 256] is split: no device holds more than its 32 rows."""
    loss, bias = LOSSES[kind]
    images, texts = pairs(256)

    def total(images, texts):
        logits = 7.0 * images @ texts.T + (bias or 0.0)
        return loss(logits, jnp.ones(len(images), bool))

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    split = batch_sharding(make_mesh())
    arrays = [jax.device_put(x, split) for x in (images, texts)]
    compiled = step.lower(*arrays).compile()
    assert "f32[256,256]" not in compiled.as_text() and "f32[32,256]" in compiled.as_text()
    one, grads = step(images, texts)
    many, split_grads = compiled(*arrays)
    np.testing.assert_allclose(many, one, rtol=1e-6)
    for ours, theirs in zip(split_grads, grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())


# --- retrieval ----------------------------------------------------------------------------------


def test_recall_against_torchmetrics_and_by_hand():
    torch = pytest.importorskip("torch")
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((13, 6)).astype(np.float32)
    counts = rng.integers(1, 6, 13)
    owners = np.repeat(np.arange(13), counts)
    texts = images[owners] + 1.5 * rng.standard_normal((len(owners), 6)).astype(np.float32)
    found = recall(images, texts, owners)
    similar = images @ texts.T
    own = owners[None] == np.arange(13)[:, None]
    for k in (1, 5, 10):
        for name, table, right in (("text", similar, own), ("image", similar.T, own.T)):
            metric = retrieval.RetrievalHitRate(top_k=k)
            rows = np.repeat(np.arange(len(table)), table.shape[1])
            metric.update(
                torch.from_numpy(table.ravel().copy()),
                torch.from_numpy(right.ravel().copy()),
                indexes=torch.from_numpy(rows),
            )
            assert found[f"{name}_r{k}"] == pytest.approx(float(metric.compute()), abs=1e-6)
            order = np.argsort(-table, axis=1)[:, :k]
            by_hand = np.mean(np.take_along_axis(right, order, axis=1).any(axis=1))
            assert found[f"{name}_r{k}"] == pytest.approx(by_hand)


def test_vectors_that_are_all_alike_find_nothing():
    ones = np.ones((20, 4), np.float32) / 2
    assert set(recall(ones, ones, np.arange(20)).values()) == {0.0}
    with pytest.raises(ValueError, match="must have a text"):
        recall(ones, ones[:19], np.arange(19))


# --- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    state = train(config(), folder)
    return folder, state


def test_a_run_is_evaluated_drawn_and_classifies(run, tmp_path, capsys):
    folder, state = run
    write_report(config(), state, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = {key: value for line in lines for key, value in line.items()}
    assert {"eval/text_r1", "eval/image_r10", "eval/loss", "train/accuracy", "train/scale"} <= set(
        last
    )
    assert last["eval/image_r10"] >= last["eval/image_r1"] and last["train/scale"] > 10.0
    assert (folder / "captions.png").exists()
    trained, vocabulary = open_image_text(str(folder))
    source = open_labelled(trained, str(folder), "shapes", "test", label_column="color")
    scores = evaluate_zero_shot(trained, vocabulary, source, templates=["a {} shape"], batch_size=7)
    assert scores["images"] == 20 and len(scores["classes"]) == 12

    # By hand, one image at a time.
    from jaxvision.train.input import make_preprocess

    pixels = trained.spec.preprocess
    preprocess = make_preprocess(mean=pixels.mean, std=pixels.std)
    texts = [f"a {name} shape" for name in source.class_names]
    length = trained.model.config.max_length
    tokens = jnp.asarray(np.stack([vocabulary.encode(text, length) for text in texts]))
    images = np.stack([np.asarray(source[i]["image"]) for i in range(20)])
    logits = jax.jit(lambda m, x, t: m(preprocess(x), t))(trained.model, images, tokens)
    labels = [source[i]["label"] for i in range(20)]
    assert scores["accuracy"] == pytest.approx(np.mean(np.argmax(np.asarray(logits), 1) == labels))


def test_retrieval_does_not_depend_on_the_batch_size(caplog):
    found = []
    for size in (16, 8):
        opened = make_run(config(eval_batch_size=size))
        state = create_state(
            opened.build, opened.optimizer.tx, seed=0, abstract=opened.abstract_state
        )
        weights = {"eval": (state.params, state.batch_stats)}
        evaluate = opened.evaluator()
        found.append(evaluate(weights))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        assert evaluate(weights) == found[1]
    assert "Compiling" not in caplog.text
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-5), name


def test_a_resumed_run_ends_with_the_same_bits(run, tmp_path):
    folder, whole = run
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")  # killed between the two
    resumed = train(config(), tmp_path / "run")
    for ours, theirs in zip(
        jax.tree.leaves(resumed.params), jax.tree.leaves(whole.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "option, words",
    [
        ({"accumulate_steps": 2}, "compared over the whole batch"),
        ({"batch_size": 1}, "tells each image from the others of a batch"),
        ({"augment.mixup_alpha": 0.2}, "cannot be mixed"),
        ({"loss.label_smoothing": 0.1}, "have a loss of their own"),
        ({"eval.tta": "flip"}, "are for --config.task=classification"),
        ({"model.name": "captioner"}, "not for --config.task=image_text"),
        ({"data.shapes.num_eval": 10**6}, "at most 10,000 test images"),
    ],
)
def test_what_cannot_be_is_refused(option, words):
    with pytest.raises(InputError, match=words):
        make_run(config(**option))
