"""Checkpoint folders: three layouts, bit for bit; damage is named, and nothing but safetensors is read."""

import json
import random
import struct
import tracemalloc

import pytest
import torch

import minizaya as mz
from minizaya.laws.strategies import randomise
from minizaya.scale import hub, shards
from minizaya.scale.shards import LAYOUTS, Piece, load, original_name, pieces, save
from minizaya.train.checkpoint import model_state

CONFIG = mz.ZayaConfig.preset("nano", vocab_size=31, hidden_size=12, num_hidden_layers=3, num_attention_heads=4, head_dim=4,
                              num_experts=3, moe_intermediate_size=5, router_hidden_size=6, pad_token_id=0, bos_token_id=1,
                              eos_token_id=2)
UNTIED = mz.ZayaConfig(**CONFIG.to_dict() | {"tie_word_embeddings": False, "attention_bias": True, "lm_head_bias": True})


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
    assert len(list((tmp_path / "1").glob("*.safetensors"))) == len(json.loads((tmp_path / "1" / shards.INDEX).read_text())["weight_map"])


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
    wide = load(tmp_path / "a", dtype=torch.float32)
    assert torch.equal(wide.embed.weight, model.embed.weight.bfloat16().float())


def test_the_original_layout_has_eighty_stages():
    """At the real size: names by stage, experts one by one, a merge with the stage after it."""
    config = mz.ZayaConfig.preset("zaya1-8b")
    with torch.device("meta"):
        state = model_state(mz.Zaya(config))
    found = {piece.name for name, tensor in state.items() for piece in pieces(name, tuple(tensor.shape), config, "original")}
    stages = {int(name.split(".")[2]) for name in found if name.startswith("model.layers.")}
    assert stages == set(range(80))
    assert "model.layers.3.zaya_block.experts.local_experts.15.linear_fc2.weight" in found
    assert "model.layers.0.self_attn.qkv.val_proj2.weight" in found
    assert original_name("layers.0.attention_merge.output_scale", config) == "model.layers.1.res_scale.hidden_states_scale"
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


def test_the_peak_is_one_tensor_above_the_model(tmp_path):
    """Python's own allocations while writing shards: the numbers go out tensor by tensor, not file by file."""
    model = mz.Zaya(mz.ZayaConfig.preset("nano", num_experts=8))
    largest = max(tensor.numel() * 4 for tensor in model.parameters())
    tracemalloc.start()
    save(model, tmp_path / "a")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < largest + 2**20


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


@pytest.mark.parametrize("change, says", [(swap_shape, "wants numbers of shape|wants numbers of"), (other_type, "I32|int32"),
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
    with pytest.raises(ValueError, match="2 tensors .* 'model.extra'|2 tensors"):
        load(folder, verify=False)


@pytest.mark.parametrize("name, content, says", [
    ("config.json", b"{", "not a JSON document"), ("config.json", b"[]", "JSON object"),
    ("config.json", b'{"model_type": "llama"}', "must be 'minizaya' or 'zaya'"),
    ("config.json", b'{"model_type": "minizaya", "hidden_size": 0}', "no config of a ZAYA"),
    ("config.json", b'{"model_type": "minizaya", "colour": 1}', "no config of a ZAYA"),
    ("model.safetensors.index.json", b"nonsense", "not a JSON document"),
    ("model.safetensors.index.json", b'{"weight_map": {"a": "../secret.safetensors"}}', "same folder"),
    ("model.safetensors.index.json", b'{"weight_map": {"a": "model.bin"}}', "nothing else is read"),
    ("model.safetensors.index.json", b'{"weight_map": {}}', "weight_map"),
])
def test_bad_side_files_are_named(folder, name, content, says):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        load(folder)


def test_missing_files_are_named(folder):
    first(folder).unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        load(folder)
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load(folder.parent)


def test_two_hundred_damaged_checkpoints(tmp_path):
    """Bits flipped, files cut, bytes written over, at random places of random files: an error each time, never a model."""
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
    assert not (tmp_path / "a").exists() and not list(tmp_path.glob("*.writing"))
    with pytest.raises(ValueError, match="only the released form"):
        save(mz.Zaya(mz.ZayaConfig.preset("nano", qk_mean=False)), tmp_path / "b", "transformers")
    same(load(save(mz.Zaya(mz.ZayaConfig.preset("nano", num_convs=0)), tmp_path / "c")), load(tmp_path / "c"))
