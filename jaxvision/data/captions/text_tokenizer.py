"""Tokenizers that come with a published text encoder: CLIP's, SigLIP's, any of `tokenizers`."""

import gzip
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from jaxvision.data.captions.subword import tokenizers_library
from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.data.json_file import read_json
from jaxvision.data.source import DataError
from jaxvision.errors import reason, shorten

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
# CLIP's: what a contraction, a word, a digit and a run of other signs are.
_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_NUM_MERGES = 49_152 - 256 - 2  # of the file that CLIP's authors published, whose rest is not used
_MOST_BYTES = 64 * 2**20
WANTED = (
    "tokenizer.json of the package tokenizers, a folder with it or with vocab.json and merges.txt, "
    "or CLIP's bpe_simple_vocab_16e6.txt.gz"
)


class TextTokenizer(Vocabulary):
    """A tokenizer that has its own rules for what a text is, and for how it ends.

    Args:
      tokenizer: JSON text of a tokenizer of the `tokenizers` package, which adds the token that
        ends a text.
      pad: Number of the token that fills a row; None: of the one that ends a text.
      where: Name of the file, for the text of an error.

    Raises:
      DataError: if it is none, or adds no token behind a text.
    """

    def __init__(self, tokenizer: str, pad: int | None = None, *, where: str = "the tokenizer"):
        library = tokenizers_library()
        try:
            self._tokenizer = library.Tokenizer.from_str(tokenizer)
        except Exception as error:  # the package raises the bare class
            raise DataError(
                f"{where} holds no tokenizer that can be read ({shorten(error)}); expected "
                f"{WANTED}."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        around = self._tokenizer.encode("").ids
        if not 1 <= len(around) <= 2:
            raise DataError(
                f"{where} adds {len(around)} tokens to an empty text; expected the one that ends a"
                " text, alone or behind one that starts it."
            )
        self.num_specials = len(around)
        self._around = frozenset(around)
        self._end, self._start = around[-1], around[0]
        self._pad = self._end if pad is None else pad
        numbers = self._tokenizer.get_vocab()
        size = max(numbers.values()) + 1
        if not 0 <= self._pad < size:
            raise DataError(f"{where} has the padding token {self._pad}, but {size} tokens.")
        words = [""] * size
        for word, number in numbers.items():
            words[number] = word
        self.words = tuple(words)

    @classmethod
    def from_json(cls, content: dict[str, Any], path: str) -> "TextTokenizer":
        """Returns the tokenizer in the content of a file that this project saved."""
        pad = content.get("pad")
        if pad is not None and type(pad) is not int:
            raise DataError(f"{path} has the padding token {shorten(pad)}; expected a number.")
        return cls(json.dumps(content["text_tokenizer"]), pad, where=path)

    def _content(self) -> dict[str, Any]:
        return {"text_tokenizer": json.loads(self._tokenizer.to_str()), "pad": self._pad}

    @property
    def pad(self) -> int:
        """Number of the token that fills a row."""
        return self._pad

    @property
    def start(self) -> int:
        """Number of the token that starts a text, or of the one that ends it."""
        return self._start

    @property
    def end(self) -> int:
        """Number of the token that ends a text."""
        return self._end

    @property
    def unk(self) -> int:
        """Number that no token has: a text has pieces for everything."""
        return -1

    def ids(self, caption: str) -> list[int]:
        """Returns the numbers of a text's tokens, without those around them."""
        return self._tokenizer.encode(caption, add_special_tokens=False).ids

    def encode(self, caption: str, max_length: int) -> Int32[np.ndarray, " max_length"]:
        """Returns the tokens of a text, those around it among them, padded to a length.

        Args:
          caption: Text; one that is too long loses tokens before its end.
          max_length: Number of tokens.
        """
        ids = self._tokenizer.encode(caption).ids
        if len(ids) > max_length:
            ids = [*ids[: max_length - 1], self._end]
        tokens = np.full(max_length, self._pad, np.int32)
        tokens[: len(ids)] = ids
        return tokens

    def decode(self, tokens: Int[np.ndarray, " length"] | Sequence[int]) -> str:
        """Returns the text up to its end."""
        ids = np.asarray(tokens).tolist()
        ends = [place for place, token in enumerate(ids) if token == self._end]
        ids = [token for token in ids[: ends[0] if ends else None] if token not in self._around]
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text.replace(_WORD_END, " ").strip()


def clip_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]], *, where: str) -> str:
    """Returns CLIP's tokenizer as JSON text: lower case, one blank, byte pairs of each word.

    Args:
      vocab: Number of each piece.
      merges: Pairs that become one piece, the first first.
      where: Name of the file, for the text of an error.

    Raises:
      DataError: if they do not belong together, or a token that starts or ends a text is missing.
    """
    library = tokenizers_library()
    for token in (_START, _END):
        if token not in vocab:
            raise DataError(f"{where} has no token {token}; expected {WANTED}.")
    try:
        tokenizer = library.Tokenizer(
            library.models.BPE(
                vocab=vocab, merges=merges, end_of_word_suffix=_WORD_END, unk_token=_END
            )
        )
    except Exception as error:  # the package raises the bare class
        raise DataError(
            f"{where}: its pieces and merges do not belong together ({shorten(error)})."
        ) from error
    normalizers, pre = library.normalizers, library.pre_tokenizers
    blanks = library.Regex(r"\s+")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(blanks, " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Split(library.Regex(_PIECES), behavior="removed", invert=True),
            pre.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.post_processor = library.processors.RobertaProcessing(
        (_END, vocab[_END]), (_START, vocab[_START]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([_START, _END])
    return tokenizer.to_str()


def read_tokenizer(path: pathlib.Path) -> TextTokenizer:
    """Returns the tokenizer in a file or folder that somebody has published.

    Args:
      path: Path of one of `WANTED`.

    Raises:
      DataError: if it is none, or damaged.
    """
    if path.is_dir():
        if (path / "tokenizer.json").is_file():
            path = path / "tokenizer.json"
        elif (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
            return _from_two_files(path)
        else:
            raise DataError(f"The folder {path} holds no tokenizer; expected {WANTED}.")
    if path.name.endswith((".txt", ".txt.gz")):
        return TextTokenizer(_published_merges(path), 0, where=str(path))
    content = read_json(str(path), wanted=WANTED)
    return TextTokenizer(json.dumps(content), _padding(path, content), where=str(path))


def _padding(path: pathlib.Path, content: dict[str, Any]) -> int | None:
    """Returns the number of the token that fills a row, as the files of transformers tell it."""
    beside = path.parent / "tokenizer_config.json"
    token = read_json(str(beside), wanted=WANTED).get("pad_token") if beside.is_file() else None
    token = token.get("content") if isinstance(token, dict) else token
    added = content.get("added_tokens")
    entries = [x for x in added if isinstance(x, dict)] if isinstance(added, list) else []
    for entry in entries if isinstance(token, str) else ():
        if entry.get("content") == token and type(entry.get("id")) is int:
            return entry["id"]
    padding = content.get("padding")
    number = padding.get("pad_id") if isinstance(padding, dict) else None
    return number if type(number) is int else None


def _from_two_files(folder: pathlib.Path) -> TextTokenizer:
    vocab = read_json(str(folder / "vocab.json"), wanted=WANTED)
    if not all(type(number) is int for number in vocab.values()):
        raise DataError(f"{folder / 'vocab.json'} must give each piece a number.")
    lines = _lines(folder / "merges.txt")
    merges = _pairs([x for x in lines if not x.startswith("#version")], folder / "merges.txt")
    return TextTokenizer(clip_tokenizer(vocab, merges, where=str(folder)), where=str(folder))


def _published_merges(path: pathlib.Path) -> str:
    """Returns CLIP's tokenizer from the list of merges alone, as its authors published it."""
    merges = _pairs(_lines(path)[1 : 1 + _NUM_MERGES], path)
    # The bytes that can be seen come first, in the order of their numbers, then the others.
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in seen]
    letters += [chr(256 + place) for place in range(256 - len(seen))]
    pieces = [*letters, *(f"{letter}{_WORD_END}" for letter in letters), *map("".join, merges)]
    vocab = {piece: number for number, piece in enumerate([*pieces, _START, _END])}
    return clip_tokenizer(vocab, merges, where=str(path))


def _pairs(lines: list[str], path: pathlib.Path) -> list[tuple[str, str]]:
    pairs = []
    for line in lines:
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2:
            raise DataError(f"{path} must have two pieces in each line, got {shorten(line)}.")
        pairs.append((parts[0], parts[1]))
    if not pairs:
        raise DataError(f"{path} holds no merges; expected {WANTED}.")
    return pairs


def _lines(path: pathlib.Path) -> list[str]:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it holds more than {_MOST_BYTES:,} bytes")
        return text.decode().split("\n")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); expected {WANTED}.") from error
