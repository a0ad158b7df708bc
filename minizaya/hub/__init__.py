"""Checkpoints in and out: folders of safetensors in three layouts, `transformers`' ZAYA to ours and back, bit for bit.

    mz.hub.save(model, "out", layout="transformers")     # "minizaya", "transformers" or "original"
    model = mz.hub.load("out")
    model = mz.hub.from_transformers(theirs)

In reading order: `names` (what each tensor is called, and how ours is cut), `config_keys` and `config_json` (sizes and
switches, in three dialects), `contents` (what lies in a folder, checked before a number is read), `shards` (folders of
any size, a tensor at a time), `released` (`transformers`' objects), `mapped`, `paged_step` and `paging` (the 8B from
its file), `weights` (a folder as something that answers), `golden` (is a folder what was released?), `zoo` (the
checkpoints that come with the package).
"""

from .names import rename, unrename
from .released import config_from_transformers, config_to_transformers, from_transformers, to_transformers
from .shards import load, save

__all__ = ["config_from_transformers", "config_to_transformers", "from_transformers", "load", "rename", "save",
           "to_transformers", "unrename"]
