"""What is planned is counted again: what autograd saves, what optimizers keep, what a paged model holds,
on the real thing."""

import json
import time
from contextlib import nullcontext
from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import minizaya
from kernel_tools import needs_compiler
from lesson_tools import LESSONS, code_cells, read
from minizaya import Zaya, ZayaConfig, hip
from minizaya import __main__ as cli
from minizaya.commands import materialize, plan
from minizaya.config import PRESETS
from minizaya.hip.machine import floors
from minizaya.hub import weights
from minizaya.hub.paging import PagedZaya
from minizaya.parallel.layout import Layout
from minizaya.plan import account, devices, memory, published, schedule
from minizaya.plots import full_8b as lab
from minizaya.train.optim import adamw, muon, named_state

ODD = dict(router_hidden_size=40, moe_intermediate_size=24, hidden_size=72, vocab_size=100, num_experts=1,
           num_attention_heads=6, head_dim=10, partial_rotary_factor=0.6)
SIZES = [("nano", {}, 3, 50), ("micro", {}, 2, 33), ("mini", dict(num_hidden_layers=3), 1, 20), ("micro", ODD, 3, 41),
         ("nano", dict(num_hidden_layers=1), 1, 1), ("nano", dict(tie_word_embeddings=False), 2, 7)]
SIZES += [("micro", dict(num_hidden_layers=3, layer_types=kinds, sliding_window=window, rope_theta_sliding=1e4), 1, 400)
          for kinds in (("hybrid", "hybrid_sliding", "hybrid"), ("hybrid_sliding",) * 3) for window in (16, 400)]


def saved_bytes(model, tokens):
    """What one training step's forward keeps: the storages that autograd saves, weights left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept, alive = {}, []

    def pack(tensor):
        alive.append(tensor)  # or its memory would be used again, and counted once
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        F.cross_entropy(model(tokens).logits.flatten(0, 1), tokens.flatten())
    return sum(kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset, changes, batch, length", SIZES,
                         ids=lambda value: str(value) if not isinstance(value, dict) else "")
def test_activations_are_what_autograd_saves(preset, changes, batch, length, dtype):
    config = ZayaConfig.preset(preset, **changes)
    model = Zaya(config).to(getattr(torch, dtype))
    tokens = torch.randint(3, config.vocab_size, (batch, length))
    found = saved_bytes(model, tokens)
    planned = memory.activations(config, batch, length, dtype)
    assert abs(planned - found) <= 0.01 * found          # equal, but where an expert's slice is a storage of its own
    model.recompute = True
    planned = memory.activations(config, batch, length, dtype, recompute=True)
    inside = memory.layer_activations(config, batch, length, dtype)
    if "hybrid_sliding" in config.layer_types and config.sliding_window < length:
        inside += length**2 * account.bytes_of(dtype)   # the mask, as numbers
    assert planned - inside == saved_bytes(model, tokens)
    if config.num_hidden_layers > 3:
        assert planned < memory.activations(config, batch, length, dtype)


@pytest.mark.parametrize("preset", ["nano", "micro"])
@pytest.mark.parametrize("name, make", [("adamw", adamw), ("muon", muon),
                                        ("muon without momentum", lambda model, lr: muon(model, lr, momentum=0.0))],
                                        ids=lambda v: v if isinstance(v, str) else "")
def test_optimizer_state_is_what_it_keeps(preset, name, make):
    config = ZayaConfig.preset(preset)
    model = Zaya(config)
    optimizer = make(model, 1e-3)
    model(torch.randint(3, 100, (1, 9))).logits.square().mean().backward()
    optimizer.step()
    kept = sum(tensor.nbytes for tensor in named_state(model, optimizer).values())
    assert memory.optimizer_state(config, name) == kept


@pytest.mark.parametrize("preset", PRESETS)
def test_flops_and_cache_of_every_preset(preset):
    """One layer at full width and with the whole vocabulary, counted by torch's hooks;
    the other layers are its likes."""
    config = ZayaConfig.preset(preset)
    one = ZayaConfig(**config.to_dict() | {"num_hidden_layers": 1, "layer_types": None})
    with torch.device("meta"):
        model = Zaya(one, backend="reference").bfloat16()
    model = model.to_empty(device="cpu")                               # the numbers do not matter, and are not made
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        cache = model.new_cache(1)
        model(torch.ones(1, 24, dtype=torch.int64), cache=cache, routes=torch.zeros(1, 24, 1, dtype=torch.int64))
    single, parts, layers = account.flops(one, 24), account.flops(config, 24), config.num_hidden_layers
    assert counter.get_total_flops() == sum(single.values())
    assert all(parts[name] == single[name] * (1 if name == "head" else layers) for name in parts)
    assert account.kv_bytes_per_token(config) == layers * cache.bytes_per_token
    assert account.kv_bytes_per_token(config) * 24 == layers * sum(kv[:, :, :24].nbytes for kv in cache.kv)


@pytest.mark.parametrize("int8", [False, True], ids=["as stored", "int8"])
@pytest.mark.parametrize("preset", ["nano", "micro"])
def test_paged_memory_is_what_the_model_holds(tmp_path, preset, int8):
    config = ZayaConfig.preset(preset)
    model = PagedZaya(materialize.materialize(config, tmp_path / "w"), int8=int8)
    cache = model.new_cache(1)
    with torch.inference_mode():
        model(torch.randint(3, 100, (1, 40)), cache=cache)
        for block in model.layers:                                    # everybody is visited
            for expert in range(config.num_experts):
                block.experts.open(expert)
    planned = memory.paged_memory(config, 40, int8=int8)
    found = model.resident_bytes() + sum(t.nbytes for t in (*cache.kv, *cache.columns, *cache.delayed))
    assert found == planned["own"] - 40 * account.kv_bytes_per_token(config, "float32")   # planned: twice the cache
    at_rest = planned["pages_at_most"] + (model.touched_bytes() if int8 else 0)
    assert abs(at_rest - model.mapped.bytes) < 0.05 * model.mapped.bytes                   # all but the small tensors


def most_at_once(work):
    """The most bytes that torch's allocator had given out at one moment of `work()`, beyond what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    events = sorted((event.start_ns(), event.nbytes()) for event in watched.profiler.kineto_results.events()
                    if event.name() == "[memory]")
    return max(accumulate(size for _, size in events))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", ["nano", "micro"])
def test_a_prefill_needs_no_more_than_planned(tmp_path, preset, dtype):
    config, length = ZayaConfig.preset(preset), 2000
    model = PagedZaya(materialize.materialize(config, tmp_path / "w"), getattr(torch, dtype))
    tokens, cache = torch.randint(3, config.vocab_size, (1, length)), model.new_cache(1)
    for layer in range(config.num_hidden_layers):
        cache.room(layer, length)                                      # the cache is planned apart
    with torch.inference_mode():
        found = most_at_once(lambda: model(tokens, cache=cache, last_only=True))
    planned = memory.paged_memory(config, length, dtype)["scratch"]
    assert found <= planned <= (2 if dtype == "float32" else 3) * found


def test_layouts_divide():
    """`test_a_rank_holds_what_is_planned` weighs the same in real jobs; here at 8B."""
    config, whole = ZayaConfig.preset("zaya1-8b"), 2 * 8_840_488_784
    alone = memory.training_memory(config, 1, 4096)
    assert alone["weights"] == whole and alone["optimizer"] > 6 * whole // 1.01 and alone["gathered"] == 0
    # embedding, its scale and bias, the last norm: always gathered
    outside = 2 * 2048 * (262_272 + 3)
    for layout in (Layout(dp=8), Layout(ep=8), Layout(cp=8), Layout(dp=2, ep=4)):
        held = memory.training_memory(config, 1, 4096, layout=layout)
        for part in ("weights", "gradients", "optimizer"):
            assert held[part] == pytest.approx(alone[part] / 8, rel=1e-4), layout
        experts, dense = 2 * 8_053_063_680 / layout.ep, whole - 2 * 8_053_063_680 - outside
        assert held["gathered"] == pytest.approx(outside + (experts + dense) / 20, rel=1e-4)
        besides = 40 * memory.context_activations(config, 1, 4096, layout.cp, "bfloat16")
        assert held["activations"] - besides == pytest.approx(alone["activations"] / layout.cp, rel=0.01)
        assert held["sum"] == sum(size for part, size in held.items() if part != "sum")
    # two experts over sixteen ranks: FSDP does not cut an expert, so each has room for one, and gathers sixteen
    padded = memory.training_memory(config, 1, 4096, layout=Layout(dp=16, ep=8))
    assert padded["weights"] == pytest.approx(whole / 128 + 2 * 8_053_063_680 * (1 / 16 - 1 / 128), rel=1e-4)
    assert padded["gathered"] == pytest.approx(outside + (2 * 8_053_063_680 + dense) / 20, rel=1e-4)


def test_the_ridge():
    config, on = ZayaConfig.preset("zaya1-8b"), devices.device("mi300x")
    assert on.ridge == pytest.approx(1307 / 5.3)
    assert devices.device("h100").ridge == pytest.approx(295, abs=1)           # as the CCA paper says
    longest = devices.room_for_context(config, on)
    assert devices.ridge_batch(config, longest + 1, on) is None
    for context in (1, longest // 2, longest):
        batch = devices.ridge_batch(config, context, on)
        memory_bound, arithmetic = devices.decode_seconds(config, batch, context, on)
        before = devices.decode_seconds(config, batch - 1, context, on)
        assert arithmetic >= memory_bound and before[1] < before[0]
    one = devices.decode_bytes(config, 1, 0)
    assert one == pytest.approx(2 * account.active_parameters(config) + account.state_bytes_per_sequence(config),
                                rel=1e-6)


def test_sizes_that_mi300_likes():
    found = devices.findings(ZayaConfig.preset("zaya1-8b"), Layout(dp=16, ep=4), 65536)
    said = {(f["rule"], f["what"]): f["ok"] for f in found}
    assert all(ok for (rule, _), ok in said.items() if rule == "multiples of 64")
    assert said[("whole nodes of 8", "dp")] and not said[("whole nodes of 8", "ep")]
    assert said[("GEMMs near 200 GFLOP", "attention down")] and not said[("GEMMs near 200 GFLOP", "router down")]
    assert any(not f["ok"] and f["what"] == "vocab_size" for f in devices.findings(ZayaConfig.preset("nano")))
    assert not devices.findings(ZayaConfig.preset("zaya1-8b"), Layout(dp=9))[-1]["ok"]
    assert said[("experts divide", "dp x cp")] is False and "room for 1, not 0.25" in found[-1]["said"]
    assert all(f["ok"] for f in devices.findings(ZayaConfig.preset("zaya1-8b"), Layout(dp=8))
               if f["rule"] == "experts divide")


@pytest.mark.parametrize("work, said", [(200e9, "1.0"), (199e9, "1.1"), (137e9, "1.5"), (133.4e9, "1.5"),
                                        (100e9, "2.0"), (21e9, "9.6"), (19e9, "11"), (2e9, "100"), (1e8, "2,000")])
def test_how_short_a_product_falls_is_no_round_one(work, said):
    assert devices.shortfall(work) == said


@pytest.mark.parametrize("layout", [Layout(), Layout(dp=16), Layout(ep=2), Layout(dp=2, ep=8), Layout(ep=4, cp=2),
                                    Layout(dp=3, ep=2, cp=2)])
@pytest.mark.parametrize("tokens", [1, 4096, 65536])
def test_products_at_any_layout(layout, tokens):
    """An expert sees what all ep ranks send it, everything else sees the device's own tokens."""
    config = ZayaConfig.preset("zaya1-8b")
    sizes = {name: said for f in devices.findings(config, layout, tokens) for name, said in [(f["what"], f["said"])]
             if f["rule"].startswith("GEMMs")}
    each = max(1, tokens // 16) * layout.ep
    wanted = {"attention down": (tokens, 1536, 2048), "attention up": (tokens, 2048, 1024),
              "router down": (tokens, 256, 2048), "expert gate and up": (each, 4096, 2048),
              "expert down": (each, 2048, 2048), "head": (tokens, 262272, 2048)}
    assert {name: said.split(" = ")[0] for name, said in sizes.items()} == {
        name: f"{m:,} x {n:,} x {k:,}" for name, (m, n, k) in wanted.items()}
    for name, (m, n, k) in wanted.items():
        assert (f", {devices.shortfall(2 * m * n * k)}x short" in sizes[name]) == (2 * m * n * k < 200e9)


@pytest.mark.parametrize("layout, said, ok", [
    (Layout(dp=8), "16 experts over 8 ranks", True), (Layout(dp=16), "16 experts over 16 ranks", True),
    (Layout(dp=2, ep=8), "2 experts over 2 ranks", True),
    (Layout(dp=3), "16 experts over 3 ranks: each has room for 6, not 5.33", False),
    (Layout(dp=4, ep=8), "2 experts over 4 ranks: each has room for 1, not 0.5", False),
    (Layout(dp=2, ep=4, cp=3), "4 experts over 6 ranks: each has room for 1, not 0.667", False)])
def test_experts_divide_at_any_layout(layout, said, ok):
    found, = (f for f in devices.findings(ZayaConfig.preset("zaya1-8b"), layout) if f["rule"] == "experts divide")
    assert (found["said"], found["ok"]) == (said, ok)


@pytest.mark.parametrize("count", [1, 8, 1024])
@pytest.mark.parametrize("answer", [1, 2_000, 20_000])
def test_a_schedule_counts_every_flop_once(count, answer):
    """Writing an answer is a forward, learning from it three: RL's tokens cost a third more than pretraining's."""
    config, on = ZayaConfig.preset("zaya1-8b"), devices.device("h100")
    rows = schedule.schedule(config, count, "h100", 0.3, 1.5, answer)
    for row in rows:
        forward = sum(account.flops(config, row["context"], causal=True).values()) / row["context"]
        rl = row["stage"].startswith("rl: ")
        assert row["flops"] == pytest.approx((4 if rl else 3) * forward * row["tokens"])
        assert row["hours"] == pytest.approx(row["flops"] / (count * on.flops * 0.3) / 3600)
        assert row["device_hours"] == pytest.approx(count * row["hours"])
        assert row["cost"] == pytest.approx(1.5 * row["device_hours"])
    assert [row["tokens"] // (2048 * answer) for row in rows[4:]] == [232, 400, 848, 384]
    assert all(row["context"] == answer for row in rows[4:])


def test_the_schedule():
    config = ZayaConfig.preset("zaya1-8b")
    rows = {row["stage"]: row for row in schedule.schedule(config, 1024)}
    assert [row["tokens"] for row in rows.values()] == [8e12, 4e12, 1.2e12, 660e9]
    # the default efficiency gives the report's step time back: 2.5 s for 16.8M tokens
    steps = 8e12 / schedule.STEP["tokens"]
    assert rows["base-1"]["hours"] * 3600 / steps == pytest.approx(2.5)
    assert rows["base-1"]["cost"] == pytest.approx(2 * 1024 * rows["base-1"]["hours"])
    double = schedule.schedule(config, 1024, efficiency=2 * schedule.implied_efficiency(), price=1.0)
    assert double[0]["cost"] == pytest.approx(rows["base-1"]["cost"] / 4)
    with_rl = schedule.schedule(config, 1024, answer_tokens=20_000)
    assert sum(row["tokens"] for row in with_rl[4:]) == (232 + 400 + 384 + 464 + 384) * 2048 * 20_000
    # FLOPs: three forwards of the visible keys
    forward = account.plan("zaya1-8b", 131072)["flops_per_token"]["forward_causal"]
    assert rows["sft"]["flops"] == pytest.approx(3 * 660e9 * forward)


def test_the_command_with_a_device(capsys):
    flags = ["plan", "zaya1-8b", "--device", "mi300x", "--dp", "16", "--ep", "8", "--answer-tokens", "20000"]
    assert cli.main([*flags, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"device", "layout", "memory", "sizing", "decode", "schedule"} <= set(figures)
    assert figures["layout"]["devices"] == 128
    assert cli.main(flags) == 0
    shown = capsys.readouterr().out
    for words in ("training on 128 x mi300x", "arithmetic never takes over", "base-1", "rl: behaviour",
                  "No count of ours gives 8.4B"):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 120
    for preset in PRESETS:
        assert cli.main(["plan", preset, "--device", "laptop"]) == 0
    assert "device" not in plan.plan("nano")


def planned_by(capsys, *flags):
    assert cli.main(["plan", "nano", "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_no_flag_is_ignored(capsys):
    """Without --device, too: each flag changes the plan."""
    plain = planned_by(capsys)
    assert plain["device"]["name"] == "mi300x" and plain["layout"]["devices"] == 1
    for flags in (["--dp", "2"], ["--ep", "2"], ["--cp", "2"], ["--batch", "2"], ["--optimizer", "muon"],
                  ["--efficiency", "0.5"],
                  ["--price", "3"], ["--answer-tokens", "100"], ["--context", "2048"], ["--dtype", "float32"],
                  ["--device", "h100"]):
        assert planned_by(capsys, *flags) != plain, flags


def test_dtype_reaches_the_paged_model(capsys):
    config = ZayaConfig.preset("nano")
    for dtype in ("float32", "bfloat16"):
        paged = planned_by(capsys, "--dtype", dtype)["memory"]
        assert paged["paged"] == memory.paged_memory(config, 4096, dtype)
        assert paged["paged_int8"] == memory.paged_memory(config, 4096, dtype, int8=True) != paged["paged"]


def test_a_plan_is_drawn(tmp_path, capsys):
    folder = tmp_path / "new" / "plans"
    figures = planned_by(capsys, "--figures", str(folder), "--ep", "2")
    assert figures["pictures"] == [str(folder / f"{name}.png") for name in ("parameters", "memory", "decoding")]
    assert {path.name for path in folder.iterdir()} == {"parameters.png", "memory.png", "decoding.png"}
    assert all(path.stat().st_size > 10_000 for path in folder.iterdir())


def widths(axis):
    return [bar.get_width() for bar in axis.patches]


@pytest.mark.parametrize("preset, layout", [("zaya1-8b", Layout(dp=16, ep=8)), ("nano", Layout())], ids=["8b", "nano"])
def test_pictures_show_the_plan(preset, layout):
    """Bars and curves are the plan's figures; axes say what they count."""
    figures = plan.plan(preset, 1024, device="h100", layout=layout)
    drawn = lab.of_plan(figures)
    for figure in drawn.values():
        assert all(axis.get_xlabel() for axis in figure.axes)
    parts = figures["parameters"]
    (axis,) = drawn["parameters"].axes
    assert sum(widths(axis)[::2]) == parts["total"] and sum(widths(axis)[1::2]) == parts["active"]
    (axis,) = drawn["memory"].axes
    sums = [held["sum"] / 1e9 for held in figures["memory"]["training"].values()]
    assert sum(widths(axis)) == pytest.approx(sum(sums))
    assert bool(axis.lines) == (4 * max(sums) > 80)                      # the device's memory, where it is in sight
    (axis,) = drawn["decoding"].axes
    assert axis.get_xscale() == axis.get_yscale() == "log" and axis.get_ylabel()
    curves = {line.get_label(): line.get_ydata() for line in axis.lines}
    assert curves["context 1,024"][6] == pytest.approx(figures["decode"]["batches"][64]["tokens_per_second"])
    ridge = devices.ridge_batch(ZayaConfig.preset(preset), 128, devices.device("h100"))
    assert [list(line.get_xdata()) for line in axis.lines if line.get_marker() == "o"] == ([[ridge]] if ridge else [])


def test_bars_of_layouts():
    held = {name: memory.training_memory(ZayaConfig.preset("zaya1-8b"), 1, 4096, layout=Layout.parse(name))
            for name in ("dp1", "ep8")}
    (axis,) = lab.training_memory(held).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ep8", "dp1"]
    assert sum(widths(axis)) == pytest.approx(sum(parts["sum"] for parts in held.values()) / 1e9)
    assert len(lab.decode_bounds().axes) == len(devices.PEAK)


def test_room_where_a_folder_would_be(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(devices.shutil, "disk_usage", lambda place: asked.append(place) or SimpleNamespace(free=7))
    assert devices.disk_room(tmp_path / "not" / "there") == 7 and asked == [tmp_path.resolve()]


def test_lesson_16_ends_with_an_answer(tmp_path, monkeypatch, capsys):
    """Its last cell before the dial, with micro in the place of the 8B: no room; room; told to write; there already."""
    cells = [cell.source for cell in code_cells(read(LESSONS / "16_full_8b.ipynb"))]
    (source,) = (cell for cell in cells if "WRITE_17_7_GB" in cell)
    home, room = tmp_path / "home", []
    monkeypatch.setattr(weights, "home", lambda preset: home)
    monkeypatch.setattr(devices, "disk_room", lambda folder: room[-1])

    def said(free, source=source):
        room.append(free)
        names = dict(mz=minizaya, time=time, weights=weights, plan=plan, materialize=materialize, devices=devices,
                     room=nullcontext(), full=ZayaConfig.preset("micro"))
        exec(source, names)
        return " ".join(capsys.readouterr().out.split())    # wherever its lines break

    opted = source.replace("WRITE_17_7_GB = False", "WRITE_17_7_GB = True")
    assert opted != source
    missing = "17.7 GB; the disk has 18.0 GB free, too little"
    assert missing in said(18e9) and missing in said(18e9, opted) and not home.exists()
    out = said(19e9)
    assert "skipped" in out and "writes 17.7 GB" in out and "WRITE_17_7_GB = True" in out and not home.exists()
    assert "GB read from experts" in said(19e9, opted) and home.is_dir()
    assert "GB read from experts" in said(0)


@pytest.mark.parametrize("call, message", [
    (lambda: Layout(dp=0), "dp must be an integer of at least 1"),
    (lambda: memory.training_memory(ZayaConfig.preset("nano"), 1, 7, layout=Layout(cp=2)), "cp must divide"),
    (lambda: memory.training_memory(ZayaConfig.preset("nano"), 1, 7, layout=Layout(ep=3)), "ep must divide"),
    (lambda: memory.activations(ZayaConfig.preset("nano"), 0, 7), "batch and length"),
    (lambda: memory.activations(ZayaConfig.preset("nano", num_convs=1), 1, 7), "num_convs must be 2"),
    (lambda: memory.optimizer_state(ZayaConfig.preset("nano"), "sgd"), "optimizer must be one of"),
    (lambda: devices.device("abacus"), "device must be one of"),
    (lambda: schedule.schedule(ZayaConfig.preset("nano"), 0), "devices and answer_tokens"),
    (lambda: schedule.schedule(ZayaConfig.preset("nano"), 1, efficiency=1.5), "efficiency must lie in"),
    (lambda: schedule.schedule(ZayaConfig.preset("nano"), 1, price=-1), "price must not be negative"),
    (lambda: schedule.schedule(ZayaConfig.preset("nano"), 1, price=float("inf")),
     "price must not be negative, and finite"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("given", [dict(layout=Layout(2)), dict(batch=2), dict(optimizer="muon"), dict(efficiency=0.5),
                                   dict(price=3.0), dict(answer_tokens=9)], ids=str)
def test_what_only_a_device_gives_an_effect_is_refused_without_one(given):
    with pytest.raises(ValueError, match="device must be named, got None: without one, only"):
        plan.plan("nano", **given)
    assert "schedule" in plan.plan("nano", device="mi300x", **given) and "schedule" not in plan.plan("nano")


def test_what_others_measured_stands_below_what_is_possible(capsys):
    """Each limit is what it says, the measured figures are below all of them, and launches are those of our layers."""
    full = ZayaConfig.preset("zaya1-8b")
    rows = published.rows(full, 4096)
    assert [row["batch"] for row in rows] == [1, 16, 64] and published.REACHED == 1e12 * floors.PEAKS["HBM, TB/s"][1]
    for row in rows:
        assert row["published"] < row["launched"] < row["reached"] < row["roofline"]
        seconds = devices.decode_bytes(full, row["batch"], 4096) / 4.33e12
        assert row["launched"] == pytest.approx(row["batch"] / (seconds + 40 * 10 * 5e-6))
        assert row["share"] == pytest.approx(row["published"] / row["launched"])
    assert [row["share"] for row in rows] == sorted(row["share"] for row in rows)      # closest where many share a step
    assert cli.main(["plan", "zaya1-8b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decode"]["published"] == rows
    assert plan.plan("zaya1-8b", device="h100")["decode"]["published"] == []
    assert "89.5" in plan.table(plan.plan("zaya1-8b", device="mi300x"))
    assert "measured on one" not in plan.table(plan.plan("micro", device="mi300x"))


@needs_compiler
def test_a_decoding_layer_makes_as_many_launches_as_the_plan_counts():
    """Ours, recorded, those of a library, counted, and one for attention's parts, which a short cache does not need."""
    counts = []
    for layers in (1, 2):
        model = Zaya(ZayaConfig.preset("nano", num_hidden_layers=layers), backend="hip")
        with torch.inference_mode():
            cache = model.new_cache(1)
            model(torch.tensor([[5, 6, 7]]), cache=cache)
            with hip.recorded() as launches, profile(activities=[ProfilerActivity.CPU]) as seen:
                model(torch.tensor([[8]]), cache=cache)
        products = sum(event.count for event in seen.key_averages() if event.key == "aten::linear")
        counts.append(len(launches) + products)
    assert counts[1] - counts[0] + 1 == published.LAUNCHES
