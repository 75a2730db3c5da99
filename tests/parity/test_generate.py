"""Token for token what `transformers.generate` gives, for the same logits and settings."""

import itertools
import random

import jax
import numpy as np
import pytest
from decode import toys

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.modeling_outputs import CausalLMOutput  # noqa: E402

from jaxvision.decode.generate import generate  # noqa: E402
from jaxvision.decode.settings import DecodeSettings  # noqa: E402

pytestmark = pytest.mark.parity

VOCABULARY, IMAGES, LENGTH = 14, 12, 12
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
        self.generation_config = transformers.GenerationConfig()

    def prepare_inputs_for_generation(self, input_ids, images=None, attention_mask=None, **kwargs):
        return {"input_ids": input_ids, "images": images}

    def forward(self, input_ids, images=None, **kwargs):
        last = input_ids[:, -1]
        before = input_ids[:, -2] if input_ids.shape[1] > 1 else torch.zeros_like(last)
        return CausalLMOutput(logits=self.weight[images, before, last][:, None])


def their_captions(table, **settings):
    """Returns [[(score or None, tokens)]] for each image; rows end with END or at the limit."""
    images = table.shape[0]
    settings["suppress_tokens"] = list(settings.get("suppress_tokens", ())) or None
    if settings.get("num_beams", 1) == 1:
        settings = {
            k: v for k, v in settings.items() if k not in ("length_penalty", "early_stopping")
        }
    start = torch.full((images, 1), toys.START)
    out = MarkovLM(table).generate(
        input_ids=start,
        attention_mask=torch.ones_like(start),
        images=torch.arange(images),
        max_length=LENGTH,
        eos_token_id=toys.END,
        pad_token_id=VOCABULARY - 1,
        return_dict_in_generate=True,
        output_scores=True,
        use_cache=False,
        **settings,
    )
    count = settings.get("num_return_sequences", 1)
    sequences = out.sequences.reshape(images, count, -1).tolist()
    scores = getattr(out, "sequences_scores", None)
    scores = [[None] * count] * images if scores is None else scores.reshape(images, count).tolist()
    return [
        [(score, until_end(row)) for score, row in zip(*of_image, strict=True)]
        for of_image in zip(scores, sequences, strict=True)
    ]


def until_end(row):
    return row[: row.index(toys.END) + 1] if toys.END in row else row


def our_captions(table, **settings):
    settings = DecodeSettings(max_length=LENGTH, pad=VOCABULARY - 1, **settings)
    decode = jax.jit(lambda memory: generate(toys.Markov(), memory, settings))
    decoded = jax.tree.map(np.asarray, decode(table))
    return [toys.rows(decoded, image) for image in range(len(table))]


def assert_equal(theirs, ours):
    for their_rows, our_rows in zip(theirs, ours, strict=True):
        assert [row for _, row in their_rows] == [row for _, row in our_rows]
        for (expected, _), (found, _) in zip(their_rows, our_rows, strict=True):
            if expected is not None:
                np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def check(settings, *, seed):
    table = toys.tables(seed, batch=IMAGES, vocabulary=VOCABULARY, end=1.5)
    settings = settings | {"num_return_sequences": settings["num_beams"]}
    assert_equal(their_captions(table, **settings), our_captions(table, **settings))


@pytest.mark.parametrize("number", range(8))
def test_same_captions_and_scores(number):
    for seed, settings in enumerate(covering_combinations()):
        if seed % 8 == number:
            check(settings, seed=seed)


@pytest.mark.slow
def test_same_captions_and_scores_over_the_whole_grid():
    for seed, settings in enumerate(every_combination()):
        check(settings, seed=1000 + seed)
