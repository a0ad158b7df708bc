"""What every tokenizer has in common: special tokens, and the way around them.

trap: a special token such as <|im_end|> is a *control* token. If the same letters typed by a user became that token,
the user could end the conversation's turn. So `encode` spells them out as ordinary characters unless
`allow_special=True`, which only code that builds the template should say.
"""

import re
from collections.abc import Iterable

from .ids import token_ids

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


class Tokenizer:
    """The interface; a subclass says how ordinary text becomes ids.

    Attributes:
        vocab_size: int, every id is in 0 .. vocab_size - 1.
        special_ids: dict from a special token's text to its id.
        text_of: dict from the id of each control token to its text, also of those that have no name here.
        pad_id, bos_id, eos_id, unk_id: int.
    """

    kind = ""

    def set_specials(self, special_ids: dict[str, int], vocab_size: int) -> None:
        self.special_ids, self.vocab_size = special_ids, vocab_size
        self.text_of = {token: text for text, token in special_ids.items()}
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = (special_ids[f"<{name}>"] for name in
                                                              ("pad", "bos", "eos", "unk"))
        self._split = any_of(special_ids)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Ids of `text`. Special tokens in it are plain characters unless `allow_special`; <bos> is never added.

        Raises ValueError for what is no str, and for text that the tokenizer cannot write.
        """
        if not isinstance(text, str):
            raise ValueError(f"text must be a str, got {type(text).__name__}")
        if not allow_special:
            return self._encode_ordinary(text)
        ids = []
        for piece in self._split.split(text):
            ids.extend([self.special_ids[piece]] if piece in self.special_ids else self._encode_ordinary(piece))
        return ids

    def decode(self, ids: Iterable[int], keep_special: bool = True) -> str:
        """Text of `ids` (see `data.ids`).

        Special tokens come out as their text, or not at all with `keep_special=False`.
        Raises ValueError for what is no id, and for one outside 0 .. vocab_size - 1.
        """
        pieces, run = [], []
        for token in token_ids("ids", ids, self.vocab_size):
            if token not in self.text_of:
                run.append(token)
                continue
            pieces += [self._decode_ordinary(run), self.text_of[token] if keep_special else ""]
            run = []
        return "".join([*pieces, self._decode_ordinary(run)])

    def to_dict(self) -> dict:
        """A plain dict (strings, lists, booleans) that `tokenizer.from_dict` turns back into this tokenizer."""
        raise NotImplementedError

    def _encode_ordinary(self, text: str) -> list[int]:
        raise NotImplementedError

    def _decode_ordinary(self, ids: list[int]) -> str:
        raise NotImplementedError


def any_of(tokens: Iterable[str]) -> re.Pattern:
    """Matches any of the tokens, the longest first, for one may begin another; its split keeps them."""
    return re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")
