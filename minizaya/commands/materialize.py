"""`python -m minizaya materialize PRESET DIR`: a checkpoint folder of random weights, to try a size without a download.

    python -m minizaya materialize zaya1-8b runs/zaya8b        # 17.7 GB, a few minutes
    python -m minizaya sample --weights runs/zaya8b --prompt "Hello" --max-new-tokens 20

Tensor by tensor: each is drawn, written and dropped, so the peak lies near the largest one (the embedding, 1.07 GB at
8B). Written aside and renamed, so the folder is whole or not there.

Every number is drawn by itself, from a normal distribution, as a new `Zaya` has them. One thing differs: the router's
matrices get a deviation of 1 / sqrt(inputs), so that tokens spread over the experts as in a trained model. With 0.02
the routers hardly tell tokens apart, and a measurement of paging would read few experts.
"""

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..hub import shards
from ..hub.names import check_layout
from ..hub.weights import home
from ..plan.devices import disk_room
from ..train.checkpoint import model_state

SPARE = 2**29  # bytes that a disk should keep free beside the folder


def random_tensor(name: str, shape: tuple[int, ...], config: ZayaConfig, seed: int, dtype: torch.dtype) -> Tensor:
    """One tensor of a new model, the same for the same name, seed and type, whatever else is drawn.

    Matrices and convolutions are normal, biases zero, scales, norms and temperatures one, the skip route's balance -1.
    """
    if name.endswith("balancing_bias"):
        bias = torch.zeros(shape, dtype=dtype, device="cpu")
        bias[config.skip_route] = -1.0
        return bias
    if len(shape) < 2:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=dtype, device="cpu")
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "little"))
    width = shape[-1] ** -0.5 if ".router." in name else config.initializer_range
    return torch.empty(shape, dtype=dtype, device="cpu").normal_(0.0, width, generator=generator)


def materialize(config: ZayaConfig, folder: str | Path, seed: int = 0, layout: str = "minizaya",
                dtype: torch.dtype = torch.bfloat16, shard_bytes: int = 2 * 2**30, progress: bool = False) -> Path:
    """Writes the folder and returns it.

    Raises ValueError as `shards.save`, and when the disk has no room for it: nothing has been written then.
    """
    folder = Path(folder)
    if dtype not in shards.TYPES:
        raise ValueError(f"dtype must be one of {[str(t) for t in shards.TYPES]}, got {dtype!r}")
    check_layout(layout)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in model_state(Zaya(config)).items()}
    kinds = {name: (shape, shards.bias_type(dtype) if name.endswith("balancing_bias") else dtype)
             for name, shape in shapes.items()}
    size, free = sum(math.prod(shape) * kind.itemsize for shape, kind in kinds.values()), disk_room(folder)
    if free < size + SPARE:
        raise ValueError(f"{folder} needs {size / 1e9:.1f} GB and {SPARE / 1e9:.1f} GB to spare, "
                         f"its disk has {free / 1e9:.1f} GB free")
    with tqdm(total=size, unit="B", unit_scale=True, desc="materialize", disable=not progress, file=sys.stderr) as bar:
        def make(name: str) -> Tensor:
            shape, kind = kinds[name]
            return random_tensor(name, shape, config, seed, kind)

        return shards.write_folder(folder, config, kinds, make, layout, dtype, shard_bytes, bar.update)


@contextmanager
def temporary(config: ZayaConfig, **settings) -> Iterator[Path]:
    """A folder as `materialize` makes it, for a `with` block; afterwards it is gone."""
    with tempfile.TemporaryDirectory() as around:
        yield materialize(config, Path(around) / "weights", **settings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", help="nano, micro, mini, ablation-1.8b or zaya1-8b")
    parser.add_argument("folder", type=Path, metavar="DIR", nargs="?",
                        help="a folder that is new or empty (default: the user's cache, where lesson 16 looks)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other numbers (default: %(default)s)")
    parser.add_argument("--layout", choices=shards.LAYOUTS, default="minizaya",
                        help="names and cuts (default: %(default)s)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="(default: %(default)s)")
    parser.add_argument("--layers", type=int, metavar="N", help="only so many layers, at full width")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Writes the folder and says where it is, how large, and how long it took."""
    if args.layers is not None and args.layers < 1:
        raise ValueError(f"layers must be at least 1, got {args.layers}")
    config = ZayaConfig.preset(args.preset, **({"num_hidden_layers": args.layers} if args.layers else {}))
    start = time.perf_counter()
    folder = materialize(config, args.folder or home(args.preset), args.seed, args.layout, getattr(torch, args.dtype),
                         progress=True)
    facts = {"folder": str(folder), "bytes": sum(path.stat().st_size for path in folder.iterdir()),
             "seconds": time.perf_counter() - start}
    print(json.dumps(facts) if args.json else
          f"{folder}: {facts['bytes'] / 1e9:.2f} GB of random weights in {facts['seconds']:.0f} s")
    return 0
