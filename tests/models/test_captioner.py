import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxvision as jv
from jaxvision.interop.assign import assign_weights, count_classes, extract_weights
from jaxvision.models.captioner import CaptionerConfig
from jaxvision.profiling.model_cards import model_cards

WORDS, LENGTH = 11, 6
TINY = {
    "vocab_size": WORDS,
    "width": 16,
    "depth": 2,
    "num_heads": 2,
    "hidden_width": 24,
    "max_length": LENGTH,
}
FEATURES = {"encoder": None, "feature_width": 10}
VIT = {
    "encoder": "vit_ti16",
    "encoder_options": {"width": 12, "depth": 1, "num_heads": 2, "patch_size": 8},
    "image_size": 16,
}
RESNET = {
    "encoder": "resnet18",
    "encoder_options": {
        "stage_depths": (1, 1),
        "stage_widths": (8, 16),
        "stem_width": 8,
        "stem": "cifar",
        "zero_init_last": False,
    },
}
NO_DROPOUT = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
GRID = jax.random.normal(jax.random.key(0), (3, 4, 10))  # features of four places
IMAGES = jax.random.normal(jax.random.key(1), (3, 16, 24, 3))
TOKENS = jax.random.randint(jax.random.key(2), (3, LENGTH), 0, WORDS)


def build(name="captioner", dtype="float32", **options):
    return jv.create_model(name, dtype=dtype, rngs=nnx.Rngs(0), **TINY | options)


def bold(**options):
    """Returns a model on features whose outputs depend visibly on everything."""
    model = build(**FEATURES | NO_DROPOUT | options)
    rng = np.random.default_rng(0)
    for leaf in jax.tree.leaves(
        nnx.state(model, nnx.Param), is_leaf=lambda x: isinstance(x, nnx.Param)
    ):
        leaf[...] += rng.normal(0.0, 0.2, leaf.shape).astype(leaf.dtype)
    return model


@jax.jit
def logits(model, inputs, tokens, masks=None):
    return model(inputs, tokens, **masks or {})


@jax.jit
def step(model, cache, tokens, position, ancestry):
    return model.step(cache, tokens, position, ancestry)


def num_params(name, **options):
    model = nnx.eval_shape(lambda: jv.create_model(name, rngs=nnx.Rngs(0), **options))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


# --- the rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 3_803_884),
        ({"depth": 6}, 10_118_892),
        ({"vocab_size": 10, "feature_width": 20, "width": 30, "num_heads": 2}, 266_396),
        ({"norm_first": True}, 3_803_884 + 2 * 256),
        ({"norm_first": True, "final_norm": False}, 3_803_884),
    ],
)
def test_num_params_of_the_course(options, count):
    assert num_params("captioner_cs231n", **options) == count


def test_rows():
    assert jv.list_models("captioner*") == []
    names = jv.list_models(task="captioning")
    assert names == ["captioner", "captioner_cs231n"]
    assert set(names) < set(jv.list_models(task=None))
    for name in names:
        spec = jv.get_spec(name)
        hash(spec)
        assert num_params(name) == spec.num_params
    with pytest.raises(ValueError, match="takes a model for classification, but captioner is for"):
        jv.get_spec("captioner", task="classification")


def test_card():
    """Of one vector of features, and 50 words."""
    width, hidden, words, length = 256, 2048, 1004, 50
    attention = 4 * width**2 * length + 2 * length**2 * width
    look = 2 * width**2 * length + 2 * width**2 + 2 * length * width
    layer = attention + look + 2 * width * hidden * length
    (card,) = model_cards(["captioner_cs231n"])
    assert card.task == "captioning" and card.parameters == 3_803_884
    assert card.macs == 512 * width + 2 * layer + width * words * length


def test_config_is_hashable_however_options_are_given():
    options = {"stem": "conv", "image_size": [16, 24]}
    config = CaptionerConfig(encoder="vit_ti16", encoder_options=options)
    pairs = (("image_size", (16, 24)), ("stem", "conv"))
    assert config == CaptionerConfig(encoder="vit_ti16", encoder_options=pairs)
    assert hash(config) and dataclasses.replace(config, width=24).encoder_options == pairs


# --- what the decoder may see -------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [True, False])
def test_no_token_sees_a_later_one(norm_first):
    model = bold(norm_first=norm_first)
    before = logits(model, GRID, TOKENS)
    for t in range(LENGTH):
        changed = TOKENS.at[:, t].set((TOKENS[:, t] + 1) % WORDS)
        after = logits(model, GRID, changed)
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert (jnp.abs(after[:, t:] - before[:, t:]).max(-1) > 1e-4).all()


def test_the_order_of_the_memory_does_not_matter_but_its_content_does():
    model = bold()
    before = logits(model, GRID, TOKENS)
    np.testing.assert_allclose(logits(model, GRID[:, ::-1], TOKENS), before, atol=2e-5)
    assert float(jnp.abs(logits(model, GRID.at[:, 2].add(1.0), TOKENS) - before).min()) > 0


def test_masked_parts_are_as_good_as_absent():
    model = bold()
    memory_mask = jnp.asarray(np.arange(4) < np.array([[4], [2], [2]]))
    masked = logits(model, GRID, TOKENS, {"memory_mask": memory_mask})
    np.testing.assert_allclose(
        masked[1:], logits(model, GRID[1:, :2], TOKENS[1:]), atol=2e-5, rtol=1e-5
    )
    token_mask = jnp.asarray(np.arange(LENGTH) < np.array([[LENGTH], [4], [4]]))
    masked = logits(model, GRID, TOKENS, {"token_mask": token_mask})
    whole = logits(model, GRID, TOKENS)
    np.testing.assert_allclose(masked[:, :4], whole[:, :4], atol=1e-6)  # padding behind: no need
    other = TOKENS.at[1:, 4].set((TOKENS[1:, 4] + 1) % WORDS)
    changed = logits(model, GRID, other, {"token_mask": token_mask})
    np.testing.assert_allclose(changed[:, 5], masked[:, 5], atol=1e-6)


def test_rows_without_anything_to_see_stay_finite():
    model = bold()
    graphdef, params = nnx.split(model)
    masks = {
        "token_mask": jnp.zeros((3, LENGTH), bool),
        "memory_mask": jnp.zeros((3, 4), bool),
    }

    @jax.jit
    def loss(params, features):
        outputs = nnx.merge(graphdef, params)(features, TOKENS, **masks)
        return jnp.sum(outputs**2)

    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(params, GRID)
    assert bool(jnp.isfinite(value))
    assert all(bool(jnp.isfinite(grad).all()) for grad in jax.tree.leaves(grads))


# --- decoding -----------------------------------------------------------------------------------


def walk(num_beams, length, seed=0):
    """Returns a search that jumps: each row's token at each step, and the row it comes from."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, WORDS, (length, 3, num_beams))
    parents = rng.integers(0, num_beams, (length, 3, num_beams))
    return tokens, parents


def decode(model, memory, tokens, parents, **masks):
    """Yields the logits of every step, and the whole path of every row until then."""
    length, batch, rows = tokens.shape
    cache = model.start(memory, num_beams=rows, max_length=length, **masks)
    ancestry = np.zeros((batch, rows, length, rows), bool)
    paths = np.zeros((batch, rows, 0), int)
    for t in range(length):
        for b in range(batch):
            ancestry[b], paths_b = ancestry[b, parents[t, b]], paths[b, parents[t, b]]
            paths[b] = paths_b
        ancestry[:, :, t] = np.eye(rows, dtype=bool)
        paths = np.concatenate([paths, tokens[t][:, :, None]], axis=-1)
        outputs, cache = step(
            model, cache, jnp.asarray(tokens[t], jnp.int32), jnp.int32(t), jnp.asarray(ancestry)
        )
        yield outputs, jnp.asarray(paths, jnp.int32)


def check_decoding(model, features, atol, **masks):
    memory = model.encode(features)
    whole = jax.jit(lambda model, memory, tokens: model.decode_tokens(memory, tokens, **masks))
    for outputs, paths in decode(model, memory, *walk(3, LENGTH), **masks):
        assert outputs.shape == (3, 3, WORDS)
        for row in range(3):
            expected = whole(model, memory, paths[:, row])[:, -1]
            np.testing.assert_allclose(outputs[:, row], expected, atol=atol, rtol=atol)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_first": False, "position": "sinusoidal", "tie_head": False, "activation": "relu"},
    ],
)
def test_decoding_with_a_cache_equals_decoding_without(options):
    check_decoding(bold(**options), GRID, 1e-5)


def test_decoding_with_a_masked_memory():
    mask = jnp.asarray(np.arange(4) < np.array([[4], [2], [1]]))
    check_decoding(bold(), GRID, 1e-5, memory_mask=mask)


@pytest.mark.float64
@pytest.mark.quick
@pytest.mark.parametrize("norm_first", [True, False])
def test_decoding_with_a_cache_in_float64(norm_first):
    model = bold(dtype="float64", norm_first=norm_first)
    check_decoding(model, GRID.astype(jnp.float64), 1e-10)


def test_caches_stay_on_the_devices_of_their_images():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, all_of_it = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in (("data",), ())
    )
    model = jax.device_put(build(**FEATURES), all_of_it)
    memory = jax.device_put(jnp.zeros((8, 4, 16)), rows)
    start = jax.jit(lambda model, memory: model.start(memory, num_beams=2, max_length=LENGTH))
    compiled = start.lower(model, memory).compile()
    assert "all-gather" not in compiled.as_text()
    for array in jax.tree.leaves([layer["memory"] for layer in start(model, memory)["layers"]]):
        assert array.sharding.is_equivalent_to(rows, array.ndim)


def test_too_many_positions():
    model = build(**FEATURES)
    memory = model.encode(GRID)
    with pytest.raises(ValueError, match="positions for 6 tokens, got 7"):
        model.start(memory, num_beams=2, max_length=7)
    with pytest.raises(ValueError, match="positions for 6 tokens, got 7: shorten the captions"):
        model(GRID, jnp.zeros((3, 7), jnp.int32))


# --- where it looks -----------------------------------------------------------------------------


def test_cross_attention():
    model = bold()
    weights = model.cross_attention(GRID, TOKENS)
    assert weights.shape == (2, 3, 2, LENGTH, 4)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    assert float(weights.std()) > 0.01
    # A memory of one token is looked at whatever is asked.
    np.testing.assert_array_equal(model.cross_attention(GRID[:, 0], TOKENS), 1.0)


# --- encoders -----------------------------------------------------------------------------------


def memory_of(**options):
    model = build(**options)
    return model, jax.jit(lambda model: model.encode(IMAGES))(model)


@pytest.mark.parametrize(
    ("encoder", "memory", "sources"),
    [
        (VIT, "grid", 6),
        (VIT, "tokens", 7),
        (VIT, "pooled", 1),
        (RESNET, "grid", 96),
        (RESNET, "tokens", 96),
        (RESNET, "pooled", 1),
    ],
)
def test_memories(encoder, memory, sources):
    model, values = memory_of(memory=memory, **encoder)
    assert values.shape == (3, sources, 16)

    @jax.jit
    def expected(model):
        encoder = model.encoder
        features = encoder(IMAGES) if memory == "pooled" else encoder.features(IMAGES)
        features = features.reshape(3, -1, features.shape[-1])[:, -sources:]
        return features if model.visual_proj is None else model.visual_proj(features)

    np.testing.assert_allclose(values, expected(model), atol=1e-5)
    shape = {"grid": {6: (2, 3), 96: (8, 12)}.get(sources)}.get(memory)
    assert model.grid_shape(IMAGES) == shape


def test_a_projection_only_where_the_widths_differ_or_on_demand():
    assert build(**VIT).visual_proj is not None
    assert build(**RESNET).visual_proj is None  # 16 channels and 16
    assert build(**RESNET, project_memory=True).visual_proj is not None
    assert build(**FEATURES).grid_shape(GRID) is None


def gradients(model, inputs=IMAGES):
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)

    @jax.jit
    def run(params):
        def loss(params):
            model = nnx.merge(graphdef, params, stats, copy=True)
            outputs = model(inputs, TOKENS, train=True, rngs=nnx.Rngs(dropout=0))
            return jnp.sin(outputs).sum(), nnx.state(model, nnx.BatchStat)

        return jax.grad(loss, has_aux=True)(params)

    grads, after = run(params)
    moved = [
        not np.allclose(x, y)
        for x, y in zip(jax.tree.leaves(stats), jax.tree.leaves(after), strict=True)
    ]
    return nnx.to_pure_dict(grads), moved


def test_a_frozen_encoder_gets_no_gradient_and_keeps_its_statistics():
    grads, moved = gradients(build(**RESNET, freeze_encoder=True))
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads["encoder"]))
    assert moved and not any(moved)
    for path, grad in jax.tree.leaves_with_path(grads["decoder"]):
        keys = [entry.key for entry in path]
        if keys[-2:] != ["key", "bias"]:
            assert float(jnp.abs(grad).max()) > 1e-6, keys


def test_an_encoder_is_trained_unless_it_is_frozen():
    grads, moved = gradients(build(**RESNET))
    assert all(leaf.any() for leaf in jax.tree.leaves(grads["encoder"]))
    assert moved and all(moved)


def test_features_in_place_of_images():
    model = build(**FEATURES)
    np.testing.assert_array_equal(
        logits(model, GRID[:, :1], TOKENS), logits(model, GRID[:, 0], TOKENS)
    )
    with pytest.raises(ValueError, match=r"\[batch, 10\] or \[batch, sources, 10\], got shape"):
        model.encode(IMAGES)
    with pytest.raises(ValueError, match=r"got shape \(3, 4, 9\)"):
        model.encode(GRID[..., :9])


# --- the rest -----------------------------------------------------------------------------------


def test_a_tied_head_is_the_table_of_words():
    model = bold(tie_head=True)
    assert model.decoder.head is None and build(**FEATURES, tie_head=False).decoder.head is not None
    graphdef, params = nnx.split(model)

    def loss(params):
        return nnx.merge(graphdef, params)(GRID, TOKENS)[..., WORDS - 1].sum()

    used = set(np.asarray(TOKENS).ravel())
    grad = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))["decoder"]["embed"]["embedding"]
    touched = {word for word in range(WORDS) if grad[word].any()}
    assert touched == used | {WORDS - 1}  # read as words, and as the column of the head


def test_layers_share_nothing():
    first, second = build(**FEATURES).decoder.layers
    assert not np.allclose(first.mlp.fc1.kernel[...], second.mlp.fc1.kernel[...])


def test_dropout_acts_in_training_only():
    model, plain = build(**FEATURES), build(**FEATURES | NO_DROPOUT)
    assert model.config.dropout_rate == 0.1
    np.testing.assert_array_equal(logits(model, GRID, TOKENS), logits(plain, GRID, TOKENS))

    @jax.jit
    def train(model, seed):
        return model(GRID, TOKENS, train=True, rngs=nnx.Rngs(dropout=jax.random.key(seed)))

    one, two = train(model, 1), train(model, 2)
    assert not np.allclose(one, two)
    np.testing.assert_array_equal(train(model, 1), one)
    np.testing.assert_array_equal(
        jax.jit(lambda model: model(GRID, TOKENS, train=True))(plain), logits(plain, GRID, TOKENS)
    )
    with pytest.raises(ValueError, match="rngs is None: pass rngs=nnx.Rngs"):
        model(GRID, TOKENS, train=True)


@pytest.mark.parametrize("tie_head", [True, False])
def test_logits_are_float32_in_bfloat16(tie_head):
    low = build(**VIT, dtype="bfloat16", tie_head=tie_head)
    full = build(**VIT, tie_head=tie_head)
    assert {x.dtype for x in jax.tree.leaves(nnx.state(low))} == {jnp.dtype("float32")}
    outputs, expected = logits(low, IMAGES, TOKENS), logits(full, IMAGES, TOKENS)
    assert outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, expected, atol=0.03 * float(jnp.abs(expected).max()))
    memory = low.encode(IMAGES)
    cache = low.start(memory, num_beams=2, max_length=4)
    assert memory.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(cache)} == {jnp.dtype("bfloat16")}


def test_remat_changes_nothing():
    kept, again = (
        gradients(build(**FEATURES, depth=1, remat=remat), GRID) for remat in (False, True)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), kept[0], again[0])


def test_equal_models_have_equal_graphs():
    left, right = build(**VIT), build(**VIT)
    assert nnx.graphdef(left) == nnx.graphdef(right)
    assert nnx.graphdef(nnx.eval_shape(lambda: build(**VIT))) == nnx.graphdef(left)
    nnx.split(left, nnx.Param, nnx.BatchStat)  # nothing else is left


def test_own_weights_there_and_back():
    one, other = build(**VIT), bold(**VIT, feature_width=None)
    weights = extract_weights(other, format="jaxvision")
    assert "encoder/blocks/0/attn/query/kernel" in weights
    assert "decoder/layers/1/cross_attn/out/bias" in weights
    assign_weights(one, weights, source="jaxvision")
    np.testing.assert_array_equal(logits(one, IMAGES, TOKENS), logits(other, IMAGES, TOKENS))
    assert count_classes(one, weights, source="jaxvision") == WORDS


def test_weights_of_another_vocabulary():
    smaller = nnx.eval_shape(lambda: build(**FEATURES, vocab_size=9))
    weights = extract_weights(build(**FEATURES), format="torch")
    assert count_classes(smaller, weights) == WORDS
    with pytest.raises(ValueError, match=r"'embedding.weight' is \(11, 16\) in the file, but"):
        assign_weights(smaller, weights)


def test_weights_that_do_not_fit():
    untied = extract_weights(bold(tie_head=False), format="torch")
    untied.pop("output.bias")
    with pytest.raises(ValueError, match="'output.weight' differs from the array that the model"):
        assign_weights(build(**FEATURES), untied, source="torch")
    with pytest.raises(ValueError, match="cs231n has no Captioner with encoder='vit_ti16': build"):
        extract_weights(build(**VIT), format="cs231n")
    with pytest.raises(ValueError, match="cs231n has no Captioner with project_memory=None"):
        extract_weights(
            build(
                encoder=None,
                feature_width=16,
                tie_head=False,
                position="sinusoidal",
            ),
            format="cs231n",
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "vit_ti17"}, "no model 'vit_ti17': did you mean"),
        ({"encoder": "captioner"}, "takes a model for classification, but captioner is for"),
        ({"encoder": None}, "encoder=None and feature_width=None"),
        ({"feature_width": 5}, "encoder='vit_s16' and feature_width=5"),
        ({"memory": "gird"}, "memory must be one of grid, .* did you mean 'grid'"),
        ({"activation": "swish"}, "activation must be one of relu, gelu"),
        ({"position": "rotary"}, "position must be one of learned, sinusoidal"),
        ({"num_heads": 5}, "width 16 must be a multiple of num_heads 5"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"dropout_rate": 1.0}, r"dropout_rate is a probability of dropping, in \[0, 1\)"),
        ({**FEATURES, "width": 15, "num_heads": 3, "position": "sinusoidal"}, "even number of ch"),
        ({**FEATURES, "project_memory": False}, "have 10 channels and the decoder 16: leave"),
        ({**VIT, "image_size": 17}, "17 x 17 pixels"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_wrong_option_of_the_encoder():
    with pytest.raises(TypeError, match="vit_ti16 has no option widht"):
        build(encoder="vit_ti16", encoder_options={"widht": 3})
