"""A Hugging Face `tokenizer.json` behind the interface of `tokenizer.py`; the released model uses Gemma 3's.

Needs the optional package tokenizers: `pip install "minizaya[checkpoints]"`. The file is JSON and nothing in it is run.

trap: the package turns "<bos>" in a text into the control token, whoever wrote it, also with add_special_tokens=False.
Here `encode` breaks such a text in two, so that it stays text.
"""

import re
from pathlib import Path
from types import ModuleType

from .tokenizer_base import SPECIALS, Tokenizer, any_of


class HFTokenizer(Tokenizer):
    """`to_dict` holds the whole file, so that a checkpoint needs nothing beside it: tens of megabytes for Gemma 3's.

    Args:
        file: path of a tokenizer.json.
        names: our special token -> the file's, where they differ. Gemma 3's own file has no ChatML tokens; there, for
            instance, {"<|im_start|>": "<start_of_turn>", "<|im_end|>": "<end_of_turn>", "<think>": "<unused0>",
            "</think>": "<unused1>"}. Texts use our names.

    The rule: a text is what its pieces are, since prompts are put together from pieces. A file that marks where a text
    begins or ends (Llama 2's puts a space before each, so that "a" and "b" give "a b") does not keep it: it is refused.

    Raises ValueError if the file cannot be read or marks texts, if a special token of SPECIALS is not in it, or if two
    of the chat template's share one id; ModuleNotFoundError, with what to install, without the package. `encode` raises
    ValueError, too, for text whose pieces the file itself turns into a control token (by normalising them, say).
    """

    kind = "huggingface"

    def __init__(self, file: str | Path, names: dict[str, str] | None = None):
        package = _package()
        if not Path(file).is_file():
            raise ValueError(f"file: there is no {file}")
        self._read(package, Path(file).read_bytes(), str(file), names or {})

    @classmethod
    def from_dict(cls, data: dict) -> "HFTokenizer":
        """The tokenizer that `to_dict` described. Raises ValueError for anything else, ModuleNotFoundError as above."""
        text, names = data.get("file"), data.get("names")
        if not (isinstance(text, str) and isinstance(names, dict) and all(isinstance(v, str) for v in names.values())):
            raise ValueError("data for a huggingface tokenizer must have file, the text of a tokenizer.json, "
                             "and names, a dict")
        made = cls.__new__(cls)
        made._read(_package(), text.encode(), "the tokenizer.json in data", names)
        return made

    def to_dict(self) -> dict:
        return {"kind": self.kind, "file": self.inner.to_str(), "names": self.names}

    def _read(self, package: ModuleType, content: bytes, file: str, names: dict[str, str]) -> None:
        """What both ways of making one have in common. file: how messages call it."""
        try:
            self.inner = package.Tokenizer.from_buffer(content)
        except Exception as error:   # the package raises plain Exception
            raise ValueError(f"file: {file} is no tokenizer.json ({error})") from error
        self.names = names
        self.inner.no_truncation()   # trap: a file may carry both, and then long texts are cut in silence
        self.inner.no_padding()
        if mark := text_mark(self.inner):
            raise ValueError(f"file: {file} adds {mark!r} to every text, so pieces put together would not be their "
                             "text; allowed are files that add nothing (no Prepend, no prefix space, no end of word)")

        theirs = {token: token for token in SPECIALS} | names
        unknown = sorted(set(theirs) - set(SPECIALS))
        missing = sorted({token for token in theirs.values() if self.inner.token_to_id(token) is None})
        if unknown:
            raise ValueError(f"names: {unknown} are not ours to rename, allowed {list(SPECIALS)}")
        if missing:
            raise ValueError(f"names: {file} has no tokens {missing}; say which of its tokens stand for ours, as in "
                             f'{{"<think>": "<unused0>"}}')
        special_ids = {ours: self.inner.token_to_id(token) for ours, token in theirs.items()}
        template = {token: i for token, i in special_ids.items() if token not in ("<pad>", "<eos>", "<unk>")}
        if len(set(template.values())) < len(template):
            raise ValueError(f"names: <bos>, turn marks and think tags must be different tokens, got {theirs}")
        self.set_specials(special_ids, max(self.inner.get_vocab().values()) + 1)

        # Control tokens: what no text may become, and how each is written. Where <eos> and <|im_end|> are one token,
        # as in the released model, the template's name is written: the last one counts.
        added = self.inner.get_added_tokens_decoder()
        self.text_of = {i: token.content for i, token in added.items() if token.special}
        self.text_of |= {i: token for names in (special_ids, template) for token, i in names.items()}
        self._theirs = any_of(map(self.inner.id_to_token, self.text_of))

    def _encode_ordinary(self, text: str) -> list[int]:
        ids = self._ids(text)
        if not self.text_of.keys().isdisjoint(ids):
            # "<bos>" becomes "<" and "bos>": two texts, neither of which is a control token
            halves = [half for piece in self._theirs.split(text)
                      for half in ((piece[:1], piece[1:]) if self._theirs.fullmatch(piece) else (piece,))]
            ids = [i for half in halves for i in self._ids(half)]
        found = self.text_of.keys() & set(ids) - {self.unk_id}   # <unk> is how some files write a rare character
        if found:
            raise ValueError(f"text: the file reads a part of it as {self.text_of[min(found)]}, a control token")
        return ids

    def encode_written(self, text: str, tags: re.Pattern, controls: set[int]) -> list[int]:
        """Ids of a text whose tokens of `controls` are those that `tags` finds in it, and no others.

        Raises ValueError where the file makes others of it.
        """
        ids = self._ids(text)
        meant = [self.inner.token_to_id(tag) for tag in tags.findall(text)]
        controls = controls - {self.unk_id}
        found, meant = ([i for i in own if i in controls] for own in (ids, meant))
        if found != meant:
            odd = [self.inner.id_to_token(i) for i in found if found.count(i) > meant.count(i)]
            raise ValueError(f"text: the file reads a part of it as {odd[0]}, a control token" if odd else
                             "text: the file does not read its control tokens one by one")
        return ids

    def _decode_ordinary(self, ids: list[int]) -> str:
        return self.inner.decode(ids)

    def _ids(self, text: str) -> list[int]:
        try:
            return self.inner.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):
            raise ValueError("text: it holds a lone surrogate, which has no UTF-8 bytes") from None


def text_mark(inner: object) -> str:
    """What a tokenizer of the package writes before or behind every text that it is given; "" for nothing."""
    letter = "a"
    written = inner.normalizer.normalize_str(letter) if inner.normalizer else letter
    if inner.pre_tokenizer:
        written = "".join(piece for piece, _ in inner.pre_tokenizer.pre_tokenize_str(written))
    before, found, after = written.partition(letter)
    return before + after + (getattr(inner.model, "end_of_word_suffix", None) or "") if found else ""


def _package() -> ModuleType:
    """The package tokenizers. Raises ModuleNotFoundError that says how to get it."""
    try:
        import tokenizers
    except ImportError as error:
        raise ModuleNotFoundError('HFTokenizer needs tokenizers: pip install "minizaya[checkpoints]"') from error
    return tokenizers
