"""All metrics against stored results of pycocoevalcap on real captions.

JAXVISION_METRIC_CASES names a folder of JSON files with `references`, `candidates` and what the
official tool makes of them: `expected` for the corpus, and where they are there `expected_per_item`
and the tokens. Without it nothing is tested.
"""

import json
import os
import pathlib

import numpy as np
import pytest

from jaxvision.metrics.caption import score_each_caption
from jaxvision.metrics.meteor_data import has_meteor
from jaxvision.metrics.ptb_tokenizer import ptb_tokenize

FOLDER = os.environ.get("JAXVISION_METRIC_CASES", "")
FILES = sorted(pathlib.Path(FOLDER).glob("*.json")) if FOLDER else []
METRICS = ["bleu", "rouge_l", "cider", "meteor"]


@pytest.mark.skipif(not FOLDER, reason="JAXVISION_METRIC_CASES is not set")
def test_there_are_cases():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_case(path):
    case = json.loads(path.read_text())
    references, candidates = case["references"], case["candidates"]
    if "tokenized_references" in case:
        assert [[ptb_tokenize(c) for c in some] for some in references] == case[
            "tokenized_references"
        ]
        assert [ptb_tokenize(c) for c in candidates] == case["tokenized_candidates"]
    scores = score_each_caption(references, candidates, METRICS[: 3 + has_meteor()])
    for name, value in scores.corpus.items():
        peer = {"cider": "CIDEr"}.get(name, name.upper().replace("BLEU", "Bleu_"))
        assert value == pytest.approx(case["expected"][peer], abs=1e-9), name
        if "expected_per_item" in case:
            each = case["expected_per_item"][peer]  # rounded
            np.testing.assert_allclose(scores.each[name], each, atol=6e-7, err_msg=name)
