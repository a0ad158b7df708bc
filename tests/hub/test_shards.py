"""Checkpoint folders: three layouts, bit for bit; damage is named, and nothing but safetensors is read."""

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minizaya as mz
from minizaya import hub
from minizaya.hub import shards
from minizaya.hub.config_json import config_document
from minizaya.hub.mapped import Mapped
from minizaya.hub.names import LAYOUTS, Piece, original_name, pieces
from minizaya.hub.shards import load, save
from minizaya.laws.strategies import randomise
from minizaya.train.checkpoint import model_state

CONFIG = mz.ZayaConfig.preset("nano", vocab_size=31, hidden_size=12, num_hidden_layers=3, num_attention_heads=4,
                              head_dim=4, num_experts=3, moe_intermediate_size=5, router_hidden_size=6, pad_token_id=0,
                              bos_token_id=1, eos_token_id=2)
UNTIED = mz.ZayaConfig(**CONFIG.to_dict() | {"tie_word_embeddings": False, "attention_bias": True,
                                             "lm_head_bias": True})


def model_of(config=CONFIG, dtype=torch.float32):
    return randomise(mz.Zaya(config), 3).float().to(dtype)


def same(one, two):
    first, second = model_state(one), model_state(two)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert second[name].dtype == tensor.dtype and torch.equal(second[name], tensor), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_round_trips_are_bit_exact(tmp_path, layout, config, dtype):
    model = model_of(config, dtype)
    for shard_bytes in (1, 2000, 2**30):
        folder = save(model, tmp_path / str(shard_bytes), layout, shard_bytes=shard_bytes)
        again = load(folder)
        same(model, again)
        assert again.config == config and not again.training
        tokens = torch.randint(3, 31, (1, 7), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(again(tokens).logits, model.eval()(tokens).logits)
        assert (again.head.weight is again.embed.weight) == config.tie_word_embeddings
    index = json.loads((tmp_path / "1" / shards.INDEX).read_text())
    assert len(list((tmp_path / "1").glob("*.safetensors"))) == len(index["weight_map"])


def test_transformers_reads_what_we_write_and_we_what_it_writes(tmp_path):
    from transformers import ZayaForCausalLM

    model = model_of()
    for block in model.layers:
        # trap: from_pretrained sets the skip route's bias to -1 again, whatever the file says (transformers 5.23)
        block.router.balancing_bias[-1] = -1.0
    save(model, tmp_path / "ours", "transformers")
    theirs = ZayaForCausalLM.from_pretrained(tmp_path / "ours")
    same(hub.from_transformers(theirs), model)
    theirs.save_pretrained(tmp_path / "theirs")
    same(load(tmp_path / "theirs"), model)


def test_types_are_converted(tmp_path):
    model = model_of()
    small = load(save(model, tmp_path / "a", dtype=torch.bfloat16))
    assert small.embed.weight.dtype == torch.bfloat16 and small.layers[0].router.balancing_bias.dtype == torch.float32
    assert torch.equal(small.embed.weight, model.embed.weight.bfloat16())
    assert not small.training
    wide = load(tmp_path / "a", dtype=torch.float32)
    assert torch.equal(wide.embed.weight, model.embed.weight.bfloat16().float())


def test_the_original_layout_has_eighty_stages():
    """At the real size: names by stage, experts one by one, a merge with the stage after it."""
    config = mz.ZayaConfig.preset("zaya1-8b")
    with torch.device("meta"):
        state = model_state(mz.Zaya(config))
    found = {piece.name for name, tensor in state.items()
             for piece in pieces(name, tuple(tensor.shape), config, "original")}
    stages = {int(name.split(".")[2]) for name in found if name.startswith("model.layers.")}
    assert stages == set(range(80))
    assert "model.layers.3.zaya_block.experts.local_experts.15.linear_fc2.weight" in found
    assert "model.layers.0.self_attn.qkv.val_proj2.weight" in found
    merge = original_name("layers.0.attention_merge.output_scale", config)
    assert merge == "model.layers.1.res_scale.hidden_states_scale"
    assert original_name("layers.0.moe_merge.residual_bias", config) == "model.layers.2.res_scale.residual_bias"
    assert original_name("layers.39.moe_merge.residual_bias", config) == "model.res_scale.residual_bias"
    # the first stage has no residual to scale; every other one, and the end, has both
    assert sum(name.endswith("res_scale.residual_scale") for name in found) == 80
    assert sum(name.endswith("res_scale.hidden_states_scale") for name in found) == 81
    assert sum(".local_experts." in name for name in found) == 40 * 16 * 2


def test_every_number_lies_in_one_piece():
    for layout in LAYOUTS:
        for name, tensor in model_state(model_of(UNTIED)).items():
            parts = pieces(name, tuple(tensor.shape), UNTIED, layout)
            assert sum(part.of(tensor).numel() for part in parts) == tensor.numel()
            assert len({part.name for part in parts}) == len(parts)
    assert Piece("x", 1, 2, expert=True).of(torch.zeros(3, 4, 5)).shape == (4, 5)


def test_a_shard_is_filled_to_its_bound_and_the_index_counts_all(tmp_path):
    model = model_of(UNTIED)
    sizes = [tensor.nbytes for tensor in model_state(model).values()]
    for number, bound in enumerate((sizes[0] + sizes[1], sizes[0] + sizes[1] - 1)):
        index = json.loads((save(model, tmp_path / str(number), shard_bytes=bound) / shards.INDEX).read_text())
        first, second, *_ = index["weight_map"].values()
        assert (first == second) == (number == 0) and len(set(index["weight_map"].values())) > 2
        assert index["metadata"]["total_size"] == sum(sizes)


PEAK = """
import sys, torch
import minizaya as mz

def memory(line):
    return next(int(text.split()[1]) for text in open("/proc/self/status") if text.startswith(line)) * 1024

work, folder, dtype = sys.argv[1:]
config = mz.ZayaConfig.preset("nano", vocab_size=8192, hidden_size=512, num_experts=8, moe_intermediate_size=1024)
# imports, and what else is made once
mz.hub.load(mz.hub.save(mz.Zaya(mz.ZayaConfig.preset("nano")), folder + "-small-" + work))
model = mz.Zaya(config) if work == "save" else None
before = memory("VmRSS")
if work == "save":
    mz.hub.save(model, folder, "original", getattr(torch, dtype))
else:
    model = mz.hub.load(folder, torch.float32)
sizes = [tensor.nbytes for tensor in model.parameters()]
print(memory("VmHWM") - before, sum(sizes), max(sizes))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' account of a process' memory")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_is_one_tensor_above_the_model(tmp_path, dtype):
    """In a process of its own, by the system's account: what torch holds, and what is mapped, count too."""
    folder, room = str(tmp_path / "a"), 48 * 2**20

    def measured(work):
        out = subprocess.run([sys.executable, "-c", PEAK, work, folder, dtype], check=True, capture_output=True,
                             text=True)
        return map(int, out.stdout.split())

    grown, model, largest = measured("save")
    assert model > 200 * 2**20 and grown < largest + room
    grown, model, largest = measured("load")
    assert grown < model + largest + room


def test_the_contract_of_hub(tmp_path):
    """mz.hub.load and mz.hub.save, first thing in a fresh Python: no import depends on another one before it."""
    code = """
import sys, torch, minizaya as mz
model = mz.Zaya(mz.ZayaConfig.preset("nano"))
for layout in ("minizaya", "transformers", "original"):
    folder = mz.hub.save(model, f"{sys.argv[1]}/{layout}", layout=layout)
    assert torch.equal(mz.hub.load(folder).embed.weight, model.embed.weight), layout
mz.hub.save(model, sys.argv[1] + "/default")
for module in ("zoo", "shards", "names", "contents", "config_json", "mapped"):
    for name in [name for name in sys.modules if name.split(".")[0] == "minizaya"]:
        del sys.modules[name]
    __import__("minizaya.hub." + module)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert json.loads((tmp_path / "default" / shards.INDEX).read_text())["metadata"]["layout"] == "minizaya"


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return save(model_of(), tmp_path / "whole", "transformers", shard_bytes=4000)


def rewrite(path, change):
    """Changes the header of a safetensors file."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8: 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size:])


def first(folder):
    return sorted(folder.glob("*.safetensors"))[0]


def swap_shape(header):
    name = next(n for n, entry in header.items() if n != "__metadata__" and len(entry["shape"]) == 2
                and entry["shape"][0] != entry["shape"][1])
    header[name]["shape"].reverse()


def other_type(header):
    name = next(n for n in header if n != "__metadata__")
    header[name]["dtype"] = "I32"


def other_name(header):
    name = next(n for n in header if n != "__metadata__")
    header["model.surprise"] = header.pop(name)


@pytest.mark.parametrize("change, says", [(swap_shape, r"00001.*is of shape .*, the model wants"), (other_type, "I32"),
                                          (other_name, "does not")])
def test_wrong_tensors_are_named(folder, change, says):
    rewrite(first(folder), change)
    with pytest.raises(ValueError, match="damaged: its SHA-256"):
        load(folder)
    with pytest.raises(ValueError, match=says):
        load(folder, verify=False)


def test_missing_and_extra_tensors_are_named(folder):
    index = json.loads((folder / shards.INDEX).read_text())
    gone = next(name for name in index["weight_map"] if name.endswith("temp"))
    path = folder / index["weight_map"][gone]
    rewrite(path, lambda header: header.update({"model.extra": header.pop(gone)}))
    index["weight_map"]["model.extra"] = index["weight_map"].pop(gone)
    (folder / shards.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="2 tensors .*'model.extra', which is unknown"):
        load(folder, verify=False)
    # another model altogether
    index["weight_map"] = {"gpt.weight": first(folder).name}
    rewrite(first(folder), lambda header: [header.pop(name) for name in list(header)]
            and header.update({"gpt.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}))
    first(folder).write_bytes(first(folder).read_bytes()[:8 + struct.unpack("<Q", first(folder).read_bytes()[:8])[0]])
    (folder / "config.json").write_text(json.dumps(config_document(mz.ZayaConfig(num_hidden_layers=1), "transformers")))
    (folder / shards.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"{folder} holds no ZAYA model: .*gpt.weight"):
        load(folder, verify=False)


@pytest.mark.parametrize("name, content, says", [
    ("config.json", b"{", "not a JSON document"), ("config.json", b"[]", "JSON object"),
    ("config.json", b'{"model_type": "llama"}', "must be 'minizaya' or 'zaya'"),
    ("config.json", b'{"model_type": "minizaya", "hidden_size": 0}', "no config of a ZAYA"),
    ("config.json", b'{"model_type": "minizaya", "colour": 1}', "no config of a ZAYA"),
    ("config.json", b'{"model_type": "minizaya", "rms_norm_eps": 1e-5, "rms_norm_eps": 0.5}', "_eps' stands twice"),
    ("model.safetensors.index.json", b'{"weight_map": {"a": "b.safetensors", "a": "c"}}', "'a' stands twice"),
    ("model.safetensors.index.json", b"nonsense", "not a JSON document"),
    ("model.safetensors.index.json", b'{"weight_map": {"a": "../secret.safetensors"}}', "same folder"),
    ("model.safetensors.index.json", b'{"weight_map": {"a": "' + 300 * b"m" + b'.safetensors"}}', "same folder"),
    ("model.safetensors.index.json", b'{"metadata": {"sha256": {"../secret": "0"}}, "weight_map": {"a": "b"}}',
     "same folder"),
    ("model.safetensors.index.json", b'{"weight_map": {"a": "model.bin"}}', "nothing else is read"),
    ("model.safetensors.index.json", b'{"weight_map": {}}', "index.json must hold a table of texts, weight_map"),
    ("model.safetensors.index.json", b'{"metadata": null, "weight_map": {"a": "b"}}', "index.json must .* metadata"),
    ("model.safetensors.index.json", b'{"metadata": [], "weight_map": {"a": "b"}}', "index.json must .* metadata"),
    ("model.safetensors.index.json", b'{"metadata": "x", "weight_map": {"a": "b"}}', "index.json must .* metadata"),
    ("model.safetensors.index.json", b'{"metadata": {"sha256": []}, "weight_map": {"a": "b"}}',
     "index.json must .* sha256"),
    ("model.safetensors.index.json", b'{"metadata": {"sha256": {"a": 1}}, "weight_map": {"a": "b"}}',
     "index.json must .* sha256"),
    ("model.safetensors.index.json", b'{"weight_map": {"a": 1}}', "index.json must hold"),
    ("config.json", b'{"model_type": "zaya", "num_hidden_layers": 2000}',
     "config.json says 2000 layers, but there are"),
    ("config.json",
     b'{"model_type": "zaya", "num_hidden_layers": 2, "moe_intermediate_size": 16777216, "hidden_size": 16777216,'
                    b' "num_experts": 16777216}', "config.json describes a model that is too large"),
])
def test_bad_side_files_are_named(folder, name, content, says):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        load(folder, verify=False)


def test_missing_files_are_named(folder):
    first(folder).unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        load(folder)
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load(folder.parent)


def test_two_hundred_damaged_checkpoints(tmp_path):
    """Bits flipped, files cut, bytes written over, at random places of random files:
    an error each time, never a model."""
    model, rng = model_of(), random.Random(0)
    folder = save(model, tmp_path / "whole", "original", shard_bytes=4000)
    files = sorted(folder.glob("*.safetensors"))
    for i in range(200):
        path = rng.choice(files)
        content = path.read_bytes()
        broken = bytearray(content)
        if i % 4 == 0:
            broken = broken[: rng.randrange(len(broken))]
        elif i % 4 == 1:
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        elif i % 4 == 2:
            start = rng.randrange(len(broken))
            broken[start: start + 8] = rng.randbytes(len(broken[start: start + 8]))
        else:
            broken += rng.randbytes(rng.randrange(1, 9))
        path.write_bytes(broken)
        if bytes(broken) != content:
            with pytest.raises(ValueError, match="damaged"):
                load(folder)
        path.write_bytes(content)
    same(load(folder), model)


def test_damage_without_checksums_is_an_error_or_harmless(tmp_path):
    """A folder from elsewhere has no sums. A broken header is an error; a flipped bit of a number is another number."""
    model, rng = model_of(), random.Random(1)
    folder = save(model, tmp_path / "whole", "transformers")
    index = json.loads((folder / shards.INDEX).read_text())
    del index["metadata"]["sha256"]
    (folder / shards.INDEX).write_text(json.dumps(index))
    path = first(folder)
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(100):
        broken = bytearray(content)
        broken[rng.randrange(header)] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            same(load(folder), model)  # a bit of the metadata or of a space
        except ValueError:
            pass
        except AssertionError:
            pytest.fail(f"a broken header was read as another model: {bytes(broken[:header])!r}")


def side_file_damage(content, rng, i):
    """A bit flipped, the end cut off, bytes written over, or two values that changed places."""
    broken = bytearray(content)
    if i % 4 == 0:
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
    elif i % 4 == 1:
        broken = broken[: rng.randrange(len(broken))]
    elif i % 4 == 2:
        start = rng.randrange(len(broken))
        broken[start: start + 4] = rng.randbytes(len(broken[start: start + 4]))
    else:
        document = json.loads(content)
        tables = [part for part in (document, *document.values()) if isinstance(part, dict) and len(part) > 1]
        table = rng.choice(tables)
        one, two = rng.sample(list(table), 2)
        table[one], table[two] = table[two], table[one]
        return json.dumps(document).encode()
    return bytes(broken)


@pytest.mark.filterwarnings("ignore:.*nothing here computes with")   # a damaged name of a key
@pytest.mark.parametrize("sums", [True, False], ids=["with sums", "without"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_side_files(tmp_path, layout, sums):
    """config.json and the index, 200 times each layout: a clear error that names a file, or the same model.

    A folder from elsewhere has no sums. There, a digit of config.json may become another digit, and the model one with
    other numbers in its config; but the weights are the same ones, in the same places.
    """
    model, rng = model_of(), random.Random(3)
    folder = save(model, tmp_path / "whole", layout, shard_bytes=4000)
    if not sums:
        index = json.loads((folder / shards.INDEX).read_text())
        del index["metadata"]["sha256"]
        (folder / shards.INDEX).write_text(json.dumps(index))
    errors = 0
    for i in range(200):
        path = folder / rng.choice((shards.INDEX, "config.json"))
        content = path.read_bytes()
        path.write_bytes(side_file_damage(content, rng, i))
        try:
            read = load(folder)
            same(read, model)
            assert read.config == CONFIG or not sums and path.name == "config.json"
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error), error
            errors += 1
        path.write_bytes(content)
    assert errors > 100
    same(load(folder), model)


def test_an_empty_tensor_is_named(folder):
    """Nothing to map, and nothing that the model has."""
    index = json.loads((folder / shards.INDEX).read_text())
    rewrite(first(folder),
            lambda header: header.update({"model.empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}}))
    index["weight_map"]["model.empty"] = first(folder).name
    (folder / shards.INDEX).write_text(json.dumps(index))
    for reading in (Mapped, lambda folder: load(folder, verify=False)):
        with pytest.raises(ValueError, match=f"{folder}: 1 tensors are .*'model.empty', which is unknown"):
            reading(folder)
    rewrite(first(folder), lambda header: header.update({"lm_head.weight": header.pop("model.empty")}))
    index["weight_map"]["lm_head.weight"] = index["weight_map"].pop("model.empty")
    (folder / shards.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="'lm_head.weight' is not the embedding"):
        load(folder, verify=False)


READERS = {"load": lambda folder: load(folder, verify=False), "Mapped": Mapped}


def one_file(tmp_path, **tensors):
    """A tied model of ours in one file, with further tensors in it."""
    from safetensors.torch import load_file, save_file

    folder = save(model_of(), tmp_path / "one", "transformers")
    (folder / shards.INDEX).unlink(missing_ok=True)
    state = {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
    for path in folder.glob("*.safetensors"):
        path.unlink()
    save_file(state | tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_tied_head_is_the_embedding_or_refused(tmp_path, read):
    """It was dropped in silence once, and the model answered with another head than the file's."""
    embedding = model_of().embed.weight.detach().clone()
    read(one_file(tmp_path / "a", **{"lm_head.weight": embedding.clone()}))
    last = embedding.clone()
    last[-1, -1] += 1e-6
    for number, other in enumerate((last, embedding.bfloat16(), embedding[:-1].clone(), embedding.T.contiguous())):
        with pytest.raises(ValueError, match="'lm_head.weight' is not the embedding, although tie_word_embeddings"):
            read(one_file(tmp_path / str(number), **{"lm_head.weight": other}))


def test_equal_bytes_are_compared_to_the_end(tmp_path, monkeypatch):
    from minizaya.hub import contents

    embedding = model_of().embed.weight.detach().clone()
    found = contents.read_contents(one_file(tmp_path, **{"lm_head.weight": embedding.clone()}))
    one, other = found.entries["model.embed_tokens.weight"], found.entries["lm_head.weight"]
    for step in (1, 7, one.end - one.start, 10**9):
        assert contents.same_bytes(one, other, step)
    path = Path(other.file)
    whole = bytearray(path.read_bytes())
    whole[other.end - 1] ^= 1
    path.write_bytes(whole)
    assert not any(contents.same_bytes(one, other, step) for step in (1, 7, one.end - one.start, 10**9))


@pytest.mark.parametrize("stale", ["before", "after"])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_name_in_two_files_is_named(tmp_path, stale, read):
    """An earlier file once lost to a later one, whichever of them the index named."""
    from safetensors.torch import load_file, save_file

    folder = save(model_of(), tmp_path / "out", shard_bytes=2000)
    files = sorted(folder.glob("*.safetensors"))
    source, target = (files[-1], files[0]) if stale == "before" else (files[0], files[-1])
    name, tensor = next(iter(load_file(source).items()))
    save_file(load_file(target) | {name: tensor * 2}, target)
    with pytest.raises(ValueError, match=f"'{name}' lies in two files"):
        read(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, "float32", 32])
def test_a_wrong_type_is_named(folder, dtype):
    with pytest.raises(ValueError, match="dtype must be one of .*torch.bfloat16"):
        load(folder, dtype=dtype)
    with pytest.raises(ValueError, match="dtype must be one of .*torch.bfloat16"):
        save(model_of(), folder.parent / "b", dtype=dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("usual, odd", [("BF16", "F16"), ("F16", "BF16")])
def test_a_tensor_under_another_types_name(tmp_path, layout, usual, odd):
    """bfloat16 and float16 are of one size, so nothing else would tell; the map does not read the sums."""
    folder = save(model_of(), tmp_path / "w", layout, dtype={"BF16": torch.bfloat16, "F16": torch.float16}[usual])
    header = {}
    rewrite(first(folder), header.update)
    for name in [name for name in header if name != "__metadata__" and header[name]["dtype"] == usual][::5]:
        rewrite(first(folder), lambda header, name=name: header[name].update(dtype=odd))
        for reading in (lambda: load(folder, verify=False), lambda: Mapped(folder)):
            with pytest.raises(ValueError, match=f"{name}' is of type {odd}, the model wants {usual}, like .* or F32"):
                reading()
        rewrite(first(folder), lambda header, name=name: header[name].update(dtype=usual))
    load(folder, verify=False)   # all names are right again


def test_float32_beside_another_type_is_right(tmp_path):
    model = model_of(dtype=torch.bfloat16)
    model.norm.weight.data = model.norm.weight.data.float()
    folder = save(model, tmp_path / "w")
    assert load(folder).norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float64_round_trips(tmp_path, layout):
    """Balancing biases are float32 beside narrower types, and what the model is beside float64."""
    model = randomise(mz.Zaya(CONFIG), 3).double()
    for dtype in (None, torch.float64):
        folder = save(model, tmp_path / str(dtype), layout, dtype=dtype)
        same(load(folder), model)
        assert torch.equal(Mapped(folder).tensor("layers.0.router.balancing_bias", torch.float64),
                           model.layers[0].router.balancing_bias)


def test_a_number_too_large_is_an_error(tmp_path):
    model = model_of()
    model.norm.weight.data[0] = 1e6
    with pytest.raises(ValueError, match="'?model.norm.weight'? holds 1e\\+06, which is too large for torch.float16"):
        save(model, tmp_path / "small", "transformers", dtype=torch.float16)
    assert not list(tmp_path.iterdir())
    folder = save(model, tmp_path / "w", "transformers")
    with pytest.raises(ValueError, match="w/model.* holds 1e\\+06, which is too large for torch.float16"):
        load(folder, torch.float16)
    model.norm.weight.data[0] = float("inf")   # that is what it was before
    assert load(save(model, tmp_path / "inf", dtype=torch.float16)).norm.weight[0] == float("inf")


# ---- whole or not there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["transformers", "original"])
@pytest.mark.parametrize("change", [dict(router="linear"), dict(qk_mean=False)], ids=["linear", "no mean"])
def test_what_a_layout_cannot_say_is_refused_first(tmp_path, monkeypatch, layout, change):
    """Not after gigabytes have been written."""
    monkeypatch.setattr(shards, "write_shard", lambda *args: pytest.fail("something was written"))
    with pytest.raises(ValueError, match=f"only the released form .*{next(iter(change))}="):
        save(mz.Zaya(mz.ZayaConfig.preset("nano", **change)), tmp_path / "a", layout)
    assert not list(tmp_path.iterdir())


def test_a_linear_router_has_no_name_elsewhere():
    model = mz.Zaya(mz.ZayaConfig.preset("nano", router="linear"))
    with pytest.raises(ValueError, match="'layers.0.router.* has no name in the transformers layout"):
        hub.rename(model.state_dict(), model.config)


def test_neighbours_stay(tmp_path, monkeypatch):
    """What is removed after an error is what this call has written, and nothing with a like name."""
    other = tmp_path / "a.writing"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    save(model_of(), tmp_path / "a")
    monkeypatch.setattr(shards, "write_shard", lambda *args: 1 / 0)
    (tmp_path / "empty").mkdir()
    for name in ("b", "empty"):
        with pytest.raises(ZeroDivisionError):
            save(model_of(), tmp_path / name)
    assert (other / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.writing", "empty"]
    assert not list((tmp_path / "empty").iterdir())


def test_saving_where_one_stands(tmp_path, monkeypatch):
    model, here = model_of(), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert save(model, ".", shard_bytes=2000) == here
    same(load("."), model)
    assert not [path for path in tmp_path.rglob("*") if "writing" in path.name]
    with pytest.raises(ValueError, match="folder must be new or empty, got .*here, which holds 'config.json'"):
        save(model, ".")


def test_moving_in_is_all_or_nothing(tmp_path, monkeypatch):
    """Into a folder that is there, file by file: when that is stopped, it is empty again."""
    (tmp_path / "a").mkdir()
    move, calls = os.replace, []

    def stopped(source, target):
        calls.append(Path(target))
        if sum(path.parent == tmp_path / "a" for path in calls) == 3:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        save(model_of(), tmp_path / "a", shard_bytes=2000)
    assert not list((tmp_path / "a").iterdir())


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_a_killed_process_leaves_nothing_that_reads(tmp_path, there):
    folder = tmp_path / "a"
    if there:
        folder.mkdir()
    code = f"""
import time, minizaya as mz
from minizaya.hub import shards
write = shards.write_shard
def slow(*args):
    print("written", write(*args), flush=True)
    time.sleep(0.2)
shards.write_shard = slow
mz.hub.save(mz.Zaya(mz.ZayaConfig.preset("nano")), {str(folder)!r}, shard_bytes=20_000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.kill()
    assert folder.exists() == there
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load(folder)
    assert [path for path in tmp_path.rglob("*") if ".writing-" in path.name], "it was killed too late to show anything"


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    model = model_of()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ValueError, match="new or empty"):
        save(model, tmp_path / "full")
    with pytest.raises(ValueError, match="layout must be one of"):
        save(model, tmp_path / "a", "pickle")
    with pytest.raises(ValueError, match="dtype must be one of"):
        save(model, tmp_path / "a", dtype=torch.int8)
    write, calls = shards.write_shard, []

    def full(path, entries):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(path, entries)

    monkeypatch.setattr(shards, "write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        save(model, tmp_path / "a", shard_bytes=2000)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    with pytest.raises(ValueError, match="only the released form"):
        save(mz.Zaya(mz.ZayaConfig.preset("nano", qk_mean=False)), tmp_path / "b", "transformers")
    same(load(save(mz.Zaya(mz.ZayaConfig.preset("nano", num_convs=0)), tmp_path / "c")), load(tmp_path / "c"))


def test_a_single_file_beside_an_index_is_refused(tmp_path):
    """`transformers` reads model.safetensors, we the index: whoever wrote the second meant one of them."""
    folder = save(model_of(), tmp_path / "w")
    shard, = folder.glob("*.safetensors")
    (folder / "model.safetensors").write_bytes(shard.read_bytes())
    with pytest.raises(ValueError, match="model.safetensors lies beside an index that does not name it"):
        load(folder)
    index = json.loads((folder / shards.INDEX).read_text())
    index["metadata"].pop("sha256")
    index["weight_map"] = dict.fromkeys(index["weight_map"], "model.safetensors")
    (folder / shards.INDEX).write_text(json.dumps(index))
    same(load(folder), model_of())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_begin_at_a_multiple_of_eight(tmp_path, layout):
    """As the format asks: whoever maps a file reads whole numbers where they lie."""
    files = list(save(model_of(), tmp_path / "w", layout, shard_bytes=900).glob("*.safetensors"))
    assert len(files) > 5
    assert not any(int.from_bytes(file.read_bytes()[:8], "little") % 8 for file in files)
