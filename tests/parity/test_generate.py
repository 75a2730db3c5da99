"""Token for token what `transformers.generate` gives, for the same logits and settings."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decode import toys
from flax import nnx
from parity import peers

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.generation import logits_process  # noqa: E402
from transformers.modeling_outputs import CausalLMOutput  # noqa: E402

from jaxvision.decode import sampling  # noqa: E402
from jaxvision.decode.generate import generate  # noqa: E402
from jaxvision.decode.settings import DecodeSettings  # noqa: E402

pytestmark = pytest.mark.parity

VOCABULARY, IMAGES, LENGTH = 14, 12, 12
PAD = VOCABULARY - 1
UNUSED_BY_GREEDY = ("length_penalty", "early_stopping")
# Their own names are used where they have one, so the same dict serves both sides.
CHOICES = {
    "num_beams": (1, 3, 5),
    "length_penalty": (-1.0, 0.0, 0.6, 1.0, 2.0),
    "repetition_penalty": (1.0, 1.3),
    "no_repeat_ngram_size": (0, 2, 3),
    "min_length": (0, 6),
    "early_stopping": (False, True, "never"),
    "suppress_tokens": ((), (3, 5)),
}


def every_combination():
    """Yields all settings of the grid; they take minutes."""
    for values in itertools.product(*CHOICES.values()):
        yield dict(zip(CHOICES, values, strict=True))


def covering_combinations():
    """Returns few settings in which every pair of two choices occurs."""
    rng = random.Random(0)
    pairs = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(CHOICES, 2)
        for x in CHOICES[a]
        for y in CHOICES[b]
    }
    grid, chosen = list(every_combination()), []

    def covered(settings):
        return set(itertools.combinations(settings.items(), 2)) & pairs

    while pairs:
        best = max(rng.sample(grid, 60), key=lambda settings: len(covered(settings)))
        pairs -= covered(best)
        chosen.append(best)
    return chosen


class MarkovLM(transformers.PreTrainedModel, transformers.GenerationMixin):
    """The logits of `toys.Markov`, for their generate."""

    config_class = transformers.PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, table):
        super().__init__(transformers.PretrainedConfig(vocab_size=table.shape[-1], use_cache=False))
        self.weight = torch.nn.Parameter(torch.from_numpy(table))
        self.generation_config = transformers.GenerationConfig(use_cache=False)

    def prepare_inputs_for_generation(self, input_ids, images=None, attention_mask=None, **kwargs):
        return {"input_ids": input_ids, "images": images}

    def forward(self, input_ids, images=None, **kwargs):
        last = input_ids[:, -1]
        before = input_ids[:, -2] if input_ids.shape[1] > 1 else torch.zeros_like(last)
        return CausalLMOutput(logits=self.weight[images, before, last][:, None])


def their_captions(model, images, **settings):
    """Returns [[(score or None, tokens)]] for each image; rows end with END or at the limit.

    Args:
      model: of transformers.
      images: what the model is given beside the tokens, by name, one entry for each image.
      settings: of `GenerationConfig`.
    """
    settings["suppress_tokens"] = list(settings.get("suppress_tokens", ())) or None
    if settings.get("num_beams", 1) == 1:  # they warn
        settings = {k: v for k, v in settings.items() if k not in UNUSED_BY_GREEDY}
    start = torch.full((len(next(iter(images.values()))), 1), toys.START)
    out = model.generate(
        input_ids=start,
        attention_mask=torch.ones_like(start),
        max_length=LENGTH,
        eos_token_id=toys.END,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **images,
        **settings,
    )
    count = settings.get("num_return_sequences", 1)
    sequences = out.sequences.reshape(len(start), count, -1).tolist()
    scores = getattr(out, "sequences_scores", torch.full((len(sequences), count), torch.nan))
    scores = scores.reshape(len(start), count).tolist()
    return [
        [(score, until_end(row)) for score, row in zip(*of_image, strict=True)]
        for of_image in zip(scores, sequences, strict=True)
    ]


def until_end(row):
    return row[: row.index(toys.END) + 1] if toys.END in row else row


def our_captions(model, memory, **settings):
    settings = DecodeSettings(max_length=LENGTH, pad=PAD, **settings)
    decode = jax.jit(lambda memory: generate(model, memory, settings))
    decoded = jax.tree.map(np.asarray, decode(memory))
    return [toys.rows(decoded, image) for image in range(len(memory))]


def steps(row):
    return sorted(itertools.pairwise(row))


def assert_equal(theirs, ours):
    for their_rows, our_rows in zip(theirs, ours, strict=True):
        for (_, expected), (_, found) in zip(their_rows, our_rows, strict=True):
            # In a Markov chain the same steps in another order have the same score but for its
            # rounding, which decides which of them comes first.
            assert expected == found or steps(expected) == steps(found)
        for (expected, _), (found, _) in zip(their_rows, our_rows, strict=True):
            if not np.isnan(expected):  # greedy decoding has no scores there
                np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def check(settings, *, seed):
    table = toys.tables(seed, batch=IMAGES, vocabulary=VOCABULARY, end=1.5)
    settings = settings | {"num_return_sequences": settings["num_beams"]}
    theirs = their_captions(MarkovLM(table), {"images": torch.arange(IMAGES)}, **settings)
    assert_equal(theirs, our_captions(toys.Markov(), table, **settings))


@pytest.mark.parametrize("number", range(8))
def test_same_captions_and_scores(number):
    for seed, settings in enumerate(covering_combinations()):
        if seed % 8 == number:
            check(settings, seed=seed)


@pytest.mark.slow
def test_same_captions_and_scores_over_the_whole_grid():
    for seed, settings in enumerate(every_combination()):
        check(settings, seed=1000 + seed)


# --- A real decoder ---

WIDTH, SOURCES = 16, 5


@pytest.fixture
def trocr():
    """Returns (their TrOCR, our decoder with the same random weights, a memory)."""
    peer = transformers.TrOCRForCausalLM(
        transformers.TrOCRConfig(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            decoder_layers=2,
            decoder_attention_heads=4,
            decoder_ffn_dim=32,
            activation_function="gelu",
            max_position_embeddings=LENGTH,
            cross_attention_hidden_size=WIDTH,
            layernorm_embedding=False,
            scale_embedding=False,
            dropout=0.0,
            is_decoder=True,
            add_cross_attention=True,
        )
    )
    # Alone, without its VisionEncoderDecoderModel, its cache takes the memory for tokens.
    peer.generation_config.use_cache = False
    pair = peers.make_pair(
        peer,
        "captioner",
        source="hf",
        dtype="float32",
        vocab_size=VOCABULARY,
        encoder=None,
        feature_width=WIDTH,
        width=WIDTH,
        depth=2,
        num_heads=4,
        hidden_width=32,
        max_length=LENGTH,
        norm_first=False,
    )
    memory = np.random.default_rng(0).normal(0, 2, (8, SOURCES, WIDTH)).astype(np.float32)
    return peer, pair.model, memory


def test_same_captions_of_a_real_decoder(trocr):
    peer, model, memory = trocr
    graphdef, state = nnx.split(model)
    features = {"encoder_hidden_states": torch.from_numpy(memory)}
    different = set()
    for settings in covering_combinations()[::3]:
        settings = settings | {"num_return_sequences": settings["num_beams"]}
        theirs = their_captions(peer, features, **settings)
        assert_equal(theirs, our_captions(nnx.merge(graphdef, state), memory, **settings))
        different |= {tuple(row) for rows in theirs for _, row in rows}
    assert len(different) > 20


# --- The rules of sampling ---


def test_same_tokens_are_kept_for_sampling():
    logits = np.random.default_rng(0).normal(0, 3, (50, 200)).astype(np.float32)
    on_torch = torch.from_numpy(logits)
    for count in (1, 5, 199):
        theirs = logits_process.TopKLogitsWarper(count)(None, on_torch)
        np.testing.assert_array_equal(sampling.keep_top_k(jnp.asarray(logits), count), theirs)
    for probability in (0.05, 0.5, 0.9, 0.999):
        theirs = logits_process.TopPLogitsWarper(probability)(None, on_torch)
        np.testing.assert_array_equal(sampling.keep_top_p(jnp.asarray(logits), probability), theirs)
