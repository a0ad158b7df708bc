"""Small things that docstrings promise in passing, room by room: what is the caller's stays his, what is called is told
everything, the last number that is allowed is allowed. Bugs planted by hand had lived here."""

import json
import math
import os
import random
import re
import shutil
import signal
import threading
import urllib.error
from collections import Counter
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import FrozenInstanceError
from email.message import Message
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
import torch
from jinja2 import TemplateError
from jinja2.runtime import Context

import minizaya as mz
from kill_pipeline import TOKENIZER, tiny_job, tiny_model
from minizaya.arch import balance, experts
from minizaya.arch.attention import locate
from minizaya.arch.cache import moved
from minizaya.arch.cca import value_shift
from minizaya.data import chat, gyms, ngram, tasks, text
from minizaya.data.aggregation import continuation, cut_off, problem_chat, solution_chat
from minizaya.data.hf_tokenizer import HFTokenizer
from minizaya.data.tasks import CUE, END, Problem, get, sheet
from minizaya.data.template import Template, end_tokens
from minizaya.data.template import room as the_room
from minizaya.data.tokenizer import SPECIALS, ByteTokenizer, CharTokenizer, from_dict
from minizaya.hub import golden, paged_step, shards, weights, zoo
from minizaya.hub.config_json import read_config
from minizaya.hub.contents import Entry, read_index
from minizaya.hub.mapped import Mapped, view_of
from minizaya.hub.paging import PagedZaya
from minizaya.hub.weights import StandIn
from minizaya.infer import calls
from minizaya.infer import generate as generating
from minizaya.infer.calls import ToolCall, strict_json, write_call
from minizaya.infer.endpoint import Endpoint
from minizaya.infer.endpoint import client as the_client
from minizaya.infer.endpoint.run_file import RunFile
from minizaya.infer.engine import Engine
from minizaya.infer.parse import Reader, Reply, parse
from minizaya.infer.rsa import RSAConfig, majority, markovian_rsa_many
from minizaya.infer.slots import SlotCache
from minizaya.parallel.layout import Layout
from minizaya.plan.devices import findings
from minizaya.plan.memory import activations, context_activations, optimizer_state, training_memory
from minizaya.rl import pipeline
from minizaya.rl.advantage import dr_grpo_advantage, grpo_advantage, maxrl_advantage, mixed
from minizaya.rl.buffer import Shelf
from minizaya.rl.curriculum import Calibrator, Scheduler, pass_rate
from minizaya.rl.generator import Generator
from minizaya.rl.learner import Learner, LearnerConfig, micro_batches
from minizaya.rl.loss import policy_loss, token_logprobs
from minizaya.rl.mismatch import int8, low_precision
from minizaya.rl.replay import check_routes, pack_routes, unpack_routes
from minizaya.rl.rollout import Rollout
from minizaya.serve.checks import Wrong
from minizaya.serve.formats import ChatFormat
from minizaya.serve.messages import read_messages, read_tools
from minizaya.serve.protocol import answer_by_rsa, chunks, message_of, read_request, reason, usage_of
from minizaya.serve.telling import held_back
from minizaya.train import checkpoint, loop, stages
from minizaya.train.loop import Recipe, Trainer, interrupts
from minizaya.train.muon import Muon
from minizaya.train.optim import adamw, learning_rate, muon
from minizaya.train.run_lock import RunLock, try_lock
from minizaya.train.sources import Batch, problem_documents, seed_of

BYTES = ByteTokenizer()
SIZES = dict(vocab_size=29, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
             head_dim=8, num_experts=3, moe_intermediate_size=8, router_hidden_size=4, pad_token_id=0, bos_token_id=1,
             eos_token_id=2)


def tiny(backend="fast", **changes):
    torch.manual_seed(0)
    return mz.Zaya(mz.ZayaConfig.preset("nano", **SIZES | changes), backend)


# ---- config and arch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rms_norm_eps", "initializer_range", "rope_theta", "rope_theta_sliding"])
def test_each_number_that_must_be_positive_is(name):
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"{name} must be positive, got {bad}"):
            mz.ZayaConfig(**{name: bad})


def test_half_of_the_value_channels_is_a_whole_number():
    sizes = dict(num_attention_heads=2, head_dim=3, partial_rotary_factor=0.7)     # 2.1 channels turn: 2
    assert mz.ZayaConfig(num_key_value_heads=2, **sizes).rotary_dim == 2
    assert mz.ZayaConfig(num_key_value_heads=2, **sizes | {"partial_rotary_factor": 0.99}).rotary_dim == 2, "2.97 too"
    with pytest.raises(ValueError, match=r"num_key_value_heads \* head_dim must be even .* got 1 \* 3"):
        mz.ZayaConfig(num_key_value_heads=1, **sizes)


def test_new_biases_are_zero_and_all_else_stays_one():
    for name, p in tiny(lm_head_bias=True, attention_bias=True).named_parameters():
        if p.dim() < 2:
            assert torch.equal(p, torch.zeros_like(p) if name.endswith("bias") else torch.ones_like(p)), name


def test_each_new_matrix_is_drawn_with_the_configs_range():
    for name, p in tiny(lm_head_bias=True, attention_bias=True, initializer_range=0.3).named_parameters():
        if p.dim() >= 2:
            assert abs(float(p.detach().std()) / 0.3 - 1) < 6 * (2 * p.numel()) ** -0.5, name


def test_the_reference_reads_documents_as_the_fast_path_does():
    fast, plain = tiny().double(), tiny("reference").double()
    tokens, docs = torch.arange(3, 19)[None] % 29, torch.tensor([[4] * 3 + [2] * 5 + [4] * 1 + [7] * 7])
    with torch.no_grad():
        for module in fast.modules():
            if isinstance(module, torch.nn.Conv1d):
                module.bias.normal_()
        plain.load_state_dict(fast.state_dict())
        together = fast(tokens, doc_ids=docs).logits
        torch.testing.assert_close(plain(tokens, doc_ids=docs).logits, together, rtol=0, atol=1e-10)
        for start, stop in ((0, 3), (3, 8), (8, 9), (9, 16)):
            alone = plain(tokens[:, start:stop]).logits
            torch.testing.assert_close(together[:, start:stop], alone, rtol=0, atol=1e-10)


def test_a_documents_first_token_has_nobody_before_it():
    """What stood before the chunk is of another document; within a document it is that document's."""
    now, then = torch.arange(4.0).view(1, 4, 1), torch.arange(4.0, 8.0).view(1, 4, 1)
    before, nobody = torch.tensor([[90.0]]), torch.tensor([[70.0]])
    late = value_shift(now, then, before, torch.tensor([[3, 0, 1, 0]]), nobody)[0, :, 1]
    assert late.tolist() == [90.0, 70.0, 5.0, 70.0]
    assert value_shift(now, then, before, torch.tensor([[3, 0, 1, 0]]))[0, :, 1].tolist() == [90.0, 90.0, 5.0, 90.0]


@pytest.mark.parametrize("chunks", [(3, 2, 1, 3), (1, 8), (7, 2), (2, 2, 2, 3)], ids=str)
@pytest.mark.parametrize("backend", ["fast", "reference"])
@pytest.mark.parametrize("masked", [None, 1, 2])
def test_chunks_of_few_tokens_see_their_past(chunks, backend, masked):
    """Two tokens behind a past are where a mask that counts from the wrong corner shows. masked: the first chunk that
    has a mask, whose first token is padding then."""
    model, tokens = tiny(backend).double().eval(), torch.arange(3, 21).view(2, 9)
    valid = torch.ones(2, 9, dtype=torch.bool)
    starts = [sum(chunks[:i]) for i in range(len(chunks))]
    if masked is not None and masked < len(chunks):
        valid[0, starts[masked]] = False
    with torch.no_grad():
        whole, cache = model(tokens, mask=valid).logits, model.new_cache(2)
        for i, (start, size) in enumerate(zip(starts, chunks)):
            mask = valid[:, start: start + size] if masked is not None and i >= masked else None
            found = model(tokens[:, start: start + size], cache=cache, mask=mask).logits
            real = valid[:, start: start + size]
            torch.testing.assert_close(found[real], whole[:, start: start + size][real], rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows", [[0, 2], [True, False, True]])
def test_a_cache_goes_on_with_those_that_were_kept(rows):
    """By their numbers, or by a flag for each."""
    model, tokens = tiny().double(), torch.tensor([[3, 4, 5], [6, 7, 8], [9, 3, 4]])
    cache = model.new_cache(3)
    with torch.no_grad():
        wanted = model(tokens).logits[[0, 2], -1]
        model(tokens[:, :2], cache=cache)
        cache.select(torch.tensor(rows))
        found = model(tokens[[0, 2], 2:], cache=cache).logits[:, -1]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_half_of_a_caches_memory_at_most_lies_idle():
    """However one by one its sequences leave, and whoever of them."""
    kv = torch.arange(2 * 9 * 4.0).view(2, 9, 4, 1, 1)
    wanted, chance = kv.clone(), random.Random(0)
    while len(wanted[0]) > 1:
        rows = torch.tensor(generating.from_the_end(sorted(chance.sample(range(len(wanted[0])), len(wanted[0]) - 1))))
        kv, wanted = moved(kv, rows), wanted[:, rows]
        assert torch.equal(kv, wanted)
        assert kv.untyped_storage().nbytes() <= 2 * wanted.nbytes, len(rows)


def test_a_mask_of_padding_is_more_than_order_and_documents():
    here = dict(batch=1, steps=3, past=0, dtype=torch.float32, device=torch.device("cpu"))
    assert locate(tiny().config, **here).regular and locate(tiny().config, **here, doc_ids=torch.ones(1, 3)).regular
    assert not locate(tiny().config, **here, valid=torch.tensor([[False, True, True]])).regular


def test_the_balancing_bias_goes_where_the_model_goes():
    assert tiny().to("meta", torch.bfloat16).layers[0].router.balancing_bias.device.type == "meta"


def test_what_a_router_says_and_hands_up_has_gradients():
    """A loss on the probabilities moves the router; by the state handed up, the routers below it, too."""
    model = tiny()
    first, second = (block.router for block in model.layers)
    x = torch.randn(1, 5, 16)
    second(x, first(x, None)[3])[2][..., 0].sum().backward()
    assert first.down_proj.weight.grad.any() and second.down_proj.weight.grad.any()
    model.zero_grad()
    model(torch.arange(3, 9)[None]).probs[..., 0].sum().backward()
    assert all(block.router.mlp.out_proj.weight.grad.any() for block in model.layers)


@pytest.mark.parametrize("scaled", [True, False])
def test_the_stream_stays_wide_in_a_narrow_model(scaled):
    model, seen = tiny(residual_scaling=scaled).bfloat16(), set()
    for block in model.layers:
        block.register_forward_hook(lambda module, args, out: seen.add(out[0].dtype))
    for merge in (part for block in model.layers for part in (block.attention_merge, block.moe_merge)):
        merge.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    model(torch.arange(3, 9)[None])
    assert seen == {torch.float32}


@pytest.mark.parametrize("run", [experts.experts_grouped, experts.experts_loop])
def test_experts_that_nobody_visits_have_a_gradient_where_the_fast_path_runs(run):
    weights = [torch.randn(3, 4, 5, requires_grad=True), torch.randn(3, 5, 2, requires_grad=True)]
    x = torch.randn(6, 5, requires_grad=True)
    out = run(x, torch.full((6,), 3), torch.ones(6), *weights)
    assert not out.any()
    if run is experts.experts_grouped:
        out.sum().backward()
        assert all(w.grad is not None and not w.grad.any() for w in weights)


def test_what_a_balancer_hands_out_is_the_callers():
    one = balance.SignBalancer(2)
    one.update(torch.tensor([1.0, 0.0])).add_(9)
    assert one.bias.abs().max() < 1
    one.load_state_dict({"bias": torch.tensor([1.0, -1.0], dtype=torch.float64)})
    assert one.bias.dtype == torch.float32
    for number in range(1, 65):      # equal loads are no error, whatever a float makes of their sum
        assert not balance.SignBalancer(number).update(torch.full((number,), 1 / number)).any(), number


BALANCERS = [partial(balance.SignBalancer, lr=0.1), balance.PIDBalancer, balance.AdamWBalancer]


@pytest.mark.parametrize("kind", BALANCERS)
def test_the_biases_of_each_layer_sum_to_zero(kind):
    """Not only those of all layers together."""
    one = kind(3, num_layers=2)
    for load in ([[0.6, 0.3, 0.0], [0.9, 0.05, 0.05]], [[0.7, 0.1, 0.1], [0.2, 0.2, 0.1]]):
        assert one.update(torch.tensor(load)).sum(-1).abs().max() < 1e-6 and one.bias.abs().max() > 1e-4


@pytest.mark.parametrize("kind", BALANCERS)
def test_a_balancers_state_is_all_that_it_goes_on_by(kind):
    loads = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.1, 0.2], [0.0, 0.3, 0.6], [0.2, 0.2, 0.1]])
    whole, first, second = kind(3), kind(3), kind(3)
    wanted = [whole.update(load) for load in loads]
    for load in loads[:3]:
        first.update(load)
    kept = first.state_dict()
    first.update(loads[3])      # what was kept stays as it was
    second.load_state_dict(kept)
    assert all(torch.equal(second.update(load), bias) for load, bias in zip(loads[3:], wanted[3:]))


def test_the_load_of_a_single_visit():
    """The whole of it, or none where the token skips; no visits are no load."""
    for visits, load in (([1, 0, 0], [1.0, 0.0]), ([0, 0, 1], [0.0, 0.0]), ([0, 0, 0], [0.0, 0.0])):
        assert balance.fractions(torch.tensor(visits)).tolist() == load


def test_one_layer_whose_load_is_no_load_is_refused():
    """Each layer's fractions sum to at most 1, not those of all."""
    for wrong in ([[0.5, 0.5], [0.9, 0.9]], [[0.5, math.nan], [0.5, 0.5]], [[0.5, 0.5], [-0.1, 0.5]]):
        with pytest.raises(ValueError, match="load must hold fractions of tokens"):
            balance.SignBalancer(2, num_layers=2).update(torch.tensor(wrong))


def test_three_errors_by_hand():
    """P, I and D, each the textbook's; AdamW's decay is by the rate."""
    pid, errors = balance.PIDBalancer(2, kp=0.5, ki=0.25, kd=2.0), [0.1, 0.3, -0.2]
    for i, error in enumerate(errors):
        found = pid.update(torch.tensor([0.5 + error, 0.5 - error]))
        wanted = -(0.5 * error + 0.25 * sum(errors[: i + 1]) + 2.0 * (error - (errors[i - 1] if i else 0)))
        assert found.tolist() == pytest.approx([wanted, -wanted], abs=1e-6)
    adamw = balance.AdamWBalancer(2, lr=0.1, weight_decay=0.5)
    first = adamw.update(torch.tensor([0.9, 0.1]))
    assert first.tolist() == pytest.approx([-0.1, 0.1], abs=1e-5)
    before = adamw.mean.clone()
    second = adamw.update(torch.tensor([0.5, 0.5]))
    step = 0.1 * (0.9 * before / (1 - 0.9**2)) / ((0.999 * 0.001 * 0.16 / (1 - 0.999**2)) ** 0.5 + 1e-8)
    assert second.tolist() == pytest.approx((first * 0.95 - step).tolist(), abs=1e-5)


# ---- infer -----------------------------------------------------------------------------------------------------------


def test_an_empty_answer_has_a_vote_and_none_has_not():
    assert majority(["", "", "a"]) == "" and majority([None, None, "a"]) == "a" and majority([None]) is None


def test_an_opening_tag_alone_is_no_reasoning():
    assert parse("<think>").reasoning == "" and parse("<thin").reasoning == "<thin"


@pytest.mark.parametrize("value", ["<", "a<think>b", "<function=x>", ["<b>"], {"<k": "</x"}, "</parameter>"], ids=str)
def test_a_call_that_is_written_holds_no_tag_but_its_own(value):
    written = write_call(ToolCall("f", {"x": value}))
    assert not re.search("<think|<function=x|<[bk]|</x", written) and written.count("</parameter>") == 1
    assert parse(written, thinking=False).calls == [ToolCall("f", {"x": value})]


def test_a_call_in_json_that_is_cut_off_is_malformed_as_written():
    for cut in ('{"name": "f", "argu', "{", "\n {", "<function=f>\n<par", ""):
        reply = parse(f"so <zyphra_tool_call>{cut}", thinking=False)
        assert (reply.content, reply.malformed) == ("so ", [f"<zyphra_tool_call>{cut}"]), cut
    assert parse("so <zyphra_tool_call> is a tag", thinking=False).content == "so  is a tag"


@pytest.mark.parametrize("text", [" \n<par", "a \n <", "</function> </func", "x  <zyphra_tool_ca"])
def test_text_that_waits_comes_out_in_its_order(text):
    """White space waits for what follows it, and the beginning of a tag for its end; when nothing more comes, both."""
    wanted = text.replace("</function>", "")
    assert parse(text, thinking=False).content == "".join(
        part.content for reader in [Reader(thinking=False)] for part in [*map(reader.feed, text), reader.finish()]
    ) == wanted


def test_no_more_prompts_join_than_there_are_slots():
    model = tiny()
    few, many = (Engine(model, slots=2, size=9, joining=joining) for joining in (2, 16))
    assert few.bytes == many.bytes == SlotCache.bytes(model.config, 4, 9, 4) and many.joining == 2


def test_a_sequence_that_came_in_before_the_failure_goes_again():
    """The second of two prompts does not get in, once: both are read again, and the slots are theirs alone."""
    model, prompts = tiny(), [[3, 4], [5, 6, 7]]
    engine = Engine(model, slots=2, size=9)
    whole, tried = engine.cache.join, []

    def join(read, lengths, rows):
        tried.append(rows)
        whole(read, lengths, rows[:1] if len(tried) == 1 else rows)
        if len(tried) == 1:
            raise RuntimeError("no memory")

    engine.cache.join = join
    numbers = [engine.submit(prompt, 5, temperature=0.0) for prompt in prompts]
    while engine.busy:
        engine.step()
    wanted = mz.generate(model, prompts, 5, temperature=0.0)
    assert [engine.take(number).tokens for number in numbers] == wanted and tried == [[0, 1], [0], [0]]
    assert engine.cache.batch == 0


def test_what_is_recorded_is_ones_own_beside_others_who_record_nothing():
    found = []
    for others in (0, 2):
        engine = Engine(tiny(), slots=3, size=9)
        for number in range(others):
            engine.submit([3 + number], 5, seed=number)
        own = engine.submit([7, 8], 5, seed=4, record=True)
        while engine.busy:
            engine.step()
        found.append(engine.take(own))
    assert found[0].tokens == found[1].tokens and torch.equal(found[0].routes, found[1].routes)
    assert found[0].logprobs == pytest.approx(found[1].logprobs, abs=1e-5)


def test_an_engine_turns_each_kind_of_layer_by_its_own_base():
    """What is recorded is what the model says of the whole text, where the two kinds of layers turn very unlike."""
    model = tiny(layer_types=("hybrid", "hybrid_sliding"), sliding_window=4, rope_theta=50.0, rope_theta_sliding=2.0,
                 initializer_range=0.5).double().eval()
    engine = Engine(model, slots=2, size=16, compiled=False)
    prompts = [[3, 4, 5, 6, 7], [8, 9]]
    numbers = [engine.submit(prompt, 8, seed=i, record=True) for i, prompt in enumerate(prompts)]
    while engine.busy:
        engine.step()
    for prompt, number in zip(prompts, numbers):
        done = engine.take(number)
        whole = torch.tensor([prompt + done.tokens])
        with torch.no_grad():
            said = model(whole).logits.log_softmax(-1)[0, len(prompt) - 1: -1]
        assert done.logprobs == pytest.approx(said.gather(-1, whole[0, len(prompt):, None])[:, 0].tolist(), abs=1e-9)


def test_a_bar_counts_steps_and_ends_at_its_total(monkeypatch):
    """One for a token of a whole batch, however many are in it: three prompts, two at a time, four tokens each."""
    class Bar:
        def __init__(self, total, **settings):
            self.total, self.shown = total, [0]
            bars.append(self)

        def update(self, count=1):
            self.shown.append(self.shown[-1] + count)

    bars = []
    monkeypatch.setattr(generating, "tqdm", lambda **settings: nullcontext(Bar(**settings)))
    mz.generate(tiny(), [[3], [4], [5]], 4, progress=True, rows=2, compiled=False)
    assert [(bar.total, bar.shown) for bar in bars] == [(8, list(range(9)))]


def test_an_engine_answers_in_eval_mode_and_gives_the_mode_back():
    model, seen = tiny().train(), []
    model.layers[1].eval()
    model.norm.register_forward_hook(lambda module, args, out: seen.append(any(m.training for m in model.modules())))
    engine = Engine(model, slots=1, size=9, compiled=False)
    number = engine.submit([3, 4], 3, record=True)
    while engine.busy:
        engine.step()
    assert seen == [False] * 3 and model.training and model.layers[0].training and not model.layers[1].training
    assert engine.take(number).routes.dtype == torch.int16


def asked(monkeypatch, answer, **settings):
    """What goes out for one prompt: (address, seconds) of each request, and the client."""
    seen = []

    def urlopen(message, timeout):
        seen.append((message.full_url, timeout))
        return answer()

    opener = the_client.urllib.request.OpenerDirector
    monkeypatch.setattr(opener, "open", lambda _, message, timeout: urlopen(message, timeout))
    endpoint = Endpoint("http://127.0.0.1:9/v1/", "m", BYTES, retries=0, pause=0.0, **settings)
    endpoint([BYTES.encode("x")], 5)
    return seen, endpoint


class Answered(BytesIO):
    headers, length = Message(), 0


def test_a_request_has_its_time_and_its_address(monkeypatch, tmp_path):
    answer = json.dumps({"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}).encode()
    seen, _ = asked(monkeypatch, lambda: Answered(answer), timeout=7.5, run_file=tmp_path / "run")
    assert seen == [("http://127.0.0.1:9/v1/chat/completions", 7.5)]
    assert len(json.loads((tmp_path / "run").read_text())["key"]) == 64, "no two requests share a key"


def test_a_requests_chances_are_its_own_in_any_company():
    """The same at any place and after any others; the second time it is asked it has others."""
    alone, beside = ([], [])
    for found, prompts in ((alone, ["b", "b"]), (beside, ["a", "c", "b", "a", "b"])):
        endpoint = Endpoint("http://127.0.0.1:9/v1", "m", BYTES)
        endpoint.trace = found.append
        endpoint([BYTES.encode(prompt) for prompt in prompts], 5)

    def seeds(requests, said):
        return sorted(one["seed"] for one in requests if one["messages"][0]["content"] == said)

    assert seeds(alone, "b") == seeds(beside, "b") and len({one["seed"] for one in beside}) == 5


def test_a_run_file_may_lie_in_folders_that_are_not_there_yet(tmp_path):
    RunFile(tmp_path / "a" / "b" / "run").append("a", "1")
    assert RunFile(tmp_path / "a" / "b" / "run").texts == {"a": "1"}


def test_a_refusal_without_words_is_told_by_its_reason(monkeypatch):
    def refuse():
        raise urllib.error.HTTPError("http://x", 400, "Bad Request", {}, BytesIO(b""))

    assert asked(monkeypatch, refuse)[1].errors == ["HTTP 400: Bad Request"]


def test_of_two_lines_with_one_key_the_later_counts(tmp_path):
    """For who wrote it and for who reads it: two processes may have asked for the same."""
    one = RunFile(tmp_path / "run")
    one.append("a", "1")
    one.append("a", "2")
    assert one.texts == RunFile(tmp_path / "run").texts == {"a": "2"}


def test_a_line_break_alone_is_an_empty_value():
    """Of either kind: between the two that stand around a value nothing stands."""
    for end in ("\n", "\r\n"):
        block = f"<zyphra_tool_call><function=f><parameter=x>{end}</parameter></function></zyphra_tool_call>"
        assert parse(block, thinking=False).calls == [ToolCall("f", {"x": ""})]


@pytest.mark.parametrize("tag", calls.TAGS)
def test_a_value_with_a_tag_in_it_is_no_value(tag):
    body = f"<function=f><parameter=x>\na {tag} b\n</parameter></function>"
    assert calls.unframed(f"\na {tag} b\n") is None and calls.read_call(body) is None


def test_the_key_that_stands_twice_is_named():
    with pytest.raises(ValueError, match="^'b' stands twice in an object$"):
        strict_json('{"a": 1, "b": 2, "c": 3, "b": 4}')


def test_every_question_has_a_token():
    rsa = RSAConfig(N=2, C=1, T=1, beta=3, tau=2)
    for questions in ([[5], []], [[]], []):
        with pytest.raises(ValueError, match="questions must hold at least one question of at least one token"):
            markovian_rsa_many(lambda prompts, room: [[1]] * len(prompts), questions, rsa)


# ---- data ------------------------------------------------------------------------------------------------------------


def test_the_largest_vocabulary_of_an_ngram():
    assert ngram.witten_bell([0], [0], 0x10FFFF, 1) == [pytest.approx(-math.log((1 + 1 / 0x10FFFF) / 2))]
    with pytest.raises(ValueError, match="vocab_size must be in 1 to"):
        ngram.witten_bell([0], [0], 0x110000)


def test_turns_are_counted():
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>b</think>c"}]
    spans = chat.encode(said, BYTES, reply=True).spans
    assert [(s.kind, s.turn) for s in spans if s.kind != "template"] == [("prompt", 0), ("reasoning", 1), ("answer", 1)]
    assert (spans[0].turn, spans[-1].turn) == (-1, 2)
    worked = problem_chat(get("copy").generate(0, 2), BYTES).spans
    assert [(span.kind, span.turn) for span in worked] == [("prompt", 0), ("reasoning", 1), ("answer", 1)]


@pytest.mark.parametrize("made, name", [
    (lambda: get("copy").generate(0, 2), "answer"), (lambda: problem_chat(get("copy").generate(0, 2), BYTES), "spans"),
    (RSAConfig, "N"), (lambda: Recipe(steps=1), "lr"), (lambda: stages.TOY[0], "tokens"),
    (mz.ZayaConfig, "hidden_size"), (lambda: ToolCall("f", {}), "name")])
def test_what_many_share_cannot_be_changed_by_one(made, name):
    """A problem is kept for a whole group of answers, a configuration for all who compute with it."""
    with pytest.raises(FrozenInstanceError):
        setattr(made(), name, None)


def test_flags_are_of_tokens_and_not_of_characters():
    """A letter of two bytes is two tokens."""
    for worked in (solution_chat(get("copy").generate(0, 2), "é→", "ü", BYTES), chat.encode(
            [{"role": "user", "content": "é"}, {"role": "assistant", "content": "<think>→</think>ü"}], BYTES)):
        assert len(worked.loss_mask) == len(worked.tokens) == worked.spans[-1].end
        for span in worked.spans:
            assert set(worked.loss_mask[span.start: span.end]) == {span.trained}, span


@pytest.mark.parametrize("answer", [0, "0", 7])
def test_a_gyms_answer_may_be_the_number_zero(answer):
    class Dataset(list):
        def score_answer(self, said, entry):
            return float(said == str(entry["answer"]))

    gym = object.__new__(gyms.ReasoningGym)
    gym.name, gym.max_difficulty = "reasoning_gym/x", 1
    gym._create = lambda seed, difficulty: Dataset([{"question": 3, "answer": answer}])
    problem = gym.generate(0, 1)
    assert (problem.prompt, problem.answer) == ("3", str(answer)) and gym.verify(problem, problem.completion) == 1


@pytest.mark.parametrize("name", tasks.names())
def test_a_document_of_a_task_is_its_prompt_and_one_answer(name):
    """The prompt is read, all else is learned; the reasoning ends once."""
    for draw in (problem_documents({name: (1, 3)}, BYTES), lambda rng: problem_chat(get(name).generate(3, 2), BYTES)):
        made = draw(random.Random(1))
        asked, *told = made.spans
        assert [span.kind for span in made.spans] == ["prompt", "reasoning", "answer"]
        assert not any(made.loss_mask[: asked.end]) and all(made.loss_mask[asked.end:])
        said = BYTES.decode(made.tokens)
        assert said.count(CUE) == said.count(END) == 1 and said.endswith(END)


@pytest.mark.parametrize("wrong", [b"ab", ["a"], None, 7], ids=str)
@pytest.mark.parametrize("tokenizer", [BYTES, CharTokenizer("ab")], ids=["bytes", "characters"])
def test_only_a_text_is_encoded(tokenizer, wrong):
    for allowed in (True, False):
        with pytest.raises(ValueError, match=f"text must be a str, got {type(wrong).__name__}"):
            tokenizer.encode(wrong, allow_special=allowed)


@pytest.mark.parametrize("name", ["<pad>", "<bos>", "<eos>", "<unk>"])
def test_each_of_four_control_tokens_is_needed(name):
    with pytest.raises(ValueError, match=f"specials must include .'{name}'."):
        ByteTokenizer([token for token in SPECIALS if token != name])


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int64], ids=str)
def test_windows_are_int64_of_whatever_the_text_is(kind):
    inputs, targets = text.Batches(torch.arange(9).to(kind), 2, 4, 0)(0)
    assert inputs.dtype == targets.dtype == torch.int64 and torch.equal(inputs[:, 1:], targets[:, :-1])


def test_of_two_turns_each_must_end():
    mark, end = (BYTES.special_ids[name] for name in ("<|im_start|>", "<|im_end|>"))
    with pytest.raises(ValueError, match="the turn that starts at token 2 never ends"):
        chat.read([mark, end, mark, 65], BYTES)


def test_of_two_tails_that_found_it_the_first_is_taken_up():
    problem = get("countdown").generate(3, 2)
    (a, b, c), target = problem.prompt[1:4], problem.prompt[5:7]
    ways = [f"{x}{p}{y}{q}{z}" for x, y, z in ((a, b, c), (b, a, c), (c, b, a), (a, c, b), (b, c, a), (c, a, b))
            for p in "+-*" for q in "+-*"]
    first, second = [way for way in ways if get("countdown").verify(problem, way)][:2]
    tails = [f"9x{way}={target}#{way}{END}" for way in (first, second)]
    assert continuation(problem, tails) == tails[0][2:] and continuation(problem, tails[::-1]) == tails[1][2:]


def test_a_pair_of_digits_that_are_not_there_is_not_tried():
    parts = {"a": "38516"}        # two of 3, 8, 5, 1 whose sum ends in 6
    reasoning, found = sheet.searched(parts, random.Random(0), 6, {"a": ["99", "51", "38"]})
    assert (reasoning, found) == ("a516!", "a51")
    problem = Problem("Q38516a?", "#", "a51", "sheet", 1)
    assert "a99" not in sheet.united(problem, ["a998/#a99"])
    assert sheet.united(problem, ["a516!#a38"]).startswith("a381/"), "a list counts, before the hits that led to it"


def test_a_number_is_right_with_zeros_before_it():
    for name in ("addition", "modchain", "base"):
        problem = get(name).generate(1, 3)
        said = [f"#00{problem.answer}$", f"#{problem.answer}0$"]
        assert [get(name).verify(problem, words) for words in said] == [1, 0]


def test_a_budget_cuts_before_a_tail_is_taken():
    """All rollouts at about one place: what a tail ends with is where the budget ended, in half of the cases."""
    whole = "".join(map(chr, range(48, 98)))
    tails = [cut_off([whole], 5, random.Random(seed))[0] for seed in range(60)]
    assert all(tail in whole and len(tail) in (4, 5) for tail in tails)
    assert 15 < tails.count(whole[-5:]) < 45 and len(set(tails)) > 12


def test_what_a_tokenizers_file_may_hold(tmp_path):
    """Gaps between ids; words that were added and are no control tokens. <bos> is a token of its own."""
    tokenizers = pytest.importorskip("tokenizers")
    ids = {token: 3 * i for i, token in enumerate([*SPECIALS, "a", "b", "word"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    inner.add_special_tokens(list(SPECIALS))
    inner.add_tokens(["word"])
    inner.save(str(tmp_path / "t.json"))
    tokenizer = HFTokenizer(tmp_path / "t.json")
    assert tokenizer.vocab_size == 3 * 10 + 1 and tokenizer.decode([27]) == "b"
    assert tokenizer.encode("aé") == [24, tokenizer.unk_id], "a rare character is written as the unknown one"
    assert tokenizer.encode("aword") == [24, 30] and set(tokenizer.text_of.values()) == set(SPECIALS)
    with pytest.raises(ValueError, match="must be different tokens"):
        HFTokenizer(tmp_path / "t.json", {"<bos>": "<|im_start|>"})


@pytest.mark.parametrize("config, generation, ends", [
    (0, None, (0,)), ([0, 4], 4, (0, 4)), ([5, 3], [3, 0], (3, 0)), (None, 0, (0,)), (None, None, ())])
def test_the_first_and_the_last_id_may_end_an_answer(tmp_path, config, generation, ends):
    """Of five: 5 is none. A null, or no file, names none."""
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": config}))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert end_tokens(tmp_path, 5) == ends


def test_a_template_is_told_that_there_are_no_tools():
    hello = [{"role": "user", "content": "a\U000f0001b"}]
    assert Template("{{ tools is none }}").render(hello) == "True"
    parts = Template("<{{ messages[0].content }}>").around(hello, 0, BYTES)
    assert [BYTES.decode(part) for part in parts] == ["<ab", ">"], "a typed mark is dropped"


def test_a_tokenizers_dict_holds_no_more_than_it_should():
    with pytest.raises(ValueError, match="must have"):
        from_dict(BYTES.to_dict() | {"more": 1})


def test_all_that_is_left_may_be_spent_and_what_is_shown_is_paid_for_once():
    def spending():
        the_room.LEFT.set([10, 10])
        the_room.fits(10)
        with pytest.raises(TemplateError, match="more than 10 steps"):
            the_room.fits(11)
        assert the_room.shown(None, "abc") == "abc" and the_room.LEFT.get()[0] == 7
        the_room.spend(7)
        with pytest.raises(TemplateError, match="more than 10 steps"):
            the_room.spend(1)

    copy_context().run(spending)


def test_what_is_written_out_costs_something_each():
    """An entry with nothing in it, too: a list of many takes its time."""
    the_room.LEFT.set([10**6])
    for empty in ("", None, [], {}, ()):
        assert the_room.written([empty] * 1000) >= 1000
    assert the_room.written(["ab", {"c": "def"}]) == 1 + 3 + 1 + 2 + 4


def test_a_part_of_the_problems_is_one_of_two():
    for n in (0, 1):
        with pytest.raises(ValueError, match="part must be 'train' or 'held_out', got 'all'"):
            tasks.problems("copy", "all", 1, n, 0)


def test_misses_are_counted_in_a_row():
    """A long list of the smaller part misses more often than a search may."""
    found = tasks.problems("addition", "held_out", 5, tasks.SEARCH_LIMIT // 4, seed=0)
    assert len(found) == tasks.SEARCH_LIMIT // 4


def test_what_things_cost_in_the_room():
    """A sum as long as it is, and what has no length as much as a letter: else a loop over it would be free."""
    assert [the_room.size(thing) for thing in (None, 1.5, "", "ab", [0] * 3, 7, 2**64)] == [1, 1, 0, 2, 3, 1, 2]

    for wide, given in (("%99d", [1]), ("{:99}", [1]), ("%*d", [99, 1]), ("{:{}}", [1, -99]), ("%s", ["x" * 99])):
        assert the_room.grown("format", wide, given) >= 99, "known before it is made"

    def spending():
        the_room.LEFT.set([20, 20])
        assert the_room.Room().call_binop(None, "+", "abcd", "ef") == "abcdef" and the_room.LEFT.get()[0] == 14
        assert the_room.counted(None) is None and the_room.LEFT.get()[0] == 13
        the_room.LEFT.set([99, 99])
        assert the_room.paid("turn", lambda text: "")("abcd") == "" and the_room.LEFT.get()[0] == 95 - the_room.STEP
        the_room.LEFT.set([99, 99])
        here = Context(the_room.Room(), {}, "", {})
        assert the_room.Room().call(here, "ab".upper) == "AB" and the_room.LEFT.get()[0] == 99 - the_room.STEP - 2

    copy_context().run(spending)


@pytest.mark.parametrize("kind", [ByteTokenizer, partial(CharTokenizer, "abc")], ids=["bytes", "characters"])
def test_a_control_token_of_ones_own_is_one(kind):
    tokenizer = kind(specials=[*SPECIALS, "<mine>"])
    ids = tokenizer.encode("a<mine>b", allow_special=True)
    assert len(ids) == 3 and tokenizer.decode(ids) == "a<mine>b"
    assert tokenizer.decode(ids, keep_special=False) == "ab"


# ---- train -----------------------------------------------------------------------------------------------------------


def test_each_step_has_the_rate_of_the_schedule():
    recipe = Recipe(steps=6, warmup=2, lr=0.01, optimizer="muon", momentum=0.5, beta1=0.8, beta2=0.7, final_share=0.1)
    tokens = torch.arange(12)[None] % 9
    trainer = Trainer(tiny(), recipe, lambda step: [Batch("x", tokens[:, :-1], tokens[:, 1:])])
    trainer.train(bar=False)
    assert [record["lr"] for record in trainer.records] == [learning_rate(s, 6, 0.01, 2, 0.1) for s in range(6)]
    for group in trainer.optimizer.param_groups:
        assert (group["momentum"], group["betas"]) == (0.5, (0.8, 0.7))
    assert muon(trainer.model, 0.1, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_each_source_has_the_loss_of_its_own_targets():
    """Token 0 is one like any other."""
    model, tokens = tiny().eval(), torch.tensor([[5, 0, 7, 0, 0, 9]])
    few = torch.where(torch.arange(5) < 2, tokens[:, 1:], -100)
    batches = [Batch("all", tokens[:, :-1], tokens[:, 1:]), Batch("few", tokens[:, :-1], few)]
    with torch.no_grad():
        each = -model(tokens[:, :-1]).logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[0, :, 0]
    record = Trainer(model, Recipe(steps=1), lambda step: batches, compiled=False).train_step()
    assert record["loss_all"] == pytest.approx(each.mean().item(), rel=1e-5)
    assert record["loss_few"] == pytest.approx(each[:2].mean().item(), rel=1e-5)
    assert record["loss"] == pytest.approx((each.sum() + each[:2].sum()).item() / 7, rel=1e-5)


def test_two_micro_batches_of_one_source_have_one_loss():
    model, tokens = tiny().eval(), torch.tensor([[5, 0, 7, 0, 0, 9], [3, 1, 4, 1, 5, 9]])
    batches = [Batch("own", row[None, :-1], row[None, 1:]) for row in tokens]
    with torch.no_grad():
        each = -model(tokens[:, :-1]).logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])
    record = Trainer(model, Recipe(steps=1), lambda step: batches, compiled=False).train_step()
    assert record["loss_own"] == record["loss"] == pytest.approx(each.mean().item(), rel=1e-5)


def test_a_checkpoint_comes_at_each_multiple_and_at_the_end(monkeypatch):
    saved, batch = [], Batch("x", torch.tensor([[3, 4]]), torch.tensor([[4, 5]]))
    monkeypatch.setattr(Trainer, "save", lambda trainer: saved.append(trainer.step))
    Trainer(tiny(), Recipe(steps=5), lambda step: [batch], compiled=False).train(save_every=2, bar=False)
    assert saved == [2, 4, 5]


@pytest.mark.parametrize("every, seen", [(0, [3, 5]), (2, [2, 3, 4, 5])])
def test_a_run_is_evaluated_wherever_it_stops(every, seen, capsys):
    batch, found = Batch("x", torch.tensor([[3, 4]]), torch.tensor([[4, 5]])), []
    trainer = Trainer(tiny(), Recipe(steps=5), lambda step: [batch], compiled=False)
    for until in (3, None):
        trainer.train(lambda: {"x": found.append(trainer.step)}, eval_every=every, until=until, bar=False)
        assert "eval" in trainer.records[-1]
    assert found == seen
    assert capsys.readouterr().err == "", "no bar was asked for"


def test_the_bar_of_a_run_that_goes_on_begins_where_it_was(monkeypatch):
    shown, batch = [], Batch("x", torch.tensor([[3, 4]]), torch.tensor([[4, 5]]))
    bar = loop.tqdm
    monkeypatch.setattr(loop, "tqdm", lambda **settings: shown.append(settings) or bar(**settings | {"disable": True}))
    trainer = Trainer(tiny(), Recipe(steps=3), lambda step: [batch], compiled=False)
    for until in (2, None):
        trainer.train(until=until)
    same = dict(desc="train", unit="step", disable=False)
    assert shown == [dict(total=2, initial=0, **same), dict(total=3, initial=2, **same)]


def test_a_checkpoint_that_was_taken_away_is_missed(tmp_path):
    batch = Batch("x", torch.tensor([[3, 4]]), torch.tensor([[4, 5]]))
    trainer = Trainer(tiny(), Recipe(steps=3), lambda step: [batch], run=tmp_path, compiled=False)
    trainer.train(until=1, bar=False)
    shutil.rmtree(checkpoint.latest(tmp_path))
    with pytest.raises(ValueError, match="has been trained on meanwhile: its newest checkpoint is None"):
        trainer.train(bar=False)


def test_a_log_alone_is_a_run_too(tmp_path):
    """One that was killed before its first checkpoint: its log is not emptied unasked."""
    (tmp_path / "log.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="holds a run already; resume it or choose another folder"):
        Trainer(tiny(), Recipe(steps=5), lambda step: [], run=tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("make", [adamw, muon])
def test_what_is_frozen_is_not_the_optimizers(make):
    model = tiny()
    model.embed.weight.requires_grad_(False)
    own = {id(p) for group in make(model, 0.1).param_groups for p in group["params"]}
    assert own == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_step_is_made_in_training_mode():
    model = tiny().eval()
    batch = Batch("x", torch.tensor([[3, 4]]), torch.tensor([[4, 5]]))
    Trainer(model, Recipe(steps=1), lambda step: [batch], compiled=False).train_step()
    assert all(module.training for module in model.modules())


def test_seeds_fill_63_bits():
    seeds = [seed_of("x", i) for i in range(99)]
    assert 2**62 < max(seeds) < 2**63 and min(seeds) >= 0 and len({seed % 2**31 for seed in seeds}) == 99


def test_a_gradient_of_zeros_is_one():
    p = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([dict(params=[p], muon=True, weight_decay=0.5)], 0.1, momentum=0.9)
    p.grad = torch.ones(2, 2)
    optimizer.step()
    before, p.grad = p.detach().clone(), torch.zeros(2, 2)
    optimizer.step()
    assert int(optimizer.state[p]["step"]) == 2 and bool((p < before * 0.95).all()), "decay, and what momentum is left"


def test_a_file_is_replaced_or_stays(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                checkpoint.replace_file(path, b"new")
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path], "and nothing half-written beside it"
    checkpoint.replace_file(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_what_only_looks_like_a_checkpoint_is_left_alone(tmp_path):
    (tmp_path / "checkpoint-00000009").write_text("a file")
    (tmp_path / "checkpoint-old").mkdir()
    assert checkpoint.latest(tmp_path) is None
    for age, number in enumerate((7, 100_000_000, 99_999_999)):       # neither the last by name nor the last made
        (tmp_path / f"checkpoint-{number:08d}").mkdir()
        os.utime(tmp_path / f"checkpoint-{number:08d}", (age, age))
    assert checkpoint.latest(tmp_path).name == "checkpoint-100000000"
    for number in (7, 100_000_000, 99_999_999):
        (tmp_path / f"checkpoint-{number:08d}").rmdir()
    model = tiny()
    optimizer = muon(model, 0.1)
    for step in (1, 2):
        saved = checkpoint.save(tmp_path, step, model, optimizer, None, {})
        assert checkpoint.latest(tmp_path) == saved
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["checkpoint-00000002", "checkpoint-old"]


def test_a_share_of_a_step_is_rounded_to_rows(monkeypatch):
    """1.6 rows are 2, and 0.2 are still one; every task has its turn beside the focus."""
    asked = []
    monkeypatch.setattr(stages, "text_source", lambda tokens, rows, *rest: asked.append(rows))
    monkeypatch.setattr(stages, "packed_source", lambda name, draw, rows, *rest: asked.append(rows))
    letters = CharTokenizer(text.ALPHABET, unknown="unk")
    stages.sources(stages.Stage("x", 10, 128, 1e3, {"text": 0.05, "problems": 0.95}), letters, 0)
    stages.sources(stages.Stage("x", 10, 4096, 1e3, {"problems": 0.8, "text": 0.2}), letters, 0)
    assert asked == [2, 30, 1, 1]


def test_problems_are_drawn_with_the_stages_focus(monkeypatch):
    asked = []
    monkeypatch.setattr(stages, "problem_documents", lambda levels, tokenizer, focus=None: asked.append(focus))
    monkeypatch.setattr(stages, "packed_source", lambda *rest: None)
    letters = CharTokenizer(text.ALPHABET, unknown="unk")
    for focus in (None, "sheet"):
        levels = {"copy": (1, 2), "sheet": (1, 2)}
        stages.sources(stages.Stage("x", 10, 128, 1e3, {"problems": 1.0}, levels=levels, focus=focus), letters, 0)
    assert asked == [None, "sheet"]


def test_every_task_has_its_turn_beside_the_focus(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "generate", lambda model, prompts, *rest, **settings: [[1]] * len(prompts))
    levels = {"copy": (1, 1), "parity": (1, 1), "reverse": (1, 1), "addition": (1, 1)}
    letters = CharTokenizer(text.ALPHABET, unknown="unk")
    found = stages.rollouts(tmp_path / "a", None, letters, levels, 16, 0, each=1, focus="copy")
    counts = Counter(record["task"] for record in found)
    assert counts == {"copy": 10, "parity": 2, "reverse": 2, "addition": 2}
    turned = dict(reversed(levels.items()))     # the order of a table changes nothing
    assert stages.rollouts(tmp_path / "b", None, letters, turned, 16, 0, each=1, focus="copy") == found


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's")
def test_a_second_ctrl_c_raises():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop == [True]
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's")
@pytest.mark.parametrize("notebook", [True, False])
def test_ctrl_c_is_remembered_by_a_notebook_even_if_it_was_taken_note_of(monkeypatch, notebook):
    """Who stops at it may clear it; "Run All" must not go on all the same."""
    monkeypatch.setattr(loop, "in_notebook", lambda: notebook)
    with pytest.raises(KeyboardInterrupt) if notebook else nullcontext(), interrupts() as stop:
        signal.raise_signal(signal.SIGINT)
        stop.clear()
    with interrupts() as stop:      # and who has pressed nothing is not stopped
        assert stop == []


def test_what_a_killed_run_left_is_in_nobodys_way(tmp_path):
    model = tiny()
    (tmp_path / "writing-00000001").mkdir()
    (tmp_path / "writing-00000001" / "model.safetensors").write_text("half")
    (tmp_path / "writing-00000001" / "more").write_text("half")
    saved = checkpoint.save(tmp_path, 1, model, muon(model, 0.1), None, {})
    assert sorted(path.name for path in saved.iterdir()) == ["model.safetensors", "optimizer.safetensors", "run.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001"]


def test_a_run_folder_is_held_and_let_go(tmp_path):
    """By each that holds it, as often as it says so; in one process several may."""
    one, other, path = RunLock(tmp_path), RunLock(tmp_path), tmp_path / "run.lock"
    for turn in range(2):
        one.take()
        one.take()
        other.take()
        one.release()
        assert try_lock(path) is None, "the other one has it still"
        other.release()
        other.release()
        alone = try_lock(path)
        assert alone is not None, f"turn {turn}"
        alone.release()


def test_a_seed_is_a_stages_weights_whatever_was_drawn_before(tmp_path, monkeypatch):
    class Seen:
        def __init__(self, model, *rest):
            seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))

        def train(self, **settings):
            return True

    seen = []
    monkeypatch.setattr(stages, "Trainer", Seen)
    monkeypatch.setattr(stages, "sources", lambda *rest: None)
    for chances, seed in ((5, 0), (6, 0), (6, 1)):
        torch.manual_seed(chances)
        assert stages.train(tmp_path / f"{chances}-{seed}", stages.TOY[:1], seed=seed, bar=False)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("levels", [(0, 3), (1, 26)])
def test_both_ends_of_a_tasks_levels_are_looked_at_beforehand(levels):
    with pytest.raises(ValueError, match="difficulty of copy must be an int in 1 to 25"):
        problem_documents({"copy": levels}, BYTES)


def test_who_watches_is_shown_the_records_after_each_evaluation():
    tokens, seen = torch.arange(12)[None] % 9, []
    trainer = Trainer(tiny(), Recipe(steps=5), lambda step: [Batch("x", tokens[:, :-1], tokens[:, 1:])])
    trainer.train(evaluate=dict, eval_every=2, watch=lambda records: seen.append(len(records)), bar=False)
    assert seen == [2, 4, 5]
    trainer = Trainer(tiny(), Recipe(steps=3), lambda step: [Batch("x", tokens[:, :-1], tokens[:, 1:])])
    trainer.train(evaluate=lambda: seen.append("end") or {}, bar=False)
    assert seen[3:] == ["end"]


# ---- rl --------------------------------------------------------------------------------------------------------------


def test_each_row_has_a_scale_of_its_own():
    weight = torch.tensor([[1000.0, 3.0], [0.001, 0.0007]])
    assert torch.allclose(int8(weight), weight, rtol=0, atol=4) and float((int8(weight) - weight)[1].abs().max()) < 4e-6


def test_figures_at_their_far_ends():
    assert pass_rate(9, 1, 0.1) < 1e-20 and pass_rate(1, 9, 0.1) == 1.0
    assert mixed(torch.tensor([[0.0, -1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 0.5]])).tolist() == [True, False, False, True]


def test_a_batch_that_was_taken_just_now_is_not_evicted(tmp_path, monkeypatch):
    """The trainer is faster: between the look at the folder and the removal the batch goes."""
    answer = Rollout([1], [2, 3], [-0.5, -0.5], [0, 0], torch.tensor([[0], [0], [-1]]), {"task": "copy"})
    shelf, remove = Shelf(tmp_path, capacity=2), Path.unlink

    def too_late(path, *args, **kwargs):
        path.rename(path.with_name(path.name.replace("batch", "taken")))
        remove(path, *args, **kwargs)

    for number in range(2):
        shelf.put(number, [answer], 1, {})
    monkeypatch.setattr(Path, "unlink", too_late)
    assert shelf.put(2, [answer], 1, {}) == [] and shelf.numbers("taken") == [0]
    assert "evicted" not in (tmp_path / "generator.jsonl").read_text()


def test_each_answer_is_weighed_by_its_own_groups_rewards():
    """A group whose answers are all equal is left out, and leaves nothing in the others': the same step without it."""
    def answers(token, rewards):
        return [Rollout([5, token], [6 + i, 7], [-1.0, -2.0], [0, 0], torch.zeros(4, 2, dtype=torch.int16),
                        {"task": "copy", "room": 9}, reward) for i, reward in enumerate(rewards)]

    even, uneven, other = answers(3, [1.0, 1.0]), answers(4, [1.0, 0.0]), answers(8, [0.0, 1.0])
    found = []
    for batch in (even + uneven + other, uneven + other):
        learner = Learner(tiny(), LearnerConfig(lr=0.01), compiled=False)
        assert learner.update(batch, 2)["mixed"] == 2
        found.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    assert torch.equal(*found) and not torch.equal(found[0], torch.cat([p.flatten() for p in tiny().parameters()]))


@pytest.mark.parametrize("advantage", [maxrl_advantage, grpo_advantage, dr_grpo_advantage, mixed])
@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_rewards_are_finite(advantage, wrong):
    with pytest.raises(ValueError, match="rewards must be finite"):
        advantage(torch.tensor([[1.0, abs(wrong)]]))
    with pytest.raises(ValueError, match="bonus must be finite"):
        maxrl_advantage(torch.ones(1, 2), torch.tensor([[0.0, wrong]]))


def test_a_calibrator_asks_on_both_sides():
    one = Calibrator(20, seed=1)
    one.particles = [(10.0, 2.0)] * 256
    assert {one.ask() for _ in range(200)} == {8, 9, 10, 11, 12}


def test_a_scheduler_goes_on_with_what_was_drawn():
    own = Scheduler({"a": 1, "b": 1}, {"a": 3, "b": 3}, drawn={"a": 2, "gone": 9})
    assert own.draw(4) == [("b", 1), ("b", 1), ("a", 1), ("b", 1)] and own.state()["drawn"] == {"a": 3, "b": 3}


def test_particles_drawn_anew_weigh_alike():
    """Their number says now what the weights said."""
    one = Calibrator(20, seed=1)
    for _ in range(9):
        one.tell(8, 1, 2)
    one.weights = [4 * weight if mu > 8 else weight for (mu, _), weight in zip(one.particles, one.weights)]
    one.weights = [weight / sum(one.weights) for weight in one.weights]
    before = one.middle()
    one.resample()
    assert one.weights == [1 / 256] * 256 and abs(one.middle() - before) < 0.5


def test_a_scheduler_has_levels_of_its_own():
    given, highest = {"copy": 1}, {"copy": 3}
    table = Scheduler(given, highest)
    table.update("copy", 1, [1.0])
    assert given == {"copy": 1} and table.levels == {"copy": 2}
    table.state()["levels"]["copy"] = 3
    again = Scheduler(given, highest)
    again.load_state(state := table.state())
    again.update("copy", 2, [1.0])
    assert table.levels == state["levels"] == {"copy": 2} and again.levels == {"copy": 3}


def test_weights_that_no_checkpoint_holds_are_not_published(tmp_path, monkeypatch):
    """A restart would take them back, and answers would come from a model that never was."""
    shelf = Shelf(tmp_path / "shelf")
    side = pipeline.TrainerSide(tiny_job(9), tiny_model(), shelf, tmp_path / "trainer", {})
    side.updates = 2
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.checkpoint, "save", lambda *args: (_ for _ in ()).throw(OSError(28, "disk full")))
        with pytest.raises(OSError, match="disk full"):
            side.save()
    assert shelf.weights() == 0
    side.save()
    assert shelf.weights() == 2


def test_of_two_torn_rows_the_first_is_named():
    for routes, said in (([[0, -1], [0, 1], [-1, 2]], "row 0 is recorded for some layers only"),
                         ([[0, 0], [-1, -1], [0, 1], [-1, -1], [0, 0]], "row 1 is not recorded, but a later one is")):
        with pytest.raises(ValueError, match=said):
            check_routes(torch.tensor(routes), len(routes), 2, 3)


@pytest.mark.parametrize("compiled", [None, False])
def test_a_generator_decodes_as_it_was_told(compiled):
    letters = CharTokenizer(text.ALPHABET)
    model = tiny(vocab_size=letters.vocab_size)
    engine = Generator(model, letters, slots=2, size=9, compiled=compiled).engine
    assert engine.compiled is compiled and (engine.slots, engine.joining, engine.size) == (2, 2, 9)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's")
def test_ctrl_c_in_the_last_update_leaves_nothing_to_do(tmp_path):
    """All updates are made, and who calls goes on: the next stage of a cascade, say."""
    def press(record):
        if record["update"] == 2:
            signal.raise_signal(signal.SIGINT)

    assert pipeline.run(tiny_job(2), tiny_model(), TOKENIZER, tmp_path / "rl", watch=press, bar=False)
    tokens = torch.arange(12)[None] % 9
    trainer = Trainer(tiny(), Recipe(steps=2), lambda step: [Batch("x", tokens[:, :-1], tokens[:, 1:])])
    assert trainer.train(watch=lambda records: press({"update": len(records)}), evaluate=dict, bar=False)


def test_a_row_that_is_too_long_is_a_batch_of_its_own():
    rows = [Rollout([5] * n, [6], [-1.0], [0], torch.zeros(n + 1, 2, dtype=torch.int16), {}) for n in (1, 9, 2, 8)]
    assert micro_batches(rows, 6, price=0) == [[0], [2], [3], [1]]
    assert micro_batches(rows, 6) == [[0, 2], [3], [1]] and micro_batches(rows, 5) == [[0], [2], [3], [1]]


def test_a_small_temperature_is_that_temperature():
    logits = torch.tensor([0.0, -1e-12], dtype=torch.float64)
    for temperature, gap in ((1e-12, 1.0), (1e-11, 0.1), (2.0, 0.0)):
        first, second = token_logprobs(logits.expand(2, 2), torch.tensor([0, 1]), temperature).tolist()
        assert first - second == pytest.approx(gap, abs=1e-9)


@pytest.mark.parametrize("padding", [math.nan, math.inf, -math.inf, 3e38])
def test_padding_of_a_loss_may_hold_anything(padding):
    numbers = torch.tensor([[-1.0, -2.0, -0.5], [-0.3, -1.0, -4.0]])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    found = []
    for held in (0.0, padding):
        now = numbers.masked_fill(~valid, held).requires_grad_()
        then = (numbers - 0.1).masked_fill(~valid, held)
        loss = policy_loss(now, then, torch.tensor([1.0, -1.0]), valid, 7.0)
        loss.backward()
        found += [torch.cat([loss.detach()[None], now.grad[valid]])]
    assert found[0].isfinite().all() and torch.equal(*found)


def test_an_answer_that_is_cut_keeps_what_it_earned():
    whole = Rollout([5], [6, 7, 8], [-1.0, -2.0, -3.0], [0, 0, 1], torch.zeros(4, 2, dtype=torch.int16), {"task": "x"},
                    0.5, torch.ones(3, 9, dtype=torch.bool), ("rare",))
    part = whole.cut(2)
    assert (part.reward, part.flags, part.problem) == (0.5, ("rare",), {"task": "x"})
    assert (part.tokens, part.logprobs, part.versions) == ([6, 7], [-1.0, -2.0], [0, 0])
    assert part.routes.shape == (3, 2) and part.kept.shape == (2, 9) and whole.tokens == [6, 7, 8]


def test_an_engines_copy_answers_and_the_model_goes_on_training():
    model = tiny().train()
    assert not low_precision(model).training and model.training


def test_routes_come_back_as_small_as_they_were_recorded():
    routes = torch.tensor([[0, 3], [-1, -1]], dtype=torch.int16)
    again = unpack_routes(pack_routes(routes, 3), 2, 2, 3)
    assert again.dtype == torch.int16 and torch.equal(again, routes)


def test_bytes_too_many_are_refused():
    with pytest.raises(ValueError, match="12 bytes, got 13"):
        unpack_routes(bytes(13), 4, 3, 3)


# ---- hub -------------------------------------------------------------------------------------------------------------


def test_what_a_file_keeps_of_biases_and_of_large_numbers(tmp_path):
    model = tiny().bfloat16()
    model.layers[0].router.balancing_bias[0] = 1 / 3
    model.norm.weight.data[0] = 1e6
    with pytest.raises(ValueError, match="norm.weight.* holds .* too large for torch.float16"):
        shards.save(model, tmp_path / "a", dtype=torch.float16)      # as wide as bfloat16, and yet narrower
    model = tiny()
    model.layers[0].router.balancing_bias[0] = 1 / 3
    again = shards.load(shards.save(model, tmp_path / "b", dtype=torch.bfloat16))
    assert again.layers[0].router.balancing_bias[0] == torch.tensor(1 / 3)


def test_every_file_of_a_folder_is_on_the_disk_before_it_is_moved(tmp_path, monkeypatch):
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda number: synced.add(Path(os.readlink(f"/proc/self/fd/{number}")).name))
    files = [path.name for path in shards.save(tiny(), tmp_path / "a", shard_bytes=9000).iterdir()]
    assert synced == {name if name.endswith(".safetensors") else f"writing-{name}" for name in files}


def test_what_is_asked_onto_the_disk_is_all_there(tmp_path, monkeypatch):
    """Of each file that is kept, and with nothing still held in this process: the rest could be lost."""
    synced, model = {}, tiny()
    monkeypatch.setattr(os, "fsync", lambda number: synced.update({os.fstat(number).st_ino: os.fstat(number).st_size}))
    shards.save(model, tmp_path / "a", shard_bytes=9000)
    checkpoint.save(tmp_path / "run", 1, model, muon(model, 0.1), None, {})
    RunFile(tmp_path / "answers").append("a", "x")
    files = [path.stat() for path in tmp_path.rglob("*") if path.is_file()]
    assert synced == {file.st_ino: file.st_size for file in files}


def test_a_tensor_lies_where_the_index_says(tmp_path):
    """Two files that are both there, and whose names in the index have been exchanged: one of the two is stale."""
    folder = shards.save(tiny(), tmp_path / "a", shard_bytes=9000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    where = index["weight_map"]
    first, other = next(iter(where)), next(name for name in where if where[name] != next(iter(where.values())))
    where[first], where[other] = where[other], where[first]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"says that '{first}' lies in {where[first]}, but it does not"):
        shards.load(folder)


def test_a_paged_model_answers_where_nothing_can_be_compiled(tmp_path, monkeypatch):
    folder = shards.save(tiny(), tmp_path / "a")
    monkeypatch.setattr(paged_step, "library", lambda: None)
    paged = PagedZaya(folder)
    assert paged.step is None
    answers = [mz.generate(model, [[3, 4]], 3, temperature=0.0, compiled=False) for model in (paged, tiny())]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kept, dtype", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
def test_a_row_of_the_table_comes_in_the_models_type(tmp_path, kept, dtype):
    """A float32 row in a bfloat16 model would go on unrounded, and every later number would be another one."""
    paged, tokens = PagedZaya(shards.save(tiny(), tmp_path / "a", dtype=kept), dtype), torch.arange(3, 9)[None]
    rows = tiny().embed.weight.detach()[tokens].to(kept).to(dtype)
    assert paged.embed(tokens).dtype == dtype and torch.equal(paged.embed(tokens), rows)


def test_a_folder_is_no_config(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        read_config(tmp_path)


def test_golden_values_are_the_last_logits_of_the_last_tokens():
    model, tokens = tiny().eval(), [3, 4, 5, 6]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    for corner in (1, 3):
        kept = golden.record(model, tokens, corner)
        assert kept.logits == logits[-corner:, -corner:].tolist() and kept.argmax == logits.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_paged_model_gives_what_the_loaded_one_gives(tmp_path, dtype):
    """Types too, a token at a time and all at once; and documents are kept apart."""
    folder = shards.save(tiny(initializer_range=0.3), tmp_path / "a")
    paged, loaded = PagedZaya(folder, dtype), shards.load(folder, dtype)
    tokens, docs = torch.tensor([[3, 4, 5, 6, 7, 8]]), torch.tensor([[1, 1, 2, 2, 2, 3]])
    near = dict(rtol=0, atol=1e-4 if dtype == torch.float32 else 0.1)
    with torch.no_grad():
        alone, apart = (model(tokens, doc_ids=docs).logits for model in (paged, loaded))
        torch.testing.assert_close(alone, apart, **near)
        assert (alone - paged(tokens).logits)[0, -1].abs().max() > 2 * near["atol"]
        caches = [model.new_cache(1) for model in (paged, loaded)]
        for part in tokens[0]:
            one, other = (model(part.view(1, 1), cache=cache, last_only=True)
                          for model, cache in zip((paged, loaded), caches))
            for name in ("logits", "routes", "probs"):
                assert getattr(one, name).dtype == getattr(other, name).dtype, name
            torch.testing.assert_close(one.logits, other.logits, **near)


def test_a_shard_says_whose_numbers_it_holds(tmp_path):
    """Some readers refuse a file that does not."""
    file, = shards.save(tiny(), tmp_path / "a").glob("*.safetensors")
    content = file.read_bytes()
    header = json.loads(content[8: 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


def test_a_card_has_the_mean_of_each_column():
    figures = zoo.card("nano-reasoner-rl")
    shown = re.search(r"[|] mean [|] [|] ([0-9.]+) [|] ([0-9.]+) [|]", zoo.card_text("x", figures)).groups()
    means = [100 * sum(figures[key].values()) / len(figures[key]) for key in ("before", "after")]
    assert [float(mean) for mean in shown] == pytest.approx(means, abs=0.06) and abs(means[0] - means[1]) > 1


def test_a_card_has_errors_in_percent_as_accuracies_are():
    figures = zoo.card("nano-reasoner")
    figures["accuracy"] = {"copy": {"4": {"accuracy": 0.5, "stderr": 0.07}}}
    assert "| copy | 4: 50.0 ± 7.0 |" in zoo.card_text("x", figures)


def test_stages_are_told_in_their_order(tmp_path, monkeypatch):
    """Whatever order the disk has them in."""
    record = json.dumps({"tokens": 10, "tok_per_s": 1.0, "loss": 1.0})
    for name in ("2-c", "0-a", "1-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text(record + "\n")
    update = json.dumps({"update": 1, "tokens": 10, "seconds": 1.0})
    for name in ("3-b", "3-a"):
        (tmp_path / name / "rl" / "trainer").mkdir(parents=True)
        (tmp_path / name / "rl" / "trainer" / "log.jsonl").write_text(update + "\n")
    whole = Path.glob
    for order in (sorted, lambda found: sorted(found, reverse=True)):
        monkeypatch.setattr(Path, "glob", lambda path, pattern, order=order: iter(order(whole(path, pattern))))
        assert [stage["stage"] for stage in zoo.stage_facts(tmp_path)] == ["0-a", "1-b", "2-c", "3-a", "3-b"]


@pytest.mark.parametrize("int8", [False, True])
def test_weights_are_opened_as_one_asks(tmp_path, int8):
    model, _ = weights.open_weights(shards.save(tiny(vocab_size=300), tmp_path / "a"), int8=int8)
    assert all(block.experts.int8 is int8 for block in model.layers)


def test_a_weight_may_lie_in_memory_in_any_order(tmp_path):
    model = tiny()
    weight = model.layers[0].router.down_proj.weight
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous()
    again = shards.load(shards.save(model, tmp_path / "a"))
    assert torch.equal(again.layers[0].router.down_proj.weight, weight)


def test_weights_are_a_folder_and_live_in_the_users_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for wrong in ("file", "none"):
        with pytest.raises(ValueError, match="weights must be a checkpoint folder, got .*/" + wrong):
            weights.open_weights(tmp_path / wrong)
    monkeypatch.setenv("MINIZAYA_CACHE", str(tmp_path / "cache"))
    assert weights.home("micro") == tmp_path / "cache" / "micro"


def test_what_is_named_is_named_in_order():
    assert tasks.names() == sorted(tasks.TASKS) and zoo.names() == sorted(zoo.names())
    with pytest.raises(ValueError, match=re.escape(f"name must be one of {sorted(tasks.TASKS)}, got 'chess'")):
        get("chess")


def test_a_name_is_as_long_as_its_bytes(tmp_path):
    name = "é" * 130 + ".safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="may only name files of the same folder"):
        read_index(tmp_path)


def test_minutes_of_a_stage_have_a_tenth(tmp_path):
    (tmp_path / "1-x").mkdir()
    (tmp_path / "1-x" / "log.jsonl").write_text('{"tokens": 810, "tok_per_s": 10.0, "loss": 0.123456}\n')
    assert zoo.stage_facts(tmp_path) == [{"stage": "1-x", "steps": 1, "tokens": 810, "minutes": 1.4, "loss": 0.1235}]


def test_the_smallest_stand_in():
    least = StandIn(BYTES.vocab_size)
    assert least.decode([0, 65]) == "\0A" and StandIn(BYTES.vocab_size + 1).decode([BYTES.vocab_size]) == "[264]"


def test_what_is_mapped_is_counted_and_a_tensor_of_no_bytes_is_one(tmp_path):
    model = tiny()
    shards.save(model, tmp_path / "weights")
    mapped = Mapped(tmp_path / "weights")
    assert mapped.bytes == 4 * sum(t.numel() for name, t in model.state_dict().items() if name != "head.weight")
    entry = next(iter(mapped.entries.values()))
    nothing = Entry(entry.file, torch.float32, (0, 3), 8, 8)
    assert view_of(mapped.maps[entry.file], nothing).shape == (0, 3)


# ---- serve and plan --------------------------------------------------------------------------------------------------


def read(size=400, **given):
    return read_request({"messages": [{"role": "user", "content": "hi"}]} | given, ChatFormat(BYTES), size)


def test_parts_of_a_message_are_one_text_and_thoughts_one_thought():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read_messages({"messages": [{"role": "user", "content": parts}]}) == [{"role": "user", "content": "ab"}]
    thought = {"role": "assistant", "content": "c", "reasoning_content": "a", "reasoning": "a"}
    assert read_messages({"messages": [thought]})[0]["reasoning_content"] == "a"
    with pytest.raises(Wrong, match="two names of one thing"):
        read_messages({"messages": [thought | {"reasoning": "b"}]})


def test_each_tool_has_a_name_of_its_own():
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g", "g")]
    for choice, told in (("auto", tools[:2]), ("none", [])):
        assert read_tools({"tools": tools[:2], "tool_choice": choice}) == told
    for twice in (tools, tools[1:]):
        with pytest.raises(Wrong, match="there is a function 'g' already"):
            read_tools({"tools": twice})
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert read_messages({"messages": [{"role": "assistant", "tool_calls": [call]}]})[0]["tool_calls"][0] == call | {
        "function": {"name": "f", "arguments": {}}}


def test_what_a_request_may_ask_for():
    assert len({read().seed for _ in range(5)}) == 5 and read(seed=3).seed == 3
    taken = len(read().prompt)
    for left, given, room in ((1, {}, 1), (9, {"max_completion_tokens": 4}, 4), (2, {"max_tokens": 9}, 2)):
        assert read(taken + left, **given).room == room
    with pytest.raises(Wrong, match=f"the longest text is {taken}"):
        read(taken)
    assert read(stop=["a", "b", "c", "d"]).stop == ("a", "b", "c", "d") and not read(stream=True).usage
    assert not read(stream=True, stream_options={"include_obfuscation": True}).usage
    rsa = {"N": 2, "C": 2, "T": 1, "beta": 20, "tau": 10}
    least = next(size for size in range(taken, 1200) if fits(size, rsa))
    form = read(least, rsa=rsa)
    assert len(form.aggregate(form.prompt, [[65] * 10] * 2)) + 20 == least, "the last token is used, too"


def fits(size, rsa):
    try:
        return bool(read(size, rsa=rsa))
    except Wrong:
        return False


@pytest.mark.parametrize("trace, finish", [([65, 66], "length"), ([65, None], "stop"), ([], "length")])
def test_a_trace_of_rsa_has_ended_where_its_last_token_says_so(trace, finish):
    form, asked = ChatFormat(BYTES), read(900, rsa={"N": 1, "C": 1, "T": 0, "beta": 20, "tau": 10})
    written = [form.stop[0] if token is None else token for token in trace]
    assert answer_by_rsa(asked, form, lambda prompts, most: [written])[1:] == (finish, len(trace))


def test_the_answer_of_most_traces_is_the_reply():
    form, asked = ChatFormat(BYTES), read(900, rsa={"N": 3, "C": 1, "T": 0, "beta": 20, "tau": 10})
    traces = [[*BYTES.encode(f"{said}</think>{said}", allow_special=True), form.stop[0]] for said in "abb"]
    reply, finish, count = answer_by_rsa(asked, form, lambda prompts, most: traces)
    assert (reply.content, finish, count) == ("b", "stop", 12)


def test_what_may_become_a_stop_is_held_back():
    for end, held in (("ab", 2), ("xa", 1), ("abx", 0), ("b", 0), ("xab", 2), ("x\ufffd", 1)):
        assert held_back(end, ("abc", "q")) == held, end


def test_what_an_answer_says():
    call = ToolCall("f", {})
    assert usage_of(3, 4) == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert (reason("length", True), reason("stop", True), reason("stop", False)) == ("length", "tool_calls", "stop")
    assert message_of(Reply("", ""))["content"] == "" and message_of(Reply("", "", [call]))["content"] is None
    assert [one["index"] for one in message_of(Reply("", "x", [call, call]))["tool_calls"]] == [0, 1]
    told = chunks("m")(usage=usage_of(0, 0))
    assert told["choices"] == [] and told["usage"]["total_tokens"] == 0 and "usage" not in chunks("m")(0, {})


def test_what_is_run_again_keeps_one_layers_neighbours():
    config, layout = mz.ZayaConfig.preset("nano"), Layout(cp=2)
    for again, layers in ((True, 1), (False, 4)):
        held = training_memory(config, 1, 64, recompute=again, layout=layout)
        beside = context_activations(config, 1, 64, 2, "bfloat16")
        assert held["activations"] == activations(config, 1, 32, "bfloat16", again) + layers * beside
        assert held["optimizer"] == optimizer_state(config, layout=layout) + 4 * held["weights"] // 2
        wide = training_memory(config, 1, 64, "float32", layout=layout)["optimizer"]
        assert wide == optimizer_state(config, layout=layout), "float32 weights are their own"
        total, overhead = held.pop("sum"), held.pop("overhead")
        assert overhead == round(0.1 * sum(held.values())) and total == overhead + sum(held.values())


def test_four_of_a_nodes_eight_have_three_links():
    said = {(one["rule"], one["what"]): one for one in findings(mz.ZayaConfig(), Layout(dp=4, ep=8))}
    four, eight = (said["whole nodes of 8", name] for name in ("dp", "ep"))
    assert eight["ok"] and not four["ok"] and "at best 3 of a GPU's 7 links" in four["said"]
    assert [one["ok"] for one in findings(mz.ZayaConfig(head_dim=96)) if one["what"] == "head_dim"] == [False]
