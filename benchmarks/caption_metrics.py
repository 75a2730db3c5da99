"""Scoring captions beside pycocoevalcap: seconds of each metric, in alternating blocks.

`python benchmarks/caption_metrics.py`, ten minutes on 2 CPU cores. The captions are random words
with the frequencies of a language, 8 to 14 of them; both score the same tokens and get the same
numbers. Each call of METEOR reads its word lists anew on both sides, as a first call does.
"""

import argparse
import itertools
import os
import shutil
import string

import numpy as np
import timing
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from jaxvision.metrics import meteor
from jaxvision.metrics.caption import score_captions
from jaxvision.metrics.ptb_tokenizer import ptb_tokenize

WORDS = """a the in of on man dog woman two with person street red white small large black running
standing holding riding ball grass water beach people young next to front field horse bus car train
table plate food cat sitting large green""".split()


def corpus(images, captions, vocabulary=3000):
    """Returns references and candidates; rank r has the frequency 1 / r."""
    rng = np.random.default_rng(0)
    others = map("".join, itertools.product(string.ascii_lowercase, repeat=3))
    words = [*WORDS, *itertools.islice(others, vocabulary - len(WORDS))]
    frequency = 1 / np.arange(1, vocabulary + 1)

    def caption():
        chosen = rng.choice(vocabulary, rng.integers(8, 15), p=frequency / frequency.sum())
        return " ".join(words[i] for i in chosen)

    return [[caption() for _ in range(captions)] for _ in range(images)], [
        caption() for _ in range(images)
    ]


def main():
    """Prints a line for each metric, and one for BLEU, ROUGE-L and CIDEr together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=5, help="references of each image")
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    references, candidates = corpus(options.images, options.captions)
    wanted = dict(enumerate(references)), {i: [text] for i, text in enumerate(candidates)}
    raw = {i: [{"caption": text} for text in texts] for i, texts in wanted[0].items()}

    def ours(*metrics):
        return lambda: score_captions(references, candidates, metrics, tokenize=False)

    def theirs(make, **arguments):
        return lambda: make().compute_score(*wanted, **arguments)[0]

    peers = {
        "bleu": theirs(lambda: Bleu(4), verbose=0),
        "rouge_l": theirs(Rouge),
        "cider": theirs(Cider),
    }
    pairs = {name: (ours(name), call) for name, call in peers.items()}
    pairs["all three"] = ours(*peers), lambda: [call() for call in peers.values()]
    if shutil.which("java"):

        def ours_from_disk():
            meteor._data.cache_clear()
            return ours("meteor")()

        pairs["meteor"] = ours_from_disk, theirs(Meteor)
        pairs["tokens"] = (
            lambda: [[ptb_tokenize(text) for text in texts] for texts in references],
            lambda: _quiet(lambda: PTBTokenizer().tokenize(raw)),
        )
    print(timing.machine())
    print(f"{options.images} candidates, {options.captions} references each; seconds a call")
    print(f"{'':<10} {'jaxvision':<32} {'pycocoevalcap':<32} ratio")
    for name, (mine, peer) in pairs.items():
        if name in peers or name == "meteor":
            scores, expected = mine(), np.ravel(peer())
            np.testing.assert_allclose(list(scores.values()), expected, atol=1e-9)
        times = timing.compare({"ours": mine, "peer": peer}, blocks=options.blocks, warm=1)
        ratio = times["ours"].median / times["peer"].median
        columns = [_seconds(times[system]) for system in ("ours", "peer")]
        print(f"{name:<10} {columns[0]:<32} {columns[1]:<32} {ratio:.3f}", flush=True)


def _seconds(times):
    note = f", {times.disturbed} disturbed" if times.disturbed else ""
    return f"{times.median:.3f} [{min(times.seconds):.3f}-{max(times.seconds):.3f}{note}]"


def _quiet(call):
    """Calls what starts a program that writes to the standard error."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        return call()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


if __name__ == "__main__":
    main()
