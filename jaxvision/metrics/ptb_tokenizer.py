"""The tokens that caption evaluation counts: Penn Treebank's, in small letters, unpunctuated."""

import functools
import re

from jaxvision.metrics.ptb_rules import make_rules

# What caption evaluation leaves out. It looks for capitals where the tokens have none any more, so
# the names of brackets, such as -lrb-, stay words; papers' scores are computed so.
_PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-")
    + (".", "?", "!", ",", ":", "-", "--", "...", ";")
)
_BLANKS = re.compile("[\t \u00a0\u2000-\u200a\u3000]+")
_LINE_ENDS = re.compile("[\r\n\u000b\u000c\u2028\u2029]")
_UNKNOWN = re.compile("[\U00010000-\U0010ffff]")
# A stretch between blanks whose tokens no other stretch has a say in. A period may belong to an
# abbreviation, and then to whatever follows.
_ALONE = re.compile(
    r"""[A-Za-z,;:!?'"&-]*|[A-Za-z'-]*[A-Za-z]{2}\.|[A-Za-z][A-Za-z0-9]*|\.+""", re.ASCII
)
_CACHED_STRETCHES = 1 << 16

_rules = functools.cache(make_rules)


def ptb_tokenize(caption: str) -> str:
    """Returns the tokens of a caption, with blanks between them.

    They are those of the tokenizer of COCO's caption evaluation: "The man's hat, isn't it?" gives
    "the man 's hat is n't it". Text that has been tokenized stays as it is, but for rare cases.

    Args:
      caption: Caption in English; a line break in it is a blank.

    Note:
      A token that stands for two or three words, such as "3 1/2" or a telephone number, has
      no-break spaces inside. Characters outside of Unicode's first 65,536, emoji among them, are
      left out.

    Source: Stanford PTBTokenizer 3.4.1 with -preserveLines -lowerCase, which pycocoevalcap 1.2
    runs, and its removal of punctuation.
    """
    tokens: list[str] = []
    for stretch in caption.split(" "):
        alone = _tokens_alone(stretch)
        if alone is None:
            return " ".join(_scan(caption))
        tokens += alone
    return " ".join(tokens)


@functools.lru_cache(_CACHED_STRETCHES)
def _tokens_alone(stretch: str) -> list[str] | None:
    """Returns the tokens of a stretch between blanks, or None if its surroundings matter."""
    return _scan(stretch) if _ALONE.fullmatch(stretch) else None


def _scan(caption: str) -> list[str]:
    """Returns the tokens of a caption."""
    # The Java program sees a line end, and then the next caption.
    text = f"{_UNKNOWN.sub(chr(0), _LINE_ENDS.sub(' ', caption))}\nx"
    place, tokens = 0, []
    while place < len(text) - 2:
        if blanks := _BLANKS.match(text, place):
            place = blanks.end()
            continue
        longest, found, change = 0, None, str
        for rule in _rules():
            match = rule.pattern.match(text, place)
            if match and match.end() > longest:
                longest, found, change = match.end(), match, rule.change
        place = found.end(1) if found else place + 1
        if found and (token := change(found[1]).lower()) not in _PUNCTUATION:
            tokens.append(token)
    return tokens
