"""Reinforcement learning's parts: errors, the curriculum, canaries, rewards, one update of the learner."""

import copy
import inspect
import math
import random
import textwrap
import zlib

import pytest
import torch

import minizaya as mz
from minizaya.data import tasks
from minizaya.infer.sample import tempered
from minizaya.native.fused import library
from minizaya.native.fused import model as fused
from minizaya.rl import (
    canary,
    cascade,
    dppo_mask,
    grpo_advantage,
    length_bonus,
    maxrl_advantage,
    mixed,
    policy_loss,
    rare_share,
    repeats,
    token_logprobs,
)
from minizaya.rl import learner as learning
from minizaya.rl.canary import calibrated
from minizaya.rl.curriculum import Calibrator, Scheduler, pass_rate
from minizaya.rl.generator import room
from minizaya.rl.learner import Learner, LearnerConfig, micro_batches
from minizaya.rl.reward import behaviour_reward, signed_kl_reward, style_score
from minizaya.rl.rollout import Rollout
from minizaya.train.optim import is_matrix
from rl_tools import CONFIG, PROMPTS, answered

needs_loops = pytest.mark.skipif(library.library() is None, reason="no C++ compiler")

# ---- advantages and loss ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call, says", [
    (lambda: maxrl_advantage(torch.tensor([1.0])), "float tensor .groups, G."),
    (lambda: maxrl_advantage(torch.tensor([[1, 0]])), "float tensor"),
    (lambda: maxrl_advantage([[1.0]]), "float tensor"),
    (lambda: maxrl_advantage(torch.tensor([[-1.0, 1.0]])), "must not be negative"),
    (lambda: maxrl_advantage(torch.tensor([[math.nan, 1.0]])), "finite"),
    (lambda: maxrl_advantage(torch.ones(1, 2), torch.ones(1, 3)), "shape of rewards"),
    (lambda: grpo_advantage(torch.ones(2, 1)), "at least 2"),
    (lambda: mixed(torch.ones(2)), "groups, G"),
    (lambda: dppo_mask(torch.zeros(2), torch.zeros(2), torch.zeros(2), delta=2), "delta must lie"),
    (lambda: dppo_mask(torch.zeros(2), torch.zeros(3), torch.zeros(2)), "one shape"),
    (lambda: policy_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1), torch.ones(1, 1).bool(), 0),
     "length must be"),
    (lambda: length_bonus(torch.tensor([[0.5]]), torch.tensor([[1]]), 3.0), "must be 0 or 1"),
    (lambda: length_bonus(torch.ones(1, 2), torch.ones(1, 3), 3.0), "lengths must have"),
    (lambda: canary([1], chunk=0), "chunk must be"),
    (lambda: canary([-1]), r"tokens must hold ids in 0..4294967295 .*, got -1"),
    (lambda: calibrated([]), "at least one token"),
    (lambda: rare_share([1], 10, top=0), "top must be a finite number in .0, 1., got 0"),
    (lambda: rare_share([1], 10, top=1.1), "top must be a finite number in .0, 1., got 1.1"),
    (lambda: canary([2**32]), "tokens must hold ids in 0..4294967295 .*, got 4294967296"),
    (lambda: canary([1], chunk=1.0), "chunk must be"),
    (lambda: dppo_mask(torch.zeros(2), torch.zeros(2), torch.zeros(2), delta=-0.1), "delta must lie"),
    (lambda: Calibrator(3).tell(1, -1, 2), "right must lie"),
    (lambda: Scheduler({"a": 0}, {"a": 3}), "a must lie in 1..3, got 0"),
    (lambda: Scheduler({}, {"a": 3}), r"levels must hold some of the tasks \['a'\], got \[\]"),
    (lambda: Scheduler({"a": 1, "b": 1}, {"a": 3}), r"levels must hold some of the tasks \['a'\], got \['a', 'b'\]"),
    (lambda: canary([1.7]), "tokens must be a list of token ids"),
    (lambda: canary([1], chunk=True), "chunk must be an integer of at least 1, got True"),
    (lambda: cascade.Stage("x", 2, tasks=()), "tasks must hold at least one task"),
    (lambda: cascade.Stage("x", 2, tasks=("copy", "copy")), "none twice, got"),
    (lambda: Scheduler({"a": 1.0}, {"a": 3}), "a must lie in 1..3, got 1.0"),
    (lambda: Calibrator(0), "highest must be an integer of at least 1, got 0"),
    (lambda: Calibrator(3, particles=0), "particles must be"),
    (lambda: Calibrator(3, target=0.25), "must lie in 0 < rate < 1, got 0.25"),
    (lambda: Calibrator(3, target=0.8), "must lie in 0 < rate < 1, got 0.8"),
    (lambda: Calibrator(3, spread=-0.1), "must lie in 0 < rate < 1"),
    (lambda: Calibrator(3, target=1.0, spread=0.0), "must lie in 0 < rate < 1"),
    (lambda: Calibrator(3).tell(1, 3, 2), "right must lie"),
    (lambda: Scheduler({"a": 4}, {"a": 3}), "a must lie in 1..3"),
    (lambda: LearnerConfig(advantage="ppo"), "advantage must be"),
    (lambda: LearnerConfig(lr=0), "lr must be a finite number in .0, inf., got 0"),
    (lambda: LearnerConfig(advantage="grpo", brevity=0.2), "brevity is MaxRL's and would have no effect with 'grpo'"),
    (lambda: LearnerConfig(brevity=-0.1), "brevity must be a finite number in .0, inf., got -0.1"),
    (lambda: LearnerConfig(adam_share=-1.0), "adam_share must be a finite number in .0, inf."),
    (lambda: LearnerConfig(delta=1.5), "delta must be a finite number in .0, 1., got 1.5"),
    (lambda: cascade.Stage("x", 2, advantage="grpo", brevity=0.2), "no effect with 'grpo'"),
    (lambda: cascade.Stage("x", 2, style=True, brevity=0.2), "not for style's graded ones"),
    (lambda: cascade.Stage("x", 2, lr=0.0), "lr must be a finite number in"),
])
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_group_without_a_right_answer_has_a_gradient_of_zero():
    """And none of NaN: dividing by its mean of zero happens nowhere, also where nobody looks."""
    rewards = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    maxrl_advantage(rewards).square().sum().backward()
    assert rewards.grad[0].tolist() == [0.0, 0.0] and bool(rewards.grad.isfinite().all())


def test_ppo_bounds_the_ratio_and_dppo_the_probability():
    """(1e-4 -> 3e-4): PPO would clip at a ratio of 1.2, DPPO lets it grow. (0.5 -> 0.62): both stop.
    (0.9 -> 0.99): neither."""
    old, new = torch.tensor([1e-4, 0.5, 0.9]).log(), torch.tensor([3e-4, 0.62, 0.99]).log()
    assert dppo_mask(new, old, torch.ones(3)).tolist() == [True, False, True]
    assert ((new - old).exp() <= 1.2).tolist() == [False, False, True]
    assert dppo_mask(new, old, -torch.ones(3)).tolist() == [True] * 3           # away from where the update pushes
    assert dppo_mask(new, old, -torch.ones(3), directional=False).tolist() == [True, False, True]


@pytest.mark.parametrize("directional", [True, False])
def test_a_token_at_the_border_keeps_its_gradient(directional):
    """delta = 0 keeps what has not moved: the first update on fresh answers has a gradient. Fallen from 1 to 0:
    kept at delta = 1, dropped just below."""
    same = torch.tensor([0.5, 1.0]).log()
    for advantage in (1.0, -1.0):
        assert dppo_mask(same, same, torch.full((2,), advantage), delta=0.0, directional=directional).all()
    old, new = torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, -math.inf], dtype=torch.float64)
    for delta, kept in ((1.0, True), (math.nextafter(1.0, 0), False)):
        assert dppo_mask(new, old, -torch.ones(2), delta, directional).tolist() == [True, kept]


def test_a_longer_answer_weighs_more():
    """Constant divisor: the same tokens twice give twice the gradient. Divided by its own length it would give the
    same."""
    def pull(t):
        logp = torch.full((1, t), -0.7, requires_grad=True)
        loss = policy_loss(logp, logp.detach(), torch.ones(1), torch.ones(1, t).bool(), 100.0)
        return float(torch.autograd.grad(loss, logp)[0].sum())
    assert pull(8) == pytest.approx(2 * pull(4))


def test_signed_kl_pays_for_length_under_a_stale_policy():
    """Equations 17-22: tokens sampled from another policy have E[log p - log q] = -KL < 0,
    so the "penalty" is a gift."""
    chance = torch.Generator().manual_seed(0)
    q = torch.softmax(torch.randn(50, generator=chance), -1)
    p = torch.softmax(q.log() + 0.5 * torch.randn(50, generator=chance), -1)
    tokens = torch.multinomial(q, 200_000, replacement=True, generator=chance).view(2000, 100)
    logp, rollout = p.log()[tokens], q.log()[tokens]
    kl = float((q * (q / p).log()).sum())
    for length in (20, 100):
        valid = torch.arange(100).expand(2000, -1) < length
        got = signed_kl_reward(torch.zeros(2000), logp, rollout, valid, beta=1.0)
        assert float(got.mean()) == pytest.approx(length * kl, rel=0.05)


def test_kept_tokens_share_one():
    logits, left = torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[True, True, False]])
    assert token_logprobs(logits, torch.tensor([0]), kept=left).exp().item() == pytest.approx(0.5)
    assert token_logprobs(logits, torch.tensor([2]), kept=left).item() == -math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1e-308, 1e-45, 1e-30, 1.0, 1e30])
def test_log_probabilities_at_the_edge(dtype, temperature):
    """As the generator records them: no temperature makes NaN of them, and a gradient stays finite."""
    logits = torch.tensor([[2.0, -1.0, 40.0], [-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
    found = token_logprobs(logits, torch.tensor([2, 1]), temperature)
    wanted = tempered(logits.detach(), temperature).log_softmax(-1)[[0, 1], [2, 1]]
    assert torch.allclose(found.double(), wanted, atol=1e-6)
    found.sum().backward()
    assert bool(logits.grad.isfinite().all())


# ---- canaries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [1, 2, 3, 5, 8, 13, 16, 31, 47, 64])
def test_loops_are_caught_and_work_is_not(period):
    """A loop of up to 64 tokens in the first 200, against all worked solutions of all tasks at their hardest."""
    healthy = [[ord(c) for c in tasks.get(name).generate(seed, tasks.get(name).max_difficulty).completion]
               for name in tasks.names() for seed in range(3)]
    threshold = calibrated(healthy)
    assert 0.02 < threshold < 0.3 and not any(repeats(text, threshold) for text in healthy)
    loop = ([ord(c) for c in "a7+9b6*9c4-"] + [40 + i for i in range(period)] * 200)[:400]
    assert repeats(loop, threshold)


def test_a_short_last_chunk_is_merged():
    """Three tokens alone would look incompressible, and hide the loop that they end."""
    assert len(canary([7] * 131)) == 2 and len(canary([7] * 63)) == 1 and canary([]) == []
    assert canary([7] * 131)[-1] < 0.06
    assert len(canary([7] * 128)) == 2 and len(canary([7] * 192)) == 3, "a full one stands for itself"
    ratios = canary(range(128))
    assert not repeats(range(128), min(ratios)), "below the threshold, not at it"


def test_a_chunk_counts_what_it_compresses_to_and_no_header():
    """Raw deflate reads it again; a header of zlib's would be two bytes of the first chunk alone."""
    ids = [7, 1, 7, 2**32 - 1, *range(60)]
    press = zlib.compressobj(1, zlib.DEFLATED, -10)
    small = press.compress(b"".join(i.to_bytes(4, "little") for i in ids)) + press.flush(zlib.Z_SYNC_FLUSH)
    assert zlib.decompressobj(-15).decompress(small)[:4] == b"\x07\0\0\0"
    assert canary(ids) == [(len(small) - 4) / (4 * 64)]


def test_a_room_is_half_as_long_again_as_the_longest_solution():
    for name in ("countdown", "falsify"):
        lengths = [len(p.completion) for p in tasks.problems(name, "train", 2, 100, seed=0)]
        assert room(name, 2) == max(lengths) * 3 // 2 > min(lengths) * 3 // 2


def test_an_update_says_the_mean_length_and_leaves_no_gradient(model):
    learner, answers = Learner(model, LearnerConfig(length=9.0)), batch(model, [1, 0, 0, 1, 1, 0])
    figures = learner.update(answers, 3)
    assert figures["length"] == sum(len(r.tokens) for r in answers) / 6
    assert all(p.grad is None for p in model.parameters())
    assert canary(range(200)) == canary(range(200), chunk=64)
    assert repeats([7] * 400) == repeats([7] * 400, chunk=64) and not repeats(range(400))


def test_a_task_of_one_difficulty_is_calibrated_at_it():
    believed = Calibrator(1)
    assert {believed.ask() for _ in range(30)} == {1}


def test_rare_tokens():
    assert rare_share([1, 2, 99, 95], 100) == 0.5 and rare_share([], 100) == 0.0
    assert rare_share([94], 100) == 0.0 and rare_share([0, 1], 100, top=1) == 1.0


def test_borders_that_are_allowed():
    """The least and the most that each may be."""
    assert canary([3], chunk=1) and len(canary([1, 2, 3], chunk=1)) == 3
    for delta, kept in ((0, False), (1, True)):
        assert dppo_mask(torch.zeros(1), -torch.ones(1), torch.ones(1), delta=delta).tolist() == [kept]
    assert mixed(torch.ones(1, 1)).tolist() == [False] and grpo_advantage(torch.ones(1, 2)).tolist() == [[0, 0]]
    belief = Calibrator(1, particles=1)
    belief.tell(1, 0, 4)
    belief.tell(1, 4, 4)
    assert belief.best() == 1
    assert Scheduler({"a": 3, "b": 1}, {"a": 3, "b": 1}).levels == {"a": 3, "b": 1}


def test_the_prior_of_a_calibration():
    """The middle anywhere up to one beyond the hardest; the width from 0.2 to a third of the range, or to one half."""
    for highest, widest in ((30, 10.0), (1, 0.5)):
        drawn = [Calibrator(highest, seed).guess() for seed in range(400)]
        for values, low, high in ((([mu for mu, _ in drawn]), 0, highest + 1), ([s for _, s in drawn], 0.2, widest)):
            assert low <= min(values) < low + 0.02 * (high - low) and high - 0.02 * (high - low) < max(values) <= high


def test_particles_are_moved_a_little_when_they_are_drawn_anew():
    belief = Calibrator(9)
    belief.particles, belief.weights = [(5.0, 2.0), (0.0, 0.01)] * 500, [0.001] * 1000
    belief.resample()
    assert belief.weights == [1 / 1000] * 1000
    far = [(mu - 5, math.log(s / 2)) for mu, s in belief.particles if mu > 3]
    assert 400 < len(far) < 600
    for wanted, moves in ((0.2, [move for move, _ in far]), (0.1, [move for _, move in far])):
        assert abs(sum(moves) / len(moves)) < wanted / 4
        assert (sum(move**2 for move in moves) / len(moves)) ** 0.5 == pytest.approx(wanted, rel=0.15)
    narrow = [s for mu, s in belief.particles if mu < 3]
    assert set(narrow) == {0.1}       # never narrower


@pytest.mark.parametrize("right, asked, drawn_anew", [(1, 2, False), (16, 16, True)])
def test_particles_are_drawn_anew_when_half_of_them_hardly_count(monkeypatch, right, asked, drawn_anew):
    called = []
    monkeypatch.setattr(Calibrator, "resample", lambda self: called.append(True))
    belief = Calibrator(9, particles=4)
    belief.particles = [(5.0, 0.1)] * 1 + [(1.0, 0.1)] * 3
    belief.tell(3, right, asked)
    assert bool(called) == drawn_anew
    called.clear()
    belief.particles, belief.weights = [(5.0, 0.1)] * 2 + [(1.0, 0.1)] * 2, [0.25] * 4
    belief.tell(3, 16, 16)
    assert not called       # half of them still count: not fewer


def test_style():
    assert style_score("a1b2c3d4#7$") == 1.0
    assert style_score("abcdabcdabcd#7$") < 0.5
    for broken in ("a1b2#7", "a1b2", "a#b#7$", "a#7$$", "a$b#7$"):
        assert style_score(broken) == 0.0
    assert behaviour_reward("a1#7$", True) == 1.0 and behaviour_reward("a1#7$", False) == 0.0


# ---- the curriculum --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu, s", [(3.0, 0.5), (8.5, 1.0), (15.0, 3.0), (0.2, 0.5), (24.0, 1.0)])
def test_calibration_finds_the_boundary(mu, s):
    """Twelve groups of 16 answers: within a level and a half on average over seeds, also at the ends."""
    misses = []
    for seed in range(12):
        belief, chance = Calibrator(20, seed), random.Random(seed)
        for _ in range(12):
            d = belief.ask()
            assert 1 <= d <= 20
            belief.tell(d, sum(chance.random() < pass_rate(d, mu, s) for _ in range(16)), 16)
        misses.append(abs(belief.best() - min(max(round(mu), 1), 20)))
    assert sum(misses) / len(misses) <= 1.5


def test_calibration_survives_contradictions():
    belief = Calibrator(5)
    for _ in range(50):
        belief.tell(1, 0, 16)
        belief.tell(5, 16, 16)
    assert 1 <= belief.best() <= 5 and math.isfinite(belief.middle())


def test_the_scheduler_follows_equation_11():
    table = Scheduler({"a": 2, "b": 5}, {"a": 3, "b": 6})
    assert table.draw(3) == [("a", 2), ("b", 5), ("a", 2)] and table.draw(1) == [("b", 5)]  # least often drawn first
    assert table.update("a", 2, [1, 1, 1, 0]) == 3          # 75% > 70%
    assert table.update("a", 2, [1, 1, 1, 1]) == 3          # of another level: says nothing
    assert table.update("a", 3, [1, 1, 1, 1]) == 3          # nothing is harder
    assert table.update("a", 3, [1, 0, 0, 0]) == 3          # between: stays
    assert table.update("a", 3, [0, 0, 0, 0]) == 2
    assert table.update("b", 5, [1] * 7 + [0] * 3) == 5     # exactly 70% is not over it
    other = Scheduler({"a": 1, "b": 1}, {"a": 3, "b": 6})
    other.load_state(table.state())
    assert other.state() == table.state() and table.levels["b"] == 5 and other.levels == {"a": 2, "b": 5}


# ---- the learner -----------------------------------------------------------------------------------------------------


def batch(model, rewards, room=9):
    rollouts = answered(model, [prompt for prompt in PROMPTS[:2] for _ in range(len(rewards) // 2)], room)
    for rollout, reward in zip(rollouts, rewards):
        rollout.reward = reward
    return rollouts


def test_right_answers_become_more_likely(model):
    learner = Learner(model, LearnerConfig(lr=1e-3, length=9.0))
    rollouts = batch(model, [1, 0, 0, 1, 1, 0])
    with torch.no_grad():
        before = [learner.forward([r])[0].sum() for r in rollouts]
    figures = learner.update(rollouts, 3)
    assert figures["mixed"] == 2 and figures["routed"] == 0 and figures["k3"] < 1e-9 and figures["reward"] == 0.5
    with torch.no_grad():
        after = [learner.forward([r])[0].sum() for r in rollouts]
    gains = torch.stack(after) - torch.stack(before)
    assert float(gains[[0, 3, 4]].mean()) > float(gains[[1, 2, 5]].mean())


def test_an_update_has_gradients_wherever_it_is_called(model):
    learner, before = Learner(model, LearnerConfig(lr=1e-3)), model.layers[0].attention.up_proj.weight.detach().clone()
    answers = batch(model, [1, 0, 0, 1, 1, 0])
    with torch.no_grad():
        assert learner.update(answers, 3)["grad_norm"] > 0
    assert not torch.equal(before, model.layers[0].attention.up_proj.weight)


def test_groups_without_a_difference_change_nothing(model):
    learner = Learner(model, LearnerConfig())
    before = {name: p.clone() for name, p in model.named_parameters()}
    figures = learner.update(batch(model, [1, 1, 1, 0, 0, 0]), 3)
    assert figures["mixed"] == 0 and "loss" not in figures
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_micro_batches_weigh_as_one(model):
    """Rows of 20 tokens at a time or all together: the same gradient, to rounding."""
    rollouts, wide = batch(model, [1, 0, 0, 1, 1, 0]), copy.deepcopy(model).double()
    found = [gradients(copy.deepcopy(wide), rollouts, False, dict(rows=rows))[0] for rows in (20, 8192)]
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-10)


def test_each_answer_keeps_its_own_advantage(model):
    """So groups, and answers within a group, may come in any order: the same gradient, to rounding."""
    rollouts, wide = batch(model, [1, 0, 0, 1, 1, 0]), copy.deepcopy(model).double()
    found = [gradients(copy.deepcopy(wide), [rollouts[i] for i in order], False, {})[0]
             for order in ((0, 1, 2, 3, 4, 5), (3, 4, 5, 0, 1, 2), (1, 2, 0, 3, 5, 4))]
    for one, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def gradients(model, rollouts, compiled, settings):
    """Of one update, with its figures; the weights stay."""
    learner, kept = Learner(model, LearnerConfig(clip=1e9, **settings), compiled), []
    learner.optimizer.step = lambda: kept.extend(p.grad.clone() for p in model.parameters() if p.grad is not None)
    return kept, learner.update(rollouts, 3)


def ragged(model):
    """Six answers: two drawn without a filter; one's last routes were not recorded."""
    rollouts = batch(model, [1, 0, 0, 1, 1, 0])
    for own, filtered in zip(rollouts[2:], answered(model, [PROMPTS[0]] + [PROMPTS[1]] * 3, 7, min_p=0.3)):
        own.__dict__.update(filtered.cut(7 - len(own.prompt)).__dict__ | {"reward": own.reward})
    rollouts[1].routes[-3:] = -1
    return rollouts


def apart(model, settings):
    """How far an update by the fused loops is from the plain one in float64, relative to the largest of a gradient."""
    rollouts, wide = ragged(model), copy.deepcopy(model).double()
    rollouts[4].routes[:] = 1   # not where its tokens would go
    mine, here = gradients(model, rollouts, True, settings)
    wanted, there = gradients(wide, rollouts, False, settings)
    away = [abs(here[key] - there[key]) for key in ("loss", "routed", "grad_norm")]
    return max(away + [float((a - b).abs().max() / b.abs().max().clamp_min(1e-3)) for a, b in zip(mine, wanted)])


def mistaken(model):
    """The largest difference of a log-probability to what the sampler said."""
    with torch.no_grad():
        logp, rollout_logp, valid, *_ = Learner(model, LearnerConfig()).forward(ragged(model))
    return float((logp - rollout_logp)[valid].abs().max())


@needs_loops
@pytest.mark.parametrize("settings", [{}, dict(replay=False), dict(rows=20)], ids=str)
def test_an_update_by_fused_loops_is_the_plain_one(model, settings):
    """Three layers in float32: the plain way is off by up to 1e-5, too."""
    assert apart(model, settings) < 1e-4


@needs_loops
@pytest.mark.parametrize("place, name, old, new", [
    (learning, "logits_at", "x[places]", "x[places.roll(1, 1)]"),
    (learning, "logits_at", "hidden(model, tokens, routes=routes)", "hidden(model, tokens)"),
    (Learner, "forward", "else r.kept for r in rollouts", "else r.kept for r in rollouts[::-1]"),
    (Learner, "forward", "tokens[:, 1:][valid]", "tokens[:, :-1][valid]")])
def test_planted_bugs_of_an_update_by_loops_are_seen(model, monkeypatch, place, name, old, new):
    code = getattr(place, name)
    text, room = textwrap.dedent(inspect.getsource(code)), dict(code.__globals__)
    assert text.count(old) == 1, f"{old!r} has changed"
    exec(text.replace(old, new), room)
    assert mistaken(model) < 1e-5
    monkeypatch.setattr(place, name, room[name])
    assert (mistaken(model) if place is Learner else apart(model, {})) > 1e-2


@needs_loops
def test_which_way_an_update_goes(model, monkeypatch):
    rollouts, asked, own = batch(model, [1, 0, 0, 1, 1, 0]), [], fused.hidden
    monkeypatch.setattr(fused, "hidden", lambda *args, **named: (asked.append(1), own(*args, **named))[1])
    for compiled, times in ((False, 0), (None, 1), (True, 1)):
        asked.clear()
        gradients(model, rollouts, compiled, {})
        assert len(asked) == times
    gradients(copy.deepcopy(model).double(), rollouts, None, {})
    assert len(asked) == 1
    with pytest.raises(ValueError, match="compiled: this model cannot be trained by fused loops: its weights are not"):
        Learner(model.double(), LearnerConfig(), compiled=True).update(rollouts, 3)


def test_muon_has_no_momentum_and_biases_stay(model):
    learner = Learner(model, LearnerConfig(lr=1e-3))
    biases = [block.router.balancing_bias.clone() for block in model.layers]
    learner.update(batch(model, [1, 0, 0, 1, 1, 0]), 3)
    states = {name: learner.optimizer.state.get(p, {}) for name, p in model.named_parameters()}
    assert all("momentum_buffer" not in states[name] for name, p in model.named_parameters() if is_matrix(name, p))
    assert all(torch.equal(bias, block.router.balancing_bias) for bias, block in zip(biases, model.layers))


def test_a_broken_gradient_moves_nothing(model):
    learner, rollouts = Learner(model, LearnerConfig()), batch(model, [1, 0, 0, 1, 1, 0])
    before = {name: p.clone() for name, p in model.named_parameters()}
    broken = model.norm.register_forward_hook(lambda module, args, out: out * math.nan)
    with pytest.raises(ValueError, match="not finite"):
        learner.update(rollouts, 3)
    broken.remove()
    rollouts[0].logprobs[0] = math.nan
    with pytest.raises(ValueError, match="logprobs must be finite and at most 0, got .nan"):
        learner.update(rollouts, 3)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    with pytest.raises(ValueError, match="whole groups of 4"):
        learner.update(rollouts, 4)


def test_the_length_bonus_prefers_the_short(model):
    rollouts = batch(model, [1, 1, 0, 1, 1, 0])
    rollouts[0] = rollouts[0].cut(3)
    advantages = Learner(model, LearnerConfig(brevity=1.0)).advantages(torch.tensor([[1.0, 1, 0], [1, 1, 0]]), rollouts)
    assert advantages[0, 0] > advantages[0, 1] > advantages[0, 2]
    assert advantages[1, 0] == advantages[1, 1]
    plain = Learner(model, LearnerConfig()).advantages(torch.tensor([[1.0, 1, 0], [1, 1, 0]]), rollouts)
    assert plain[0, 0] == plain[0, 1]


def test_micro_batches_hold_like_lengths():
    rollouts = [Rollout([1], [2] * n, [], [], torch.zeros(0, 1), {}) for n in (5, 1, 9, 1, 5)]
    batches = micro_batches(rollouts, 12)
    assert sorted(i for b in batches for i in b) == [0, 1, 2, 3, 4] and batches == [[1, 3], [0, 4], [2]]
    assert mz.ZayaConfig.preset("nano").num_experts == 4 and CONFIG.num_experts == 3
    for price, wanted in ((5, [[1, 3], [0, 4], [2]]), (12, [[1, 3], [0, 4, 2]]), (20, [[1, 3, 0, 4, 2]])):
        assert micro_batches(rollouts, 99, price) == wanted   # padded tokens and batches: 26 and 3, 34 and 2, 50 and 1


@pytest.mark.parametrize("filtered", [(0,), (1, 3, 5), ()])
def test_what_was_kept_belongs_to_each_answer(model, filtered):
    """Answers with and without a filter in one batch: each one's log-probabilities are those that it has alone."""
    rollouts = batch(model, [1, 0, 0, 1, 1, 0])
    for i in filtered:
        probs = torch.rand(len(rollouts[i].tokens), CONFIG.vocab_size, generator=torch.Generator().manual_seed(i))
        rollouts[i].kept = (probs > 0.5).scatter_(1, torch.tensor(rollouts[i].tokens)[:, None], True)
    learner = Learner(model, LearnerConfig(lr=1e-3))
    with torch.no_grad():
        together, _, valid, *_ = learner.forward(rollouts)
        for row, rollout in enumerate(rollouts):
            alone, _, own, *_ = learner.forward([rollout])
            torch.testing.assert_close(together[row][valid[row]], alone[0][own[0]], rtol=1e-5, atol=1e-6)
    assert math.isfinite(learner.update(rollouts, 3)["loss"])


def test_broken_batches_are_named(model):
    learner, rollouts = Learner(model, LearnerConfig()), batch(model, [1, 0])
    for given, group in (([], 1), ([], 2), (rollouts, 0), (rollouts, 3), (rollouts, -1)):
        with pytest.raises(ValueError, match="rollouts must be whole groups"):
            learner.update(given, group)
    rows = len(rollouts[0].tokens)
    for kept in (torch.ones(rows, 3).bool(), torch.ones(rows).bool(), torch.ones(rows, CONFIG.vocab_size),
                 torch.ones(rows + 1, CONFIG.vocab_size).bool()):
        rollouts[0].kept = kept
        with pytest.raises(ValueError, match="kept must be"):
            learner.update(rollouts, 2)
    rollouts[0].kept, rollouts[0].prompt = None, []
    with pytest.raises(ValueError, match="prompt must hold"):
        learner.update(rollouts, 2)


@pytest.mark.parametrize("lr, share", [(2e-2, 0.5), (1e-3, 0.0)])
def test_each_group_moves_at_its_own_rate(model, lr, share):
    """Muon's matrices move at lr, what AdamW moves at `adam_share` of it: its first step is that in each number."""
    learner = Learner(model, LearnerConfig(lr=lr, adam_share=share, length=9.0))
    kinds = {name: is_matrix(name, p) for name, p in model.named_parameters()}
    rate = {id(p): group["lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    assert {name: rate[id(p)] for name, p in model.named_parameters()} == {
        name: lr if muon else lr * share for name, muon in kinds.items()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    learner.update(batch(model, [1, 0, 0, 1, 1, 0]), 3)
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in model.named_parameters()}
    slow = max(step for name, step in moved.items() if not kinds[name])
    assert slow <= lr * share * 1.01 + 1e-7 and (slow > 0.3 * lr * share or not share)
    assert max(step for name, step in moved.items() if kinds[name]) > 0.1 * lr


def test_the_best_rate_is_a_maximum_by_task(model):
    learner, rollouts = Learner(model, LearnerConfig(brevity=1.0)), batch(model, [1, 1, 1, 0])
    for i, task in enumerate(["a", "a", "b", "b"]):
        rollouts[i].problem = {"task": task, "room": 9}
    for rewards, best in (([1, 0, 0, 0], {"a": 0.5, "b": 0.0}), ([1, 1, 1, 0], {"a": 1.0, "b": 0.5}),
                          ([0, 0, 0, 0], {"a": 1.0, "b": 0.5}), ([1, 0, 1, 1], {"a": 1.0, "b": 1.0})):
        learner.advantages(torch.tensor(rewards, dtype=torch.float64).view(2, 2), rollouts)
        assert learner.best_rate == best


def test_the_room_of_a_bonus_is_the_problems_own(model):
    """A problem with much room beside one with little changes nothing for the latter."""
    rewards, rollouts = torch.tensor([[1.0, 1, 0], [1, 1, 0]], dtype=torch.float64), batch(model, [1, 1, 0, 1, 1, 0])
    rollouts[0], rollouts[3] = rollouts[0].cut(3), rollouts[3].cut(3)
    found = []
    for far in (9, 900):
        for i, rollout in enumerate(rollouts):
            rollout.problem = {"task": "ab"[i // 3], "room": 9 if i < 3 else far}
        found.append(Learner(model, LearnerConfig(brevity=1.0)).advantages(rewards, rollouts))
    assert torch.equal(found[0][0], found[1][0]) and not torch.equal(found[0][1], found[1][1])
    plain, half = (Learner(model, LearnerConfig(brevity=scale)).advantages(rewards, rollouts) for scale in (0.0, 0.5))
    torch.testing.assert_close(half - plain, (found[1] - plain) / 2)      # brevity is the bonus's scale


# ---- away from the symmetric point -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.2, 0.35, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("mu, s", [(10.0, 2.0), (6.0, 1.0)])
def test_the_target_is_where_the_curve_passes_so_often(mu, s, target):
    belief = Calibrator(20, target=target, spread=min(0.25, target / 2, (1 - target) / 2))
    belief.particles, belief.weights = [(mu, s)] * 4, [0.25] * 4
    assert pass_rate(belief.middle(), mu, s) == pytest.approx(target)
    assert belief.best() == round(mu + s * math.log((1 - target) / target))
    asked = [belief.ask() for _ in range(400)]
    exact = sum(difficulty == belief.best() for difficulty in asked)
    assert exact >= 150                                          # half of them aim at the target itself
    assert abs(sum(pass_rate(d, mu, s) for d in asked) / 400 - target) < 0.08


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.25])
def test_half_of_the_questions_are_spread(spread):
    belief = Calibrator(10**6, spread=spread)
    belief.particles, belief.weights = [(5e5, 1e5)] * 2, [0.5] * 2
    rates = [pass_rate(belief.ask(), 5e5, 1e5) for _ in range(2000)]
    assert max(abs(rate - 0.5) for rate in rates) <= spread + 1e-4
    away = sum(abs(rate - 0.5) > 1e-4 for rate in rates)
    assert abs(away - 1000) < 120 if spread else away == 0


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_the_length_bonus_by_hand(scale):
    """Three right of four, lengths 2, 4, 12 of at most 12: p times 1/2, 0.3, -1/2; the wrong one has none."""
    found = length_bonus(torch.tensor([[1.0, 1, 1, 0]]), torch.tensor([[2, 4, 12, 1]]), 12.0, scale=scale)
    assert found[0].tolist() == pytest.approx([scale * 0.75 * share for share in (0.5, 0.3, -0.5, 0.0)])
    for best, open_ in ((0.8, True), (0.84, True), (0.86, False), (1.0, False)):
        gated = length_bonus(torch.tensor([[1.0, 1, 1, 0]]), torch.tensor([[2, 4, 12, 1]]), 12.0, best_rate=best)
        assert bool(gated.any()) == open_


def test_the_borders_of_the_length_bonus():
    """A rate that is just the best one less its slack has none; so many tokens over the shortest cost nothing."""
    half, lengths = torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[4, 6, 1, 1]])
    assert not length_bonus(half, lengths, 12.0, best_rate=0.75, rate_slack=0.25).any()
    assert length_bonus(half, lengths, 12.0, best_rate=0.7499, rate_slack=0.25).any()
    assert length_bonus(half, lengths, 12.0, slack=2.0)[0].tolist() == [0.25, 0.25, 0, 0]
    assert length_bonus(half, lengths, 12.0, slack=1.9)[0].tolist() == [0.25, 0.125, 0, 0]


def test_a_drawn_curve_does_not_become_a_step():
    """However often particles are drawn anew and moved, no width falls below a tenth of a level."""
    belief = Calibrator(5)
    belief.particles, belief.weights = [(3.0, 0.1)] * 256, [1 / 256] * 256
    belief.resample()
    widths = [s for _, s in belief.particles]
    assert min(widths) == 0.1 < max(widths) and len({mu for mu, _ in belief.particles}) == 256


def test_one_right_answer_has_nobody_to_be_shorter_than():
    """Its pass rate is 1 / G, which is not above it."""
    assert not length_bonus(torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[3, 4, 9, 2]]), 9.0).any()
