"""Tokenizers: text to ids and back.

Two small ones share one interface. `ByteTokenizer` reads any text at all: one id per UTF-8 byte.
`CharTokenizer` knows a fixed alphabet: one id per character, so sequences are short and a nano model
wastes nothing on bytes it never sees.

Ids are laid out alike in both: the ordinary ids first (0, 1, 2, ...), the special tokens after them.

trap: a special token such as <|im_end|> is a *control* token. If the same letters typed by a user became
that token, the user could end the conversation's turn. So `encode` spells them out as ordinary characters
unless `allow_special=True`, which only code that builds the template should say.
"""

import re
from collections.abc import Iterable

from .hf_tokenizer import SPECIALS, HFTokenizer


class Tokenizer:
    """What both tokenizers have in common; a subclass says how ordinary text becomes ids.

    Attributes:
        vocab_size: int, every id is in 0 .. vocab_size - 1.
        special_ids: dict from a special token's text to its id.
        pad_id, bos_id, eos_id, unk_id: int.
    """

    kind = ""

    def __init__(self, num_ordinary: int, specials: Iterable[str]):
        self.specials = _checked_specials(specials)
        self.special_ids = {token: num_ordinary + i for i, token in enumerate(self.specials)}
        self.num_ordinary = num_ordinary
        self.vocab_size = num_ordinary + len(self.specials)
        self.pad_id, self.bos_id = self.special_ids["<pad>"], self.special_ids["<bos>"]
        self.eos_id, self.unk_id = self.special_ids["<eos>"], self.special_ids["<unk>"]
        # Longest first: where one special begins another, the longer one must win.
        by_length = sorted(self.specials, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, by_length)) + ")")

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Ids of `text`. Special tokens in it are plain characters unless `allow_special`.

        Raises ValueError if the text holds a character that the tokenizer cannot write.
        """
        if not isinstance(text, str):
            raise ValueError(f"text must be a str, got {type(text).__name__}")
        if not allow_special:
            return self._encode_ordinary(text)
        ids = []
        for piece in self._split.split(text):
            if piece in self.special_ids:
                ids.append(self.special_ids[piece])
            else:
                ids.extend(self._encode_ordinary(piece))
        return ids

    def decode(self, ids: Iterable[int], keep_special: bool = True) -> str:
        """Text of `ids` (a list or a one-dimensional integer tensor).

        Special tokens come out as their text, or not at all with `keep_special=False`.
        Raises ValueError for an id outside 0 .. vocab_size - 1.
        """
        pieces, run = [], []
        for token in map(int, ids):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"ids: {token} is outside the vocabulary, allowed 0 to {self.vocab_size - 1}")
            if token < self.num_ordinary:
                run.append(token)
                continue
            pieces.append(self._decode_ordinary(run))
            run = []
            if keep_special:
                pieces.append(self.specials[token - self.num_ordinary])
        pieces.append(self._decode_ordinary(run))
        return "".join(pieces)

    def to_dict(self) -> dict:
        """A plain dict (strings, lists, booleans) that `from_dict` turns back into this tokenizer."""
        return {"kind": self.kind, "specials": list(self.specials)}

    def _encode_ordinary(self, text: str) -> list[int]:
        raise NotImplementedError

    def _decode_ordinary(self, ids: list[int]) -> str:
        raise NotImplementedError


class ByteTokenizer(Tokenizer):
    """One id per UTF-8 byte: id 65 is the byte 65, "A". Ids from 256 on are the special tokens.

    decode(encode(text)) == text for any text. Bytes that are not valid UTF-8 (a model may write some)
    decode to U+FFFD, the replacement character.
    """

    kind = "byte"

    def __init__(self, specials: Iterable[str] = SPECIALS):
        super().__init__(256, specials)

    def _encode_ordinary(self, text: str) -> list[int]:
        try:
            return list(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ValueError(f"text: the lone surrogate at position {error.start} has no UTF-8 bytes") from None

    def _decode_ordinary(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


class CharTokenizer(Tokenizer):
    """One id per character of `alphabet` (any text; its distinct characters are sorted), then the specials.

    Args:
        alphabet: the characters to know, at least one; repeats do not matter.
        unknown: what `encode` does with any other character. "error" raises ValueError and names it;
            "unk" writes the one id <unk>, which decodes to the text "<unk>": the character itself is lost.

    decode(encode(text)) == text for any text over the alphabet.
    """

    kind = "char"

    def __init__(self, alphabet: str, specials: Iterable[str] = SPECIALS, unknown: str = "error"):
        if not isinstance(alphabet, str) or not alphabet:
            raise ValueError(f"alphabet must be a str of at least one character, got {alphabet!r}")
        if unknown not in ("error", "unk"):
            raise ValueError(f"unknown must be 'error' or 'unk', got {unknown!r}")
        self.alphabet = "".join(sorted(set(alphabet)))
        self.unknown = unknown
        self._id_of = {char: i for i, char in enumerate(self.alphabet)}
        super().__init__(len(self.alphabet), specials)

    def to_dict(self) -> dict:
        return super().to_dict() | {"alphabet": self.alphabet, "unknown": self.unknown}

    def _encode_ordinary(self, text: str) -> list[int]:
        if self.unknown == "unk":
            return [self._id_of.get(char, self.unk_id) for char in text]
        try:
            return [self._id_of[char] for char in text]
        except KeyError as error:
            char = error.args[0]
            raise ValueError(
                f"text: {char!r} at position {text.index(char)} is not one of the "
                f"{len(self.alphabet)} characters of the alphabet"
            ) from None

    def _decode_ordinary(self, ids: list[int]) -> str:
        return "".join(self.alphabet[i] for i in ids)


def from_dict(data: dict):
    """The tokenizer that `to_dict` described, also that of `hf_tokenizer.HFTokenizer`. Raises ValueError for anything else."""
    kinds = {"byte": (ByteTokenizer, {"specials"}), "char": (CharTokenizer, {"specials", "alphabet", "unknown"})}
    if isinstance(data, dict) and data.get("kind") == "huggingface":
        return HFTokenizer.from_dict(data)
    if not isinstance(data, dict) or data.get("kind") not in kinds:
        raise ValueError(f"data must be a dict whose 'kind' is one of {sorted([*kinds, 'huggingface'])}, got {data!r}")
    cls, fields = kinds[data["kind"]]
    given = set(data) - {"kind"}
    if given != fields:
        raise ValueError(f"data for a {data['kind']} tokenizer must have {sorted(fields)}, got {sorted(given)}")
    return cls(**{field: data[field] for field in fields})


def _checked_specials(specials: Iterable[str]) -> tuple[str, ...]:
    if isinstance(specials, str) or not isinstance(specials, Iterable):
        raise ValueError(f"specials must be a list of str, got {specials!r}")
    specials = tuple(specials)
    if not all(isinstance(token, str) and token for token in specials) or len(set(specials)) != len(specials):
        raise ValueError(f"specials must be distinct, non-empty str, got {specials!r}")
    missing = [token for token in ("<pad>", "<bos>", "<eos>", "<unk>") if token not in specials]
    if missing:
        raise ValueError(f"specials must include {missing}, got {specials!r}")
    return specials
