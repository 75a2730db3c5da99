"""The captioner against torch.nn's decoder, the course CS231n's, and transformers' TrOCR."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from making import make_optimizer
from parity import peers

import jaxvision as jv
from jaxvision.interop.captioner import torch_attention, torch_layer
from jaxvision.interop.rules import convert, export
from jaxvision.layers.attention import MultiHeadAttention
from jaxvision.layers.decoder_block import DecoderBlock
from jaxvision.layers.mlp import gelu
from jaxvision.layers.position import sinusoids

torch = pytest.importorskip("torch")
from parity import course  # noqa: E402

pytestmark = pytest.mark.parity
float64 = pytest.mark.float64
WORDS, FEATURES, WIDTH, HEADS, HIDDEN, LENGTH = 11, 12, 16, 4, 40, 7
BATCH, SOURCES = 3, 5


class Peer(torch.nn.Module):
    """What a user of torch writes around `torch.nn.TransformerDecoder`."""

    def __init__(self, norm_first, activation, tied=False):
        super().__init__()
        layer = torch.nn.TransformerDecoderLayer(
            WIDTH,
            HEADS,
            HIDDEN,
            dropout=0.0,
            activation=activation,
            batch_first=True,
            norm_first=norm_first,
        )
        norm = torch.nn.LayerNorm(WIDTH) if norm_first else None
        self.visual_projection = torch.nn.Linear(FEATURES, WIDTH)
        self.embedding = torch.nn.Embedding(WORDS, WIDTH)
        self.positional_encoding = course.PositionalEncoding(WIDTH, LENGTH)
        self.transformer = torch.nn.TransformerDecoder(layer, 2, norm)
        self.output = torch.nn.Linear(WIDTH, WORDS, bias=not tied)
        if tied:
            self.output.weight = self.embedding.weight

    def forward(self, features, tokens, token_mask=None, memory_mask=None):
        length = tokens.shape[1]
        hidden = self.transformer(
            self.positional_encoding(self.embedding(tokens)),
            self.visual_projection(features),
            tgt_mask=torch.ones(length, length).tril() == 0,
            tgt_key_padding_mask=None if token_mask is None else ~token_mask,
            memory_key_padding_mask=None if memory_mask is None else ~memory_mask,
        )
        return self.output(hidden)


SIZE = {"width": WIDTH, "depth": 2, "num_heads": HEADS, "hidden_width": HIDDEN}
PLAIN = {
    **SIZE,
    "vocab_size": WORDS,
    "feature_width": FEATURES,
    "max_length": LENGTH,
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
}


def torch_pair(norm_first, activation, dtype, tied=False):
    options = {"norm_first": norm_first, "activation": activation, "tie_head": tied}
    return peers.make_pair(
        Peer(norm_first, activation, tied),
        "captioner_cs231n",
        source="torch",
        dtype=dtype,
        **{**PLAIN, **options},
    )


def inputs(dtype, features=(BATCH, SOURCES, FEATURES)):
    """Returns features, tokens, targets, and the two masks: no row is masked everywhere."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, WORDS, (BATCH, LENGTH)).astype(np.int32)
    targets = rng.integers(0, WORDS, (BATCH, LENGTH)).astype(np.int32)
    token_mask = np.arange(LENGTH) < np.array([[LENGTH], [5], [3]])
    memory_mask = rng.random((BATCH, SOURCES)) < 0.6
    memory_mask[:, 0] = True
    values = rng.standard_normal(features).astype(dtype)
    return values, tokens, targets, token_mask, memory_mask


@jax.jit
def ours_of(model, features, tokens, masks):
    return model(features, tokens, **masks)


def gradients(pair, features, tokens, targets, masks):
    """Returns the distances of logits and all gradients of a cross-entropy."""
    peer = copy.deepcopy(pair.peer)
    theirs_in = torch.tensor(features, requires_grad=True)
    torch_masks = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    theirs = peer(theirs_in, torch.from_numpy(tokens).long(), **torch_masks)
    torch.nn.functional.cross_entropy(
        theirs.flatten(0, 1), torch.from_numpy(targets).long().flatten()
    ).backward()

    graphdef, params, stats = peers.split(pair.model)
    features, tokens, targets, masks = jax.tree.map(jnp.asarray, (features, tokens, targets, masks))

    def loss(params, features):
        logits = nnx.merge(graphdef, params, stats)(features, tokens, train=True, **masks)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), logits

    (ours_grads, ours_in), logits = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
        params, features
    )
    expected = {n: p.grad.numpy() for n, p in peer.named_parameters()}
    exported = pair.export(ours_grads, {})
    return {
        "logits": peers.distance(logits, theirs.detach().numpy()),
        "features": peers.distance(ours_in, theirs_in.grad.numpy()),
        "parameters": peers.worst({n: exported[n] for n in expected}, expected),
    }, (peer, params, ours_grads)


@float64
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_decoder_in_float64(norm_first, activation, masked):
    pair = torch_pair(norm_first, activation, "float64")
    features, tokens, targets, token_mask, memory_mask = inputs("float64")
    masks = {"token_mask": token_mask, "memory_mask": memory_mask} if masked else {}
    distances, (peer, params, grads) = gradients(pair, features, tokens, targets, masks)
    peers.assert_close(distances, peers.FLOAT64_BAR)

    peers.torch_optimizer(peer, "adamw", rate=1e-2, weight_decay=0.1).step()
    tx = make_optimizer(
        params,
        name="adamw",
        schedule=optax.constant_schedule(1e-2),
        weight_decay=0.1,
        eps=peers.ADAM_EPS,
    )
    updates, _ = tx.update(grads, tx.init(params), params)
    expected = {n: p.detach().numpy() for n, p in peer.named_parameters()}
    trained = pair.export(optax.apply_updates(params, updates), {})
    before = peers.arrays(pair.peer.named_parameters())
    assert peers.worst(before, expected) > 1e-4
    bar = {"adamw": peers.worst({n: trained[n] for n in expected}, expected)}
    peers.assert_close(bar, peers.FLOAT64_BAR)


def forward_distance(pair, features, tokens, masks):
    with torch.no_grad():
        torch_masks = {name: torch.from_numpy(mask) for name, mask in masks.items()}
        theirs = pair.peer(
            torch.from_numpy(features), torch.from_numpy(tokens).long(), **torch_masks
        )
    ours = ours_of(pair.model, features, tokens, masks)
    return peers.distance(ours, peers.logits_of(theirs).numpy())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_decoder(norm_first, tied):
    pair = torch_pair(norm_first, "relu", "float32", tied)
    features, tokens, _, token_mask, memory_mask = inputs("float32")
    masks = {"token_mask": token_mask, "memory_mask": memory_mask}
    assert forward_distance(pair, features, tokens, masks) < peers.FLOAT32_BAR
    peers.assert_exports_back(pair, Peer(norm_first, "relu", tied))


def torch_masked(module, *arguments, mask, **options):
    """torch's masks are True where nothing may be attended to, one for each head."""
    banned = torch.from_numpy(~mask).repeat_interleave(HEADS, dim=0)
    return module(*arguments, attn_mask=banned, **options)


@float64
@pytest.mark.quick
@pytest.mark.parametrize("memory_width", [None, 10])
def test_multi_head_attention_in_float64(memory_width):
    """Queries, keys and values in one packed matrix, or apart where the memory is of other size."""
    theirs = torch.nn.MultiheadAttention(
        WIDTH, HEADS, kdim=memory_width, vdim=memory_width, batch_first=True
    ).double()
    peers.randomise(theirs)
    ours = MultiHeadAttention(
        WIDTH,
        HEADS,
        memory_width=memory_width,
        dtype="float64",
        param_dtype="float64",
        rngs=nnx.Rngs(0),
    )
    weights = peers.arrays(theirs.state_dict())
    if memory_width is None:
        put(ours, {f"attn.{n}": a for n, a in weights.items()}, torch_attention("attn", "attn"))
    else:
        names = {"query": "q_proj_weight", "key": "k_proj_weight", "value": "v_proj_weight"}
        biases = np.split(weights["in_proj_bias"], 3)
        for (name, weight), bias in zip(names.items(), biases, strict=True):
            layer = getattr(ours, name)
            layer.kernel[...], layer.bias[...] = weights[weight].T, bias
        ours.out.kernel[...] = weights["out_proj.weight"].T
        ours.out.bias[...] = weights["out_proj.bias"]
    rng = np.random.default_rng(0)
    query = rng.standard_normal((BATCH, LENGTH, WIDTH))
    memory = rng.standard_normal((BATCH, SOURCES, memory_width or WIDTH))
    mask = rng.random((BATCH, LENGTH, SOURCES)) < 0.7
    mask[..., 0] = True

    tensors = [torch.tensor(x, requires_grad=True) for x in (query, memory)]
    output, attention = torch_masked(
        theirs, tensors[0], tensors[1], tensors[1], mask=mask, average_attn_weights=False
    )
    output.sin().sum().backward()
    expected = [x.grad.numpy() for x in tensors]

    query, memory, mask = map(jnp.asarray, (query, memory, mask[:, None]))

    def loss(query, memory):
        return jnp.sin(ours(query, memory, mask=mask)).sum()

    grads = jax.grad(loss, argnums=(0, 1))(query, memory)
    distances = {
        "output": peers.distance(ours(query, memory, mask=mask), output.detach().numpy()),
        "weights": peers.distance(
            ours.weights(query, memory, mask=mask), attention.detach().numpy()
        ),
        "query": peers.distance(grads[0], expected[0]),
        "memory": peers.distance(grads[1], expected[1]),
    }
    peers.assert_close(distances, peers.FLOAT64_BAR)


def put(module, weights, rules):
    """Fills a layer from a table whose paths start with one name, and checks the way back."""
    name = next(iter(weights)).partition(".")[0]
    state = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    params, _ = convert(weights, rules, target=({name: state}, {}))
    nnx.update(module, params[name])
    back = export(params, {}, rules)
    assert set(back) == set(weights)
    assert all(np.array_equal(back[name], array) for name, array in weights.items())


@float64
@pytest.mark.quick
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_layer_in_float64(norm_first, activation):
    theirs = torch.nn.TransformerDecoderLayer(
        WIDTH, HEADS, HIDDEN, 0.0, activation, batch_first=True, norm_first=norm_first
    ).double()
    peers.randomise(theirs)
    ours = DecoderBlock(
        WIDTH,
        HEADS,
        hidden_width=HIDDEN,
        norm_first=norm_first,
        activation={"relu": nnx.relu, "gelu": gelu}[activation],
        dtype="float64",
        param_dtype="float64",
        rngs=nnx.Rngs(0),
    )
    weights = {f"layer.{n}": a for n, a in peers.arrays(theirs.state_dict()).items()}
    put(ours, weights, torch_layer("layer", "layer"))
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((BATCH, LENGTH, WIDTH))
    memory = rng.standard_normal((BATCH, SOURCES, WIDTH))
    causal = np.tril(np.ones((LENGTH, LENGTH), bool))
    tensors = [torch.tensor(x, requires_grad=True) for x in (tokens, memory)]
    output = theirs(*tensors, tgt_mask=torch.from_numpy(~causal))
    output.sin().sum().backward()

    tokens, memory, causal = map(jnp.asarray, (tokens, memory, causal[None, None]))

    def loss(tokens, memory):
        output = ours(tokens, memory, mask=causal)
        return jnp.sin(output).sum(), output

    grads, ours_output = jax.grad(loss, argnums=(0, 1), has_aux=True)(tokens, memory)
    distances = {"output": peers.distance(ours_output, output.detach().numpy())}
    for name, grad, tensor in zip(("tokens", "memory"), grads, tensors, strict=True):
        distances[name] = peers.distance(grad, tensor.grad.numpy())
    peers.assert_close(distances, peers.FLOAT64_BAR)


# --- CS231n -------------------------------------------------------------------------------------

COURSE = {
    "2024": (lambda: course.Layer(WIDTH, HEADS, HIDDEN), "cs231n", {}),
    "2024 pre": (
        lambda: course.Layer(WIDTH, HEADS, HIDDEN, pre=True),
        "cs231n",
        {"norm_first": True, "final_norm": False},
    ),
    "2025": (lambda: course.Layer2025(WIDTH, HEADS, HIDDEN), "cs231n_2025", {"activation": "gelu"}),
}


def course_peer(member):
    layer = COURSE[member][0]()
    return course.CaptioningTransformer(WORDS, FEATURES, WIDTH, layer, max_length=LENGTH)


def course_pair(member, dtype):
    _, source, options = COURSE[member]
    return peers.make_pair(
        course_peer(member), "captioner_cs231n", source=source, dtype=dtype, **PLAIN | options
    )


@pytest.mark.parametrize("member", COURSE)
def test_course(member, tmp_path):
    pair = course_pair(member, "float32")
    features, tokens, *_ = inputs("float32", (BATCH, FEATURES))
    assert forward_distance(pair, features, tokens, {}) < peers.FLOAT32_BAR
    state = pair.peer.state_dict()
    torch.save(state, tmp_path / "in.pth")
    report = jv.load_weights(pair.model, tmp_path / "in.pth")  # the names tell the source
    assert report.source == COURSE[member][1]
    assert report.notes == (
        ("the model has norm_first=True, cs231n usually False",) if "pre" in member else ()
    )
    exported = pair.export(*peers.split(pair.model)[1:])
    fresh = course_peer(member)
    fresh.load_state_dict({n: torch.from_numpy(a) for n, a in exported.items()}, strict=True)
    for name, tensor in fresh.named_parameters():
        assert torch.equal(tensor, state[name]), name
    theirs = state["positional_encoding.pe"].numpy()
    np.testing.assert_allclose(exported["positional_encoding.pe"], theirs, atol=1e-6)


@float64
@pytest.mark.parametrize("member", peers.with_quick(COURSE, "2024"))
def test_course_in_float64(member):
    pair = course_pair(member, "float64")
    features, tokens, targets, *_ = inputs("float64", (BATCH, FEATURES))
    distances, _ = gradients(pair, features, tokens, targets, {})
    peers.assert_close(distances, peers.FLOAT64_BAR)


def test_names_of_the_text_on_the_course():
    pair = course_pair("2024", "float32")
    renamed = {
        name.replace("visual_projection", "visual_proj").replace("output.", "classifier."): array
        for name, array in peers.arrays(pair.peer.state_dict()).items()
        if name != "positional_encoding.pe"
    }
    before = pair.export(*peers.split(pair.model)[1:])
    from jaxvision.interop.assign import assign_weights

    assign_weights(pair.model, renamed)
    after = pair.export(*peers.split(pair.model)[1:])
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_positions_are_the_courses():
    theirs = course.PositionalEncoding(WIDTH, 50).pe[0].numpy()
    np.testing.assert_allclose(sinusoids(50, WIDTH), theirs, atol=1e-13)


# --- transformers -------------------------------------------------------------------------------


def trocr(activation="gelu"):
    transformers = pytest.importorskip("transformers")
    peer = transformers.TrOCRForCausalLM(
        transformers.TrOCRConfig(
            vocab_size=WORDS,
            d_model=WIDTH,
            decoder_layers=2,
            decoder_attention_heads=HEADS,
            decoder_ffn_dim=HIDDEN,
            activation_function=activation,
            max_position_embeddings=LENGTH,
            cross_attention_hidden_size=WIDTH,
            layernorm_embedding=False,
            scale_embedding=False,
            dropout=0.0,
            is_decoder=True,
            add_cross_attention=True,
        )
    )
    return peer


class Trocr(torch.nn.Module):
    """Gives the arguments their places."""

    def __init__(self, peer):
        super().__init__()
        self.peer = peer

    def forward(self, features, tokens, memory_mask=None):
        return self.peer(
            input_ids=tokens, encoder_hidden_states=features, encoder_attention_mask=memory_mask
        ).logits


def trocr_pair(activation, dtype):
    options = {
        **PLAIN,
        "encoder": None,
        "feature_width": WIDTH,
        "norm_first": False,
        "activation": activation,
    }
    pair = peers.make_pair(trocr(activation), "captioner", source="hf", dtype=dtype, **options)
    with torch.no_grad():  # rows that neither reads
        pair.peer.model.decoder.embed_positions.weight[:2] = 0.0
    return pair


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_trocr(activation):
    pair = trocr_pair(activation, "float32")
    features, tokens, _, _, memory_mask = inputs("float32", (BATCH, SOURCES, WIDTH))
    called = peers.Pair(Trocr(pair.peer), pair.model, "hf")
    for masks in ({}, {"memory_mask": memory_mask}):
        assert forward_distance(called, features, tokens, masks) < peers.FLOAT32_BAR
    peers.assert_exports_back(pair, trocr(activation))


@float64
@pytest.mark.quick
def test_trocr_in_float64():
    pair = trocr_pair("gelu", "float64")
    features, tokens, _, _, memory_mask = inputs("float64", (BATCH, SOURCES, WIDTH))
    called = peers.Pair(Trocr(pair.peer), pair.model, "hf")
    distance = forward_distance(called, features, tokens, {"memory_mask": memory_mask})
    peers.assert_close({"logits": distance}, peers.FLOAT64_BAR)


def test_trocr_file_that_holds_its_tied_table_once(tmp_path):
    pair = trocr_pair("gelu", "float32")
    pair.peer.save_pretrained(tmp_path)
    before = pair.export(*peers.split(pair.model)[1:])
    pair.model.decoder.embed.embedding[...] = 0.0
    report = jv.load_weights(pair.model, tmp_path / "model.safetensors")
    assert report.source == "hf" and len(set(report.loaded)) == len(report.loaded)
    after = pair.export(*peers.split(pair.model)[1:])
    assert all(np.array_equal(before[name], after[name]) for name in before)
