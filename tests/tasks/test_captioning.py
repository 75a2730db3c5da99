"""The loss of captions: padding, the shift by one, micro-batches, and samples with a reward."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from making import make_train_step
from train import helpers

from jaxvision.data.captions.caption_source import CaptionList
from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError
from jaxvision.metrics.cider import Cider
from jaxvision.metrics.losses import token_cross_entropy
from jaxvision.models.registry import create_model
from jaxvision.tasks.captioning import Captioning, shift
from jaxvision.tasks.self_critical import SelfCritical
from jaxvision.tasks.task import TaskData
from jaxvision.train.sharding import make_mesh, put_batch
from jaxvision.train.state import abstract_model, abstract_state, create_state

WORDS = 12
TOKENS = np.array(
    [[1, 5, 6, 2, 0, 0], [1, 7, 2, 0, 0, 0], [1, 8, 9, 10, 11, 2], [1, 4, 5, 6, 2, 0]], np.int32
)


OPTIONS = dict(
    width=16,
    depth=1,
    num_heads=2,
    hidden_width=32,
    max_length=6,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)


def build(rngs):
    return create_model(
        "captioner", vocab_size=WORDS, encoder=None, feature_width=8, rngs=rngs, **OPTIONS
    )


def on_device(batch):
    return jax.tree.map(jnp.asarray, batch)


def batch(tokens=TOKENS, seed=0):
    features = np.random.default_rng(seed).standard_normal((len(tokens), 3, 8), np.float32)
    return {
        "features": features,
        "tokens": tokens,
        "image_id": np.arange(len(tokens), dtype=np.int32),
        "mask": np.ones(len(tokens), bool),
    }


def loss_of(task, model, batch):
    return task.loss(model, task.prepare(on_device(batch)), rngs=nnx.Rngs(0))


def test_the_shift_is_by_one():
    inputs, targets = shift(jnp.asarray(TOKENS))
    assert inputs[0].tolist() == [1, 5, 6, 2, 0] and targets[0].tolist() == [5, 6, 2, 0, 0]


@pytest.mark.parity
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_torchs_with_ignored_padding(smoothing):
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).standard_normal((4, 5, WORDS), np.float32)
    targets = TOKENS[:, 1:]
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits).reshape(-1, WORDS),
        torch.tensor(targets.reshape(-1).astype(np.int64)),
        ignore_index=0,
        label_smoothing=smoothing,
    )

    class Model:
        def __call__(self, inputs, tokens, **_):
            return jnp.asarray(logits)

    loss, metrics = loss_of(Captioning(label_smoothing=smoothing), Model(), batch())
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    correct = (logits.argmax(-1) == targets)[targets != 0].mean()
    assert float(metrics["token_accuracy"]) == pytest.approx(correct, abs=1e-6)


def test_each_token_has_its_own_loss():
    logits = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 5), np.float32))
    targets = jnp.array([[1, 2, 3], [4, 0, 1]])
    losses = token_cross_entropy(logits, targets)
    assert losses.shape == (2, 3)
    one = -jax.nn.log_softmax(logits[1, 0])[4]
    assert float(losses[1, 0]) == pytest.approx(float(one), abs=1e-6)


def test_a_batch_of_padding_alone_is_finite():
    model = build(nnx.Rngs(0))
    loss, metrics = loss_of(Captioning(), model, batch(np.zeros_like(TOKENS)))
    assert float(loss) == 0.0 and float(metrics["token_accuracy"]) == 0.0


def test_evaluation_counts_valid_tokens_of_valid_images():
    model, task = build(nnx.Rngs(0)), Captioning()
    whole = task.evaluate(model, on_device(batch()))
    masked = batch()
    masked["mask"] = np.array([True, False, True, False])
    masked["features"][1] = np.nan  # padding may hold anything
    part = task.evaluate(model, on_device(masked))
    assert int(whole["loss"][1]) == 3 + 2 + 5 + 4 and int(part["loss"][1]) == 3 + 5
    rows = {key: value[[0, 2]] for key, value in batch().items()}
    expected = task.evaluate(model, on_device(rows))
    for name, (total, count) in expected.items():
        assert float(part[name][0]) == pytest.approx(float(total), rel=1e-6), name
        assert int(part[name][1]) == int(count)


def train_once(accumulate_steps):
    mesh = make_mesh(devices=jax.devices()[:1])
    schedule = optax.constant_schedule(0.1)
    tx = optax.sgd(schedule)
    graphdef, _, _ = abstract_model(build)
    abstract = abstract_state(build, tx, mesh=mesh)
    state = create_state(build, tx, seed=0, abstract=abstract)
    step = make_train_step(
        graphdef,
        Captioning(),
        tx,
        schedule=schedule,
        preprocess_fn=helpers.preprocess,
        accumulate_steps=accumulate_steps,
        shardings=jax.tree.map(lambda x: x.sharding, abstract),
    )
    return step(state, put_batch(batch(), mesh))


def test_micro_batches_of_unequal_captions_give_the_update_of_one_batch():
    one, metrics = train_once(1)
    two, parts = train_once(2)
    assert helpers.max_difference(one.params, two.params) < 1e-6
    assert float(parts["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)


CAPTIONS = ["a red circle", "a blue square", "two green stars", "one white ring"]


def self_critical(samples=4):
    vocabulary = Vocabulary(sorted({word for caption in CAPTIONS for word in caption.split()}))
    source = CaptionList("test", [(i, f"{i}.jpg", [c]) for i, c in enumerate(CAPTIONS)])
    task = Captioning(
        pad=vocabulary.pad,
        vocabulary=vocabulary,
        settings=DecodeSettings(max_length=6),
        data=TaskData(train_source=source),
    )
    return SelfCritical.of(task, samples), vocabulary


def test_samples_are_scored_against_their_own_image():
    task, vocabulary = self_critical()
    right = vocabulary.encode(CAPTIONS[0], 6)
    scores = task._score(np.stack([[right, right], [right, right]]), np.array([0, 1]))
    assert scores.shape == (2, 2) and scores[0, 0] > 2.0 and np.all(scores[1] < 1.0)


def test_self_critical_training_raises_the_reward():
    task, vocabulary = self_critical(samples=8)
    model = create_model(
        "captioner",
        vocab_size=len(vocabulary),
        encoder=None,
        feature_width=8,
        rngs=nnx.Rngs(0),
        **OPTIONS,
    )
    graphdef, params = nnx.split(model, nnx.Param)
    tx = optax.adam(1e-2)
    data = on_device(batch())

    @jax.jit
    def step(params, state, key):
        def loss(params):
            return task.loss(nnx.merge(graphdef, params), data, rngs=nnx.Rngs(dropout=key))

        grads, metrics = jax.grad(loss, has_aux=True)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, metrics["cider"]

    state, rewards = tx.init(params), []
    for i in range(60):
        params, state, reward = step(params, state, jax.random.key(i))
        rewards.append(float(reward))
    assert np.mean(rewards[-10:]) > 2 * np.mean(rewards[:10]) > 0


def test_one_sample_has_nothing_to_be_compared_with():
    with pytest.raises(InputError, match="at least 2"):
        self_critical(samples=1)


def test_samples_that_score_alike_teach_nothing():
    class Same(Cider):
        def __init__(self):
            pass

        def score(self, candidates, indices=None):
            return np.full(len(candidates), 3.0)

    task = dataclasses.replace(self_critical()[0], scorer=Same())
    loss, metrics = loss_of(task, build(nnx.Rngs(1)), batch())
    assert float(loss) == 0.0 and float(metrics["cider"]) == 3.0
