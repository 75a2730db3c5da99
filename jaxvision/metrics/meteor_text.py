"""The words that METEOR sees in a caption: it cuts and joins what the tokenizer has left."""

import re
from collections.abc import Mapping

_LETTER = r"A-Za-z\u0160\u017d\u0161\u017e\u0178\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e"
_LETTER += r"\u0400-\u04ff\u0500-\u0527\ua640-\ua66e\ua67e-\ua697\u1d00-\u1d7f"
# What is looked for, and what takes its place, one after the other.
_BEFORE_DOTS = ((rf"([^0-9{_LETTER}\s.'`,\-\u2018\u2019])", r" \1 "), (r"\.(\.+)", r" DOTMULTI\1"))
_AFTER_DOTS = (
    ("([^0-9]),([^0-9])", r"\1 , \2"),
    ("([0-9]),([^0-9])", r"\1 , \2"),
    ("([^0-9]),([0-9])", r"\1 , \2"),
    (r"[`\u2018\u2019]", "'"),
    (r"[\u201c\u201d]|''", ' " '),
    (r"\u2013", "-"),
    ("--", "-"),
    (rf"([0-9{_LETTER}.])-([0-9{_LETTER}])", r"\1 \2"),
    (rf"([^{_LETTER}])'([^{_LETTER}])", r"\1 ' \2"),
    (rf"([^0-9{_LETTER}])'([{_LETTER}])", r"\1 ' \2"),
    (rf"([{_LETTER}])'([^{_LETTER}])", r"\1 ' \2"),
    (rf"([{_LETTER}])'([{_LETTER}])", r"\1 '\2"),
    ("([0-9])'(s)", r"\1 '\2"),
)
_RULES = [
    [(re.compile(pattern, re.ASCII), other) for pattern, other in rules]
    for rules in (_BEFORE_DOTS, _AFTER_DOTS)
]
_DOTS_END = re.compile(r"DOTMULTI\.([^.])")
_HAS_LETTER = re.compile(f"[{_LETTER}]")
_PLAIN = re.compile("[a-z ]*")
_BLANKS = re.compile(r"[ \t\n\r\f]+")
_SPACES = re.compile(r"[ \u00a0\u2000-\u200a\u202f\u205f\u3000]+")


def meteor_words(caption: str, prefixes: Mapping[str, bool]) -> list[str]:
    """Returns the words of a caption, in small letters.

    Args:
      caption: Text of the caption, usually tokenized; "a t-shirt" becomes "a t shirt".
      prefixes: Words behind which a period ends no sentence, each with whether that holds before a
        number only.

    Source: METEOR 1.5, what its option -norm does for English.
    """
    if _PLAIN.fullmatch(caption):
        return caption.split()
    text = f" {caption} "
    for pattern, other in _RULES[0]:
        text = pattern.sub(other, text)
    while "DOTMULTI." in text:
        text = _DOTS_END.sub(r"DOTDOTMULTI \1", text)
        text = text.replace("DOTMULTI.", "DOTDOTMULTI")
    for pattern, other in _RULES[1]:
        text = pattern.sub(other, text)
    text = " ".join(_periods(_BLANKS.sub(" ", text).strip(" ").split(" "), prefixes))
    while "DOTDOTMULTI" in text:
        text = text.replace("DOTDOTMULTI", "DOTMULTI.")
    text = _SPACES.sub(" ", text.replace("DOTMULTI", ".")).lower()
    return [word for word in _BLANKS.split(text) if word]


def _periods(words: list[str], prefixes: Mapping[str, bool]) -> list[str]:
    """Returns the words with a period of its own behind those that end a sentence."""
    result = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        start = word.removesuffix(".")
        if len(word) < 2 or start == word:
            result.append(word)
        elif "." in start and _HAS_LETTER.search(start):
            result.append(word.replace(".", ""))
        elif prefixes.get(start) is False or "a" <= following[:1] <= "z":
            result.append(word)
        elif prefixes.get(start) and following[:1] in tuple("0123456789"):
            result.append(word)
        else:
            result.append(f"{start} .")
    return result
