"""A tokenizer.json, made here."""

import pytest

tokenizers = pytest.importorskip("tokenizers")


def byte_level_bpe(path, specials):
    """A tiny real tokenizer.json: byte-level BPE with merges, and a truncation that must not be obeyed."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=320, special_tokens=list(specials), show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(["assistant user think <think> the answer is 12, then 132\n"] * 20, trainer)
    inner.enable_truncation(3)
    inner.enable_padding(length=9)
    inner.save(str(path))
    return path
