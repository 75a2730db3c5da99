"""The English (Porter2) stemmer."""

import functools
import re

_VOWELS = "aeiouy"
_DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")
_EXCEPTIONS = {
    "skis": "ski", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "idly": "idl",
    "gently": "gentl", "ugly": "ugli", "early": "earli", "only": "onli", "singly": "singl",
    "sky": "sky", "news": "news", "howe": "howe", "atlas": "atlas", "cosmos": "cosmos",
    "bias": "bias", "andes": "andes",
}  # fmt: skip
_INVARIANT = frozenset("inning outing canning herring earring proceed exceed succeed".split())
_STEP_2 = {
    "ization": "ize", "ational": "ate", "fulness": "ful", "ousness": "ous", "iveness": "ive",
    "tional": "tion", "biliti": "ble", "lessli": "less", "entli": "ent", "ation": "ate",
    "alism": "al", "aliti": "al", "ousli": "ous", "iviti": "ive", "fulli": "ful", "enci": "ence",
    "anci": "ance", "abli": "able", "izer": "ize", "ator": "ate", "alli": "al", "bli": "ble",
}  # fmt: skip
_STEP_3 = {
    "ational": "ate", "tional": "tion", "alize": "al", "icate": "ic", "iciti": "ic", "ical": "ic",
    "ness": "", "ful": "",
}  # fmt: skip
_STEP_4 = ("ement", "ance", "ence", "able", "ible", "ment", "ant", "ent", "ism", "ate", "iti",
           "ous", "ive", "ize", "al", "er", "ic")  # fmt: skip
_REGION = re.compile("[aeiouy][^aeiouy]")
_PREFIXES = ("gener", "commun", "arsen")


@functools.lru_cache(1 << 16)
def stem(word: str) -> str:
    """Returns the stem of a word in small letters.

    Source: Porter 2002, https://snowballstem.org/algorithms/english/stemmer.html.
    """
    if word in _EXCEPTIONS:
        return _EXCEPTIONS[word]
    if len(word) <= 2:
        return word
    word = word.removeprefix("'")
    # Y stands for a y that is a consonant.
    word = re.sub("(^|[aeiouy])y", r"\1Y", word)
    r1 = next((len(prefix) for prefix in _PREFIXES if word.startswith(prefix)), None)
    if r1 is None:
        r1 = _region(word, 0)
    r2 = _region(word, r1)
    word = _step_1a(re.sub("'(s'?)?$", "", word))
    if word not in _INVARIANT:
        word = _step_1c(_step_1b(word, r1))
        word = _step_3(_step_2(word, r1), r1, r2)
        word = _step_5(_step_4(word, r2), r1, r2)
    return word.replace("Y", "y")


def _region(word: str, start: int) -> int:
    """Returns where the part after the first consonant after a vowel begins."""
    match = _REGION.search(word, start)
    return match.end() if match else len(word)


def _step_1a(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")):
        return word[:-1] if _has_vowel(word[:-2]) else word
    return word


def _step_1b(word: str, r1: int) -> str:
    for ending in ("eedly", "eed"):
        if word.endswith(ending):
            return word[: -len(ending)] + "ee" if len(word) - len(ending) >= r1 else word
    for ending in ("ingly", "edly", "ing", "ed"):
        if word.endswith(ending):
            rest = word[: -len(ending)]
            if not _has_vowel(rest):
                return word
            if rest.endswith(("at", "bl", "iz")):
                return rest + "e"
            if rest.endswith(_DOUBLES):
                return rest[:-1]
            return rest + "e" if len(rest) <= r1 and _ends_short(rest) else rest
    return word


def _step_1c(word: str) -> str:
    if len(word) > 2 and word[-1] in "yY" and word[-2] not in _VOWELS:
        return word[:-1] + "i"
    return word


def _step_2(word: str, r1: int) -> str:
    for ending, other in _STEP_2.items():
        if word.endswith(ending):
            return _replace(word, ending, other, r1)
    if word.endswith("ogi"):
        return _replace(word, "ogi", "og", r1) if word[-4:-3] == "l" else word
    if word.endswith("li"):
        return _replace(word, "li", "", r1) if word[-3:-2] in tuple("cdeghkmnrt") else word
    return word


def _step_3(word: str, r1: int, r2: int) -> str:
    for ending, other in _STEP_3.items():
        if word.endswith(ending):
            return _replace(word, ending, other, r1)
    return _replace(word, "ative", "", r2) if word.endswith("ative") else word


def _step_4(word: str, r2: int) -> str:
    for ending in _STEP_4:
        if word.endswith(ending):
            return _replace(word, ending, "", r2)
    if word.endswith("ion") and word[-4:-3] in tuple("st"):
        return _replace(word, "ion", "", r2)
    return word


def _step_5(word: str, r1: int, r2: int) -> str:
    last = len(word) - 1
    if word.endswith("e") and (last >= r2 or (last >= r1 and not _ends_short(word[:-1]))):
        return word[:-1]
    if word.endswith("ll") and last >= r2:
        return word[:-1]
    return word


def _replace(word: str, ending: str, other: str, region: int) -> str:
    """Returns a word with another ending, if the ending is inside the region."""
    start = len(word) - len(ending)
    return word[:start] + other if start >= region else word


def _has_vowel(text: str) -> bool:
    return any(letter in _VOWELS for letter in text)


def _ends_short(text: str) -> bool:
    """Returns whether a short syllable ends the text."""
    if len(text) == 2:
        return text[0] in _VOWELS and text[1] not in _VOWELS
    return (
        len(text) > 2
        and text[-1] not in "aeiouywxY"
        and text[-2] in _VOWELS
        and text[-3] not in _VOWELS
    )
