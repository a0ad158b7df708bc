"""What `judge` can be asked for, what a verdict holds, and which laws apply to a function."""

import json

import hypothesis.core
import pytest
import torch
from hypothesis import settings
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import caught
import minizaya as mz
from minizaya import laws
from minizaya.arch.model import Zaya
from minizaya.arch.router import choose
from minizaya.laws import core, judging, pack
from minizaya.laws.protocols import protocols
from minizaya.laws.words import data, number


def unshifted(now, then):
    return torch.cat([now, then], -1)


def biased_gate(probs, bias):
    scores = probs + bias
    return scores.max(-1).indices, scores.max(-1).values


# ---- verdicts --------------------------------------------------------------------------------------------------------


def test_a_verdict_is_true_exactly_when_it_passed():
    broken, stub = laws.judge("cca.value_shift", unshifted), laws.judge("cca.value_shift", lambda now, then: ...)
    right = laws.judge("cca.value_shift")
    assert right and not broken and not stub
    assert (right.law, right.message, right.case, right.tried) == ("cca.value_shift", "", None, 40)
    assert not stub.attempted and stub.case is None and str(stub) == "○ cca.value_shift: not attempted yet"
    assert str(broken).startswith("✘ cca.value_shift: half of") and broken.message in str(broken)


def test_the_counterexample_is_data():
    verdict = laws.judge("cca.value_shift", unshifted)
    assert list(verdict.case) == ["now", "then"]
    assert torch.equal(verdict.case["then"], torch.ones(1, 1, 1, dtype=torch.float64))
    assert unshifted(**verdict.case)[0, 0, 1] == 1.0      # where the law wants zero
    assert json.loads(json.dumps(data(verdict.case)))["now"] == {
        "dtype": "float64", "shape": [1, 1, 1], "values": [[[1.0]]]}
    asked = laws.judge("router.bias_no_gradient", biased_gate).case
    assert not asked["probs"].requires_grad


def test_a_case_holds_what_was_handed_over():
    """Not what a function made of it in place."""
    def spoils(now, then):
        return torch.cat([now, then.mul_(0)], -1)

    verdict = laws.judge("cca.value_shift", spoils)
    assert "in place" in verdict.message and verdict.case["then"].item() == 1.0


def test_what_lies_in_a_list_is_watched_too():
    def spoils(documents, bins, capacity, loss_masks):
        documents[0].fill_(10)
        return pack.four(documents, bins, capacity, loss_masks)

    def turns(documents, bins, capacity, loss_masks):
        bins[0].reverse()
        return pack.four(documents, bins, capacity, loss_masks)

    spoilt, turned = laws.judge("pack.rows", spoils), laws.judge("pack.rows", turns)
    assert "make a new tensor" in spoilt.message and "make a new list" in turned.message
    assert 10 not in torch.cat(spoilt.case["documents"])


def test_numbers_as_a_student_would_write_them():
    assert [number(x) for x in (2.0, -0.0, 1 / 3, 1e31, -1e31, 3, float("-inf"), float("nan"))] == [
        "2.0", "0.0", "0.3333333", "1e+31", "-1e+31", "3", "-inf", "nan"]


def test_data_says_in_words_what_json_cannot():
    case = laws.judge("cca.convolve", lambda z, depthwise, grouped: z).case
    assert data(case)["depthwise"].startswith("Conv1d(") and data([float("nan"), float("-inf")]) == ["nan", "-inf"]
    assert data(laws.judge("model.probs", lambda config: 3).case)["config"]["vocab_size"] == 11


def test_check_returns_the_verdict_and_shows_it_once(capsys):
    verdict = laws.check("cca.value_shift", unshifted)
    assert not verdict and verdict.case and verdict.told
    assert capsys.readouterr().out == f"{verdict}\n"
    verdict._ipython_display_()
    assert capsys.readouterr().out == ""
    laws.judge("cca.value_shift", unshifted)._ipython_display_()
    assert "✘" in capsys.readouterr().out


# ---- what can be asked for -------------------------------------------------------------------------------------------


def test_numbers_that_print_alike_say_how_far_apart_they_are():
    def near(now, then):
        return mz.laws.get("cca.value_shift").subjects["value_shift"](now, then) + 1e-8

    message = laws.judge("cca.value_shift", near).message
    assert "the law wants 1.0: they differ by 1e-08, allowed is 2e-09" in message
    with pytest.raises(core.Broken, match="they differ by 1e-12, allowed is nothing"):
        one = torch.ones(1, dtype=torch.float64)
        core.expect(one + 1e-12, one, "c", exact=True)


def test_tol_is_in_force_for_one_judging():
    def near(now, then):
        return mz.laws.get("cca.value_shift").subjects["value_shift"](now, then) * (1 + 1e-6)

    assert not laws.judge("cca.value_shift", near)
    assert laws.judge("cca.value_shift", near, tol=1e-5) and not laws.judge("cca.value_shift", near, tol=1e-7)
    assert not laws.judge("cca.value_shift", near)
    assert not laws.judge("router.biased_choice", lambda p, b: (choose(p, b)[0] + 1, p), tol=1e3)   # whole numbers stay


def drawn(**options):
    """What a law draws, as one number."""
    seen = []
    laws.judge("cca.qk_mean", lambda q, k: seen.append(q.sum().item()) or (q, k), shrink=False, **options)
    return sum(seen)


def test_what_is_drawn_hangs_on_no_source_text(monkeypatch):
    """Hypothesis would seed by the text of the function that it runs: a comment in it, and other cases are tried."""
    usual = drawn()
    monkeypatch.setattr(hypothesis.core, "function_digest", lambda function: b"another text")
    assert drawn() == usual
    monkeypatch.setattr(judging, "USUAL", 1)
    assert drawn() != usual


def test_seeds_draw_other_inputs_and_repeat():
    usual, one, two = drawn(), drawn(seed=1), drawn(seed=2)
    assert usual == drawn() and one == drawn(seed=1) and len({usual, one, two}) == 3
    assert laws.judge("pack.fits", seed=7).seed == 7 and laws.judge("pack.fits").seed is None


def test_examples_are_the_laws_own_or_asked_for_or_the_profiles(monkeypatch):
    assert laws.judge("pack.fits").tried == 150 and laws.judge("pack.fits", examples=3).tried == 3
    was = settings.get_current_profile_name()
    settings.register_profile("few", max_examples=5, derandomize=True)
    settings.register_profile("anew", max_examples=5, derandomize=False)
    try:
        settings.load_profile("few")
        repeated = laws.judge("pack.fits", examples="profile")
        settings.load_profile("anew")
        anew = laws.judge("pack.fits", examples="profile")
    finally:
        settings.load_profile(was)
    assert repeated.tried == anew.tried == 5
    assert repeated.seed is None and isinstance(anew.seed, int)


def test_another_type_is_handed_over_and_sets_the_tolerance():
    def seen(now, then):
        assert now.dtype == then.dtype == torch.bfloat16
        return mz.laws.get("cca.value_shift").subjects["value_shift"](now, then) * (1 + off)

    off = 2 ** -7                # one step of bfloat16
    assert laws.judge("cca.value_shift", seen, dtype=torch.bfloat16)
    assert not laws.judge("cca.value_shift", seen, dtype=torch.bfloat16, tol=1e-3)
    off = 2 ** -3
    assert not laws.judge("cca.value_shift", seen, dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_library_keeps_the_stated_tolerances(dtype):
    """Parts with sums in them, where rounding shows."""
    for name in ("cca.qk_mean", "cca.convolve", "residual.merge", "experts.dispatch", "router.unbiased_gate"):
        verdict = laws.judge(name, dtype=dtype, shrink=False, examples=20)
        assert verdict, str(verdict)


def test_where_moves_tensors_and_modules():
    devices = set()

    def seen(z, depthwise, grouped):
        devices.update({z.device.type, depthwise.weight.device.type, depthwise.bias.device.type})
        return z

    laws.judge("cca.convolve", seen, where="meta", shrink=False)
    assert devices == {"meta"}
    assert laws.judge("cca.convolve_documents", where="cpu")       # gradients reach the law's own module


class OnCard(torch.Tensor):
    """A tensor on a device that is none: the numbers lie on the CPU, but it keeps no company with those of the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        everyone = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(not isinstance(x, OnCard) and x.dim() for x in everyone):
            raise RuntimeError("Expected all tensors to be on the same device, but found at least two, card and cpu")
        return super().__torch_function__(func, types, args, kwargs or {})


class Card(TorchFunctionMode):
    """While this is open, `to(device="card")` is a way to it, `to(device="cpu")` the way back."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is not torch.Tensor.to or kwargs.get("device") not in ("card", "cpu"):
            return func(*args, **kwargs)
        there = kwargs.pop("device") == "card"
        x = args[0].as_subclass(torch.Tensor).to(**kwargs)
        return x.as_subclass(OnCard) if there else x


def test_on_a_device_of_another_kind(monkeypatch):
    """As on CUDA, without it: all tensors, weights and gradients go there, and results come back. The
    numbers of a real one, and calls that are not over when they return, only the test below it can try."""
    monkeypatch.setattr(judging, "here", lambda where: where)
    made = torch.ones(1)

    def normed(x, weight, eps):
        assert type(x) is OnCard and type(weight) is OnCard
        return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight

    with Card():
        assert laws.judge("residual.rms_norm", normed, where="card", examples=10)
        verdict = laws.judge("residual.rms_norm", lambda *case: normed(*case) * made, where="card", shrink=False)
        assert not verdict and "on the same device" in verdict.message
        verdict = laws.judge("residual.rms_norm", lambda *case: 2 * normed(*case), where="card", shrink=False)
        assert not verdict and type(verdict.got) is torch.Tensor and "the law wants" in verdict.message


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    for name in ("cca.qk_norm", "cca.attention", "experts.gradients", "router.unbiased_gate", "cca.convolve_documents"):
        assert laws.judge(name, where="cuda", shrink=False)


class Foreign(torch.nn.Module):
    """A model that is not ours: other names, other numbers. It counts what it has seen, or forgets its cache."""

    def __init__(self, config, forgets=False, constant=False):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(config.vocab_size, config.vocab_size))
        self.forgets, self.constant, self.layers = forgets, constant, config.num_hidden_layers

    def new_cache(self, batch):
        return {"sum": torch.zeros(batch, self.table.shape[1])}

    def forward(self, tokens, cache=None, routes=None, last_only=False, mask=None):
        rows = self.table[tokens].cumsum(1) * (0 if self.constant else 1)
        if cache is not None:
            rows = rows + cache["sum"][:, None]
            cache["sum"] = 0 * rows[:, -1] if self.forgets else rows[:, -1]
        routes = torch.zeros(*tokens.shape, self.layers, dtype=torch.int64) if routes is None else routes
        return mz.ZayaOutput(logits=rows[:, -1:] if last_only else rows, routes=routes, probs=None)


def test_against_itself_is_for_models_of_another_make():
    for name in ("decoding.chunks", "decoding.replay_chunks", "decoding.long", "decoding.last_only"):
        assert laws.judge(name, Foreign, against="itself"), name
        assert laws.judge(name, Zaya, against="itself"), name
        assert not laws.judge(name, Foreign, shrink=False), name
        verdict = laws.judge(name, lambda config: Foreign(config, constant=True), against="itself", shrink=False)
        assert "all tokens get the same logits" in verdict.message
    for name in ("decoding.chunks", "decoding.long"):
        verdict = laws.judge(name, lambda config: Foreign(config, forgets=True), against="itself", shrink=False)
        assert not verdict and "logits in chunks" in verdict.message or "token by token" in verdict.message


@pytest.mark.parametrize("name, options, words", [
    ("pack.fits", dict(against="itself"), "cannot be judged against itself; these can: .*decoding.chunks"),
    ("pack.fits", dict(against="me"), "against must be 'definition' or 'itself', got 'me'"),
    ("pack.fits", dict(examples=0), "examples must be a whole number from 1 on, or 'profile', got 0"),
    ("pack.fits", dict(tol=-1.0), "tol must be a number from 0 on, got -1.0"),
    ("pack.fits", dict(tol="1"), "tol must be a number from 0 on, got '1'"),
    ("cca.qk_mean", dict(dtype=torch.int64), "dtype must be one of torch.float64, .*, got torch.int64"),
    ("cca.qk_mean", dict(where="moon"), "where must be a device of this machine, got 'moon': "),
    ("cca.qk_mean", dict(where="cuda:99"), "where must be a device of this machine, got 'cuda:99': "),
    ("pack.fits", dict(label="best"), "label must be one of pack, pack_naive, got 'best'"),
    ("pack.fits", dict(where="cpu"), "pack.fits: it hands over no tensors"),
    ("pack.fits", dict(dtype=torch.float32), "pack.fits: it hands over no floating tensors"),
    ("model.causal", dict(dtype=torch.bfloat16), "model.causal: it hands over a ZayaConfig"),
    ("residual.rms_half", dict(dtype=torch.float16), "residual.rms_half: it is about types itself"),
], ids=str)
def test_what_a_law_cannot_do_is_one_clear_error(name, options, words):
    with pytest.raises(ValueError, match=words):
        laws.judge(name, **options)


def test_what_is_no_function_is_the_callers_fault():
    with pytest.raises(ValueError, match="fn must be a function, got 3"):
        laws.judge("pack.fits", 3)


# ---- which laws ------------------------------------------------------------------------------------------------------


def test_all_of_one_component():
    assert [law.name for law in laws.all("router")] == [law.name for law in laws.all() if law.name[:7] == "router."]
    with pytest.raises(ValueError, match="component must be one of cca, router, .*, got 'routers'"):
        laws.all("routers")


def test_every_law_is_in_one_protocol_whose_stub_is_python():
    named = [law.name for p in protocols().values() for law in p.laws]
    assert sorted(named) == sorted(law.name for law in laws.all())
    for name, protocol in protocols().items():
        space = {}
        exec(protocol.stub, space)
        with pytest.raises(NotImplementedError):
            space[name](*protocol.arguments)
        assert protocol.signature.startswith("fn(") and name in str(protocol)


def test_a_stub_is_not_attempted_by_every_law_of_its_protocol():
    for name in ("choose", "attention", "pack", "model"):
        space = {}
        exec(laws.protocol(name).stub, space)
        for law in laws.protocol(name).laws:
            assert not laws.judge(law.name, space[name]).attempted


def names(spec, fn):
    return [law.name for law in laws.applying(spec, fn)]


def test_arguments_tell_which_laws_of_a_component_apply():
    chooses = [law.name for law in laws.protocol("choose").laws]
    assert len(chooses) == 5 and names("choose", None) == chooses
    assert names("router", lambda probs, bias: 0) == names("router", lambda p, b: 0) == chooses
    assert names("router", lambda probs, bias, pinned=None: 0) == [*chooses, "router.replay", "router.replay_gradient"]
    assert names("cca", lambda q, k, v, mask=None: 0) == [law.name for law in laws.protocol("attention").laws]
    assert names("router.replay", len) == ["router.replay"]
    for spec, fn, words in (("router", lambda a, b, c: 0, r"several kinds .* choose\(probs, bias\)"),
                            ("router", lambda: 0, "several kinds"), ("route", len, "no law, component or protocol")):
        with pytest.raises(ValueError, match=words):
            laws.applying(spec, fn)
    with pytest.raises(ValueError, match="no protocol is called 'choice'; there are value_shift, "):
        laws.protocol("choice")
    with pytest.raises(ValueError, match="no protocol is called 'router'; that component has choose, choose_replayed,"):
        laws.protocol("router")


def test_what_a_law_says_it_was_tested_to_catch_is_true():
    """Every claim stands in the tests' own tables; `python tests/helpers/caught.py` writes them down anew."""
    claims, now = laws.caught(), caught.claims()
    assert set(claims) == {law.name for law in laws.all()}
    for name, claim in claims.items():
        assert 0 < claim["wrong_functions"] <= now[name]["wrong_functions"], name
        assert all(bug in now[name]["bugs"] for bug in claim["bugs"]), name
    assert sum(len(claim["bugs"]) for claim in claims.values()) > 200
