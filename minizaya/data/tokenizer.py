"""Two small tokenizers: `ByteTokenizer` reads any text at all, one id per UTF-8 byte. `CharTokenizer` knows a fixed
alphabet: one id per character, so sequences are short and a nano model wastes nothing on bytes it never sees.

Ids are laid out alike in both: the ordinary ids first (0, 1, 2, ...), the special tokens after them.
"""

from collections.abc import Iterable

from .hf_tokenizer import HFTokenizer
from .tokenizer_base import SPECIALS, Tokenizer


class SmallTokenizer(Tokenizer):
    """`num_ordinary` ids of ordinary text, then one for each of `specials`."""

    def __init__(self, num_ordinary: int, specials: Iterable[str]):
        self.specials, self.num_ordinary = _checked_specials(specials), num_ordinary
        ids = range(num_ordinary, num_ordinary + len(self.specials))
        self.set_specials(dict(zip(self.specials, ids)), ids.stop)

    def to_dict(self) -> dict:
        return {"kind": self.kind, "specials": list(self.specials)}


class ByteTokenizer(SmallTokenizer):
    """One id per UTF-8 byte: id 65 is the byte 65, "A". Ids from 256 on are the special tokens.

    decode(encode(text)) == text for any text. Bytes that are not valid UTF-8 (a model may write some) decode to U+FFFD,
    the replacement character.
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


class CharTokenizer(SmallTokenizer):
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
            raise ValueError(f"text: {char!r} at position {text.index(char)} is not one of the {len(self.alphabet)} "
                             f"characters of the alphabet") from None

    def _decode_ordinary(self, ids: list[int]) -> str:
        return "".join(self.alphabet[i] for i in ids)


def from_dict(data: dict) -> Tokenizer:
    """The tokenizer that `to_dict` described, also a `HFTokenizer`. Raises ValueError for anything else."""
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
