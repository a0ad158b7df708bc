"""The laws hold for the library, and reject what is wrong: stubs, constants, NaN, copies of a call, wrong axes."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from minizaya import laws
from minizaya.arch import cca, experts, residual
from wrong_functions import not_a_number, spoiled
from wrong_functions.cca import heads_mixed, shift
from wrong_functions.experts import by_expert
from wrong_functions.trim import keeps_what_has_no_thought

ALL = laws.all()
NAMES = [law.name for law in ALL]
SUBJECTS = [(law.name, label) for law in ALL for label in law.subjects]


@pytest.mark.parametrize("name, label", SUBJECTS, ids=[f"{name}-{label}" for name, label in SUBJECTS])
def test_the_library_obeys(name, label):
    verdict = laws.judge(name, label=label, shrink=False)
    assert verdict.passed, verdict.message


def test_every_law_is_documented():
    assert len(NAMES) == len(set(NAMES)) >= 25
    components = {name.split(".")[0] for name in NAMES}
    assert {"cca", "router", "balance", "residual", "experts", "model", "decoding"} <= components
    for law in ALL:
        assert law.statement and law.signature and "fn(" in law.signature, law.name
        assert law.subjects and law.guards, law.name


# ---- wrong in the same way for every law -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_is_rejected(name):
    fn = next(iter(laws.get(name).subjects.values()))
    verdict = laws.judge(name, spoiled(fn, torch.zeros_like), shrink=False)
    assert not verdict.passed and verdict.attempted
    assert verdict.message.startswith("with "), verdict.message


@pytest.mark.parametrize("name", NAMES)
def test_nan_or_a_wrong_number_is_rejected(name):
    """Floats become NaN, whole numbers and flags (routes, masks, tokens) are all one too high, or inverted."""
    fn = next(iter(laws.get(name).subjects.values()))
    verdict = laws.judge(name, spoiled(fn, not_a_number), shrink=False)
    assert not verdict.passed and verdict.attempted


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_called_from_inside_is_rejected(name):
    fn = next(iter(laws.get(name).subjects.values()))
    verdict = laws.judge(name, lambda *args, **kwargs: fn(*args, **kwargs), guard=True, shrink=False)
    assert not verdict.passed and verdict.attempted
    assert "called from inside" in verdict.message
    assert laws.judge(name, fn, shrink=False, examples=2).passed, "the guard must go away afterwards"


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_is_not_attempted(name, capsys):
    def stub(*args, **kwargs):
        raise NotImplementedError

    for unsolved in (stub, lambda *args, **kwargs: ...):
        assert not laws.check(name, unsolved)
        assert capsys.readouterr().out == f"○ {name}: not attempted yet\n"


# ---- what a student reads --------------------------------------------------------------------------------------------


def test_a_right_answer_passes_under_the_guard(capsys):
    def value_shift(now, then):
        return torch.cat([now, F.pad(then, (0, 0, 1, 0))[:, :-1]], -1)

    def choose(probs, bias):
        routes = (probs.float() + bias).argmax(-1)
        return routes, probs.gather(-1, routes[..., None])[..., 0]

    assert laws.check("cca.value_shift", value_shift)
    assert laws.check("router.unbiased_gate", choose)
    assert laws.check("experts.dispatch", by_expert(lambda y, g: y * g[:, None]))
    assert capsys.readouterr().out.count("✔") == 3


def test_the_smallest_counterexample_in_words(capsys):
    assert not laws.check("cca.value_shift", shift(lambda x: x))
    out = capsys.readouterr().out
    assert out.startswith("✘ cca.value_shift: ")
    assert "now = [[[1.0]]], then = [[[1.0]]] (b=1, t=1, c=1)" in out
    assert "at token 0, channel 1 (counting from 0) you gave 1.0, the law wants 0.0" in out


def test_faults_are_told_apart(capsys):
    def told(fn, name="cca.value_shift"):
        assert not laws.check(name, fn)
        return capsys.readouterr().out

    assert "it raised TypeError" in told(lambda now: now)
    assert "it raised ZeroDivisionError" in told(lambda now, then: 1 / 0)
    assert "you gave a tuple" in told(lambda now, then: (now, then))
    assert "you gave shape (1, 1, 1)" in told(lambda now, then: now)
    assert "you gave type torch.float32" in told(lambda now, then: torch.cat([now, 0 * then], -1).float())
    assert "in place" in told(lambda now, then: torch.cat([now, then.mul_(0)], -1))
    calls = itertools.count()
    assert "different answers each time" in told(lambda now, then: torch.cat(
        [now, F.pad(then, (0, 0, 1, 0))[:, :-1] + (next(calls) % 50 == 30)], -1))
    assert "give the function itself" in told(3) and "give the function itself" in told(None)
    assert "it returned None: is a `return` missing?" in told(lambda now, then: None)
    assert "2 results" in told(lambda probs, bias: probs, "router.biased_choice")

    def written_into(states, scales):
        memory = states.clone()
        for layer in range(1, len(states)):
            memory[layer] = states[layer] + scales[layer] * memory[layer - 1]
        return memory
    assert "make a new one for each step, and stack them" in told(written_into, "router.depth_memory")


def test_a_swallowed_guard_still_counts(capsys):
    def sly(now, then):
        try:
            return cca.value_shift(now, then)
        except Exception:
            return torch.cat([now, F.pad(then, (0, 0, 1, 0))[:, :-1]], -1)

    assert not laws.check("cca.value_shift", sly)
    assert "called from inside" in capsys.readouterr().out
    assert not laws.check("cca.value_shift", cca.value_shift)
    assert not laws.check("residual.merge", lambda *args: residual.merge(*args))
    assert not laws.check("experts.dispatch", lambda *args: experts.experts_loop(*args))


def test_strict_raises(monkeypatch):
    monkeypatch.setenv("MINIZAYA_STRICT", "1")
    with pytest.raises(laws.Rejected, match="counting from 0"):
        laws.check("cca.value_shift", shift(lambda x: x))
    with pytest.raises(laws.Rejected, match="not attempted yet"):
        laws.check("cca.value_shift", ...)
    assert laws.check("cca.value_shift", shift(lambda x: F.pad(x, (0, 0, 1, 0))[:, :-1]))


def test_an_unknown_law_names_its_neighbours():
    with pytest.raises(ValueError, match="cca.value_shift"):
        laws.check("cca.valueshift", lambda: 0)


def test_verdicts_repeat():
    first = [laws.judge("cca.attention", heads_mixed, shrink=True).message for _ in range(2)]
    assert first[0] == first[1] != ""


def test_right_answers_of_another_make_pass():
    """What a student may well write: a guard that is added, a bytearray, a Python float."""
    def newton_schulz(g):
        x = g / (g.norm() + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return x

    def tape(what, shape, experts):
        if isinstance(what, torch.Tensor):
            return bytearray(255 if route < 0 else route for route in what.flatten().tolist())
        return torch.tensor([-1 if byte == 255 else byte for byte in what], dtype=torch.int16).view(shape)

    def k3(logp, logp_rollout):
        gap = logp - logp_rollout
        return float((gap.exp() - 1 - gap).mean())

    for name, fn in (("optim.polynomial", newton_schulz), ("optim.scale_free", newton_schulz),
                     ("optim.batched", lambda stack: newton_schulz(stack) if stack.dim() == 2 else
                      torch.stack([newton_schulz(g) for g in stack])),
                     ("optim.rms", lambda g: 0.2 * max(g.shape) ** 0.5 * newton_schulz(g)),
                     ("rl.routes_as_bytes", tape), ("rl.k3", k3)):
        verdict = laws.judge(name, fn)
        assert verdict.passed, (name, verdict.message)


def test_awkward_cases_are_tried_after_the_drawn_ones():
    """At whatever number of examples: a conversation without a thought that is too long is never left to luck."""
    verdict = laws.judge("trim.dropped", keeps_what_has_no_thought, examples=1)
    assert not verdict.passed and "you kept it" in verdict.message
