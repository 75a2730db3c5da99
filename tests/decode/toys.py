"""Small models for decoding, and plain Python searches to hold it against."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.decode.generate import generate

START, END = 1, 2


class Markov:
    """Logits by the last two tokens of a row; the memory [B, V, V, V] is the table of each image.

    The token before the last is found in the cache by the ancestry alone.
    """

    def start(self, memory, *, num_beams, max_length):
        written = jnp.zeros((memory.shape[0], max_length, num_beams), jnp.int32)
        return {"table": memory, "written": written}

    def step(self, cache, tokens, position, ancestry):
        written = cache["written"].at[:, position].set(tokens)
        # Position -1 would be the last one, where nothing has been written: token 0.
        path = ancestry[:, :, position - 1] * written[:, None, position - 1]
        before = jnp.where(position > 0, jnp.sum(path, axis=-1), 0)
        images = jnp.arange(tokens.shape[0])[:, None]
        logits = cache["table"][images, before, tokens]
        return logits, {"table": cache["table"], "written": written}


MARKOV = Markov()


@functools.cache
def compiled(model, settings):
    """Returns the decoding by a model; tests of the same settings compile it once."""

    @jax.jit
    def run(memory, key=None, image_ids=None):
        return generate(model, memory, settings, key=key, image_ids=image_ids)

    return run


def tables(seed, *, batch=4, vocabulary=12, scale=2.0, end=0.0):
    """Returns random tables of Markov; `end` is added to the logits of END."""
    shape = (batch, vocabulary, vocabulary, vocabulary)
    table = np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)
    table[..., END] += end
    return table


def markov_log_probs(table):
    """Returns the function from the tokens of a row to the log-probabilities of the next."""
    shifted = table.astype(np.float64) - table.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return lambda tokens: log_probs[tokens[-2] if len(tokens) > 1 else 0, tokens[-1]]


class TinyAttention:
    """Two layers of self-attention over a cache of all rows, added to an image's vector [B, D]."""

    def __init__(self, seed, *, vocabulary=12, width=8, length=10):
        keys = iter(jax.random.split(jax.random.key(seed), 20))
        normal = lambda *shape: jax.random.normal(next(keys), shape)  # noqa: E731
        self.embedding, self.positions = normal(vocabulary, width), normal(length, width)
        self.layers = [[normal(width, width) * 0.5 for _ in range(3)] for _ in range(2)]
        self.head = normal(width, vocabulary)

    def start(self, memory, *, num_beams, max_length):
        shape = (memory.shape[0], max_length, num_beams, memory.shape[1])
        return {"memory": memory, "layers": [(jnp.zeros(shape), jnp.zeros(shape))] * 2}

    def step(self, cache, tokens, position, ancestry):
        x = self.embedding[tokens] + self.positions[position][None, None]
        x += cache["memory"][:, None]
        layers = []
        for (query, key, value), (keys, values) in zip(self.layers, cache["layers"], strict=True):
            keys = keys.at[:, position].set(x @ key)
            values = values.at[:, position].set(x @ value)
            scores = jnp.einsum("bkd,btjd->bktj", x @ query, keys)
            scores = jnp.where(ancestry, scores, -jnp.inf)
            weights = jax.nn.softmax(scores, axis=(-2, -1))
            x = jnp.tanh(x + jnp.einsum("bktj,btjd->bkd", weights, values))
            layers.append((keys, values))
        return x @ self.head, {"memory": cache["memory"], "layers": layers}

    def log_probs(self, memory):
        """Returns the function of one image's rows, computed anew and without a cache."""

        def of(tokens):
            tokens = np.array(tokens)
            x = self.embedding[tokens] + self.positions[: len(tokens)] + memory[None]
            for query, key, value in self.layers:
                scores = (x @ query) @ (x @ key).T
                scores = jnp.where(jnp.tri(len(tokens), dtype=bool), scores, -jnp.inf)
                x = jnp.tanh(x + jax.nn.softmax(scores, axis=-1) @ (x @ value))
            return np.asarray(jax.nn.log_softmax(x[-1] @ self.head), np.float64)

        return of


def everything(log_probs, *, vocabulary, max_length):
    """Yields (sum of log-probabilities, tokens) of every row that there is."""
    words = [token for token in range(vocabulary) if token != END]
    for count in range(max_length):
        for middle in itertools.product(words, repeat=count):
            row = [START, *middle] + ([END] if count < max_length - 1 else [])
            yield sum(log_probs(row[:i])[row[i]] for i in range(1, len(row))), row


def beam_of_the_text(log_probs, *, beams, max_length):
    """The source text's beam search: raw sums, and finished beams keep their place."""
    kept = [(0.0, [START])]
    for _ in range(max_length - 1):
        options = []
        for score, row in kept:
            if row[-1] == END:
                options.append((score, row))
                continue
            following = log_probs(row)
            options += [(score + following[i], [*row, i]) for i in range(len(following))]
        kept = sorted(options, key=lambda option: -option[0])[:beams]
        if all(row[-1] == END for _, row in kept):
            break
    return kept[0]


def search(log_probs, settings):
    """Beam search of one image as a human would write it, groups included.

    Returns [(score, tokens), ...], the best first.
    """
    groups = settings.num_beam_groups
    width = settings.num_beams // groups
    norms = settings.norms()
    running = [[(0.0, [settings.start])] for _ in range(groups)]
    finished = [[] for _ in range(groups)]
    is_open = [True] * groups
    for length in range(1, settings.max_length):
        last = length == settings.max_length - 1
        used = {}
        for group in range(groups):
            options = []
            for score, row in running[group]:
                following = log_probs(row)
                for token in range(len(following)):
                    cost = settings.diversity_penalty * used.get(token, 0)
                    options.append((score + following[token] - cost, [*row, token]))
            options.sort(key=lambda option: -option[0])
            if is_open[group]:
                for score, row in options[:width]:
                    if last or row[-1] == settings.end:
                        finished[group].append((score / norms[length], row))
                finished[group] = sorted(finished[group], key=lambda x: -x[0])[:width]
            running[group] = [x for x in options if x[1][-1] != settings.end][:width]
            if is_open[group]:
                for _, row in running[group]:
                    used[row[-1]] = used.get(row[-1], 0) + 1
            if len(finished[group]) == width:
                longest = settings.early_stopping == "never" and settings.length_penalty > 0
                best = running[group][0][0] / norms[-1 if longest else length]
                if settings.early_stopping is True or best <= finished[group][-1][0]:
                    is_open[group] = False
    everyone = sorted((x for group in finished for x in group), key=lambda x: -x[0])
    return everyone[: settings.num_return_sequences]


def rows(decoded, image):
    """Returns [(score, tokens without padding), ...] of one image."""
    return [
        (float(score), [int(token) for token in tokens[:length]])
        for tokens, score, length in zip(*(x[image] for x in decoded), strict=True)
    ]


def assert_same(found, expected, *, tolerance=1e-5):
    """Asserts equal tokens in equal order, and scores up to rounding."""
    assert [tokens for _, tokens in found] == [tokens for _, tokens in expected]
    np.testing.assert_allclose(
        [score for score, _ in found], [score for score, _ in expected], rtol=tolerance, atol=1e-5
    )
