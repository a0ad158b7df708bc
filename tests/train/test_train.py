"""Training: the step, the resume, the checkpoint that survives a kill, the honest figures."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load as tensors_of
from tqdm import tqdm as text_bar

import minizaya as mz
from minizaya.__main__ import main
from minizaya.arch import balance
from minizaya.commands.demo import free_folder, report
from minizaya.data import tasks, text
from minizaya.data.tokenizer import CharTokenizer
from minizaya.hub import zoo
from minizaya.infer import generate
from minizaya.train import checkpoint, evaluate, loop
from minizaya.train import sources as the_sources
from minizaya.train.evaluate import held_out_loss, solve
from minizaya.train.loop import Recipe, Trainer
from minizaya.train.optim import adamw, decays, learning_rate, load_named_state, named_state
from minizaya.train.run_folder import must_match
from minizaya.train.sources import (
    IGNORE,
    Batch,
    mixture,
    packed_source,
    problem_batch,
    task_source,
    text_source,
)

REPO = Path(__file__).resolve().parents[2]
TOKENIZER = CharTokenizer(text.ALPHABET, unknown="unk")
STEPS = 12


def tiny_model(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
                 moe_intermediate_size=32, router_hidden_size=8)
    return mz.Zaya(mz.ZayaConfig.preset("nano", **sizes | changes))


def tiny_sources(seed=0):
    tokens = TOKENIZER.encode(text.english()[:3000])
    return mixture(text_source(tokens, 2, 24, seed), task_source("addition", 2, TOKENIZER, 3, seed))


def tiny_trainer(run=None, resume=False, steps=STEPS, model=None, **settings):
    recipe = Recipe(steps=steps, warmup=3, **settings)
    return Trainer(model or tiny_model(), recipe, tiny_sources(), run=run, resume=resume)


def losses(trainer):
    return [(r["loss"], r["loss_text"], r["loss_task"], r["grad_norm"], r["load_entropy"]) for r in trainer.records]


@pytest.fixture(scope="module")
def uninterrupted():
    trainer = tiny_trainer()
    assert trainer.train(bar=False)
    return trainer


# ---- the step --------------------------------------------------------------------------------------------------------


def test_schedule_climbs_then_falls():
    rates = [learning_rate(step, 110, peak=2.0, warmup=10, final_share=0.1) for step in range(111)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx((2.0 + 0.2) / 2)        # half way down the cosine
    assert rates[110] == pytest.approx(0.2)
    assert all(a < b for a, b in zip(rates[:9], rates[1:10])) and all(a > b for a, b in zip(rates[10:], rates[11:]))
    assert learning_rate(0, 10, 1.0, warmup=0) == 1.0


def test_weight_decay_spares_scales_biases_and_embeddings():
    model = tiny_model()
    decayed = {name for name, p in model.named_parameters() if decays(name, p)}
    kinds = {name.split(".", 2)[-1] for name in decayed}
    assert kinds == {"attention.down_proj.weight", "attention.up_proj.weight", "attention.conv_grouped.weight",
                     "router.down_proj.weight", "router.mlp.fc1.weight", "router.mlp.fc2.weight",
                     "router.mlp.out_proj.weight", "experts.gate_up_proj", "experts.down_proj"}
    groups = adamw(model, 1e-3, weight_decay=0.3).param_groups
    assert [g["weight_decay"] for g in groups] == [0.3, 0.0]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_one_step_is_the_textbook_step():
    """Micro-batches together weigh as one batch, gradients are clipped together, then AdamW moves the weights."""
    model, twin = tiny_model(), tiny_model()
    trainer = tiny_trainer(model=model, lr=0.01, clip=0.05)
    record = trainer.train_step()

    batches = tiny_sources()(0)
    every = [F.cross_entropy(twin(b.inputs).logits.flatten(0, 1), b.targets.flatten(), ignore_index=IGNORE,
                             reduction="none")[b.targets.flatten() != IGNORE] for b in batches]
    loss = torch.cat(every).mean()
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm()
    assert norm > 0.05
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert record["loss_text"] == pytest.approx(every[0].mean().item(), rel=1e-6)
    assert record["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert record["lr"] == pytest.approx(0.01 / 3)
    optimizer = adamw(twin, lr=0.01 / 3)
    for p in twin.parameters():
        p.grad *= 0.05 / (norm + 1e-6)
    optimizer.step()
    # float32 and another order of additions: Adam's first step divides a gradient by itself, so tiny ones are noise
    moved = [(p - q).abs().max().item() for p, q in zip(model.parameters(), twin.parameters())]
    assert sorted(moved)[len(moved) // 2] < 1e-6 and max(moved) <= 2.1 * 0.01 / 3


def test_fused_loops_train_as_the_plain_way_does():
    """Four steps, the later ones from weights that the loops' gradients made: Adam divides small roundings by small
    gradients, so losses agree to five digits, not to the last one."""
    mine, plain = (Trainer(tiny_model(), Recipe(steps=4, warmup=3), tiny_sources(), compiled=compiled)
                   for compiled in (None, False))
    for trainer in (mine, plain):
        trainer.train(bar=False)
    assert [r["loss"] for r in mine.records] == pytest.approx([r["loss"] for r in plain.records], rel=1e-5)


def test_balancer_steps_on_the_whole_batch_without_padding():
    model = tiny_model()
    mz.balance.set_biases(model, torch.linspace(-0.02, 0.02, 4).expand(2, 4))      # it goes on from the model's
    before = mz.balance.get_biases(model)
    trainer = tiny_trainer(model=model, balance_lr=0.5)
    batches = trainer.batches(0)
    with torch.no_grad():
        routes = [model(b.inputs).routes for b in batches]
    real = torch.cat([r[torch.ones_like(b.inputs, dtype=torch.bool) if b.valid is None else b.valid]
                      for r, b in zip(routes, batches)])                                    # (tokens, layers)
    assert not batches[1].valid.all(), "the test needs some padding"
    load = torch.stack([(real == e).float().mean(0) for e in range(model.config.num_experts)], -1)
    record = trainer.train_step()
    expected = before - 0.5 * (load - load.mean(-1, keepdim=True)).sign()
    torch.testing.assert_close(mz.balance.get_biases(model), expected - expected.mean(-1, keepdim=True), rtol=0,
                               atol=1e-6)
    assert record["load_entropy"] == pytest.approx(mz.balance.entropy(load).mean().item(), abs=1e-6)
    assert record["max_violation"] == pytest.approx(mz.balance.max_violation(load).max().item(), abs=1e-5)
    assert record["tokens"] == len(real)


def test_evaluation_moves_nothing(uninterrupted):
    trainer = tiny_trainer()
    tokens = torch.tensor(TOKENIZER.encode(text.english()[3000:3200]))
    calls = []

    def evaluate():
        calls.append(trainer.step)
        return {"text": held_out_loss(trainer.model, tokens, window=16)}

    trainer.train(evaluate=evaluate, eval_every=5, bar=False)
    assert calls == [5, 10, 12]
    assert losses(trainer) == losses(uninterrupted)
    assert "eval" in trainer.records[4] and "eval" not in trainer.records[5]


def test_a_loss_that_is_not_finite_stops_before_the_weights_move():
    model = tiny_model()
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    before = model.embed.weight.clone()
    with pytest.raises(ValueError, match="diverged at step 0.*lr may be too large"):
        tiny_trainer(model=model).train_step()
    assert torch.equal(model.embed.weight, before)
    assert all(parameter.grad is None for parameter in model.parameters()), "it would be added to the next step's"


def test_training_learns():
    trainer = tiny_trainer(steps=60, lr=0.01)
    trainer.train(bar=False)
    assert trainer.records[-1]["loss"] < 0.75 * trainer.records[0]["loss"]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"lr": 0.0}, {"clip": -1.0}, {"warmup": -1}, {"balance_lr": -0.1},
                                   {"steps": 2.5}, {"warmup": 0.5}, {"beta1": 1.0}, {"beta2": -0.1},
                                   {"lr": float("inf")}, {"lr": float("nan")}])
def test_a_wrong_recipe_names_its_field(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**{"steps": 5} | wrong)


# ---- what a step reads -----------------------------------------------------------------------------------------------


def test_sources_depend_on_seed_and_step_alone():
    first, again, other = tiny_sources(0), tiny_sources(0), tiny_sources(1)
    again(3), again(0)
    for a, b, c in zip(first(7), again(7), other(7)):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
        assert a.inputs.shape != c.inputs.shape or not torch.equal(a.inputs, c.inputs)


def test_no_two_seeds_read_the_same_problems(monkeypatch):
    """Neighbouring seeds, and steps of many sizes: each pair draws its list from a number of its own."""
    drawn = []
    monkeypatch.setattr(the_sources.tasks, "problems", lambda *args, seed: drawn.append(seed))
    monkeypatch.setattr(the_sources, "problem_batch", lambda *args: None)
    steps = {near + 10**power for power in range(7) for near in (-1, 0, 1)}
    for seed in range(5):
        for step in steps:
            the_sources.task_source("addition", 2, TOKENIZER, 1, seed)(step)
    assert len(set(drawn)) == len(drawn) == 5 * len(steps)


def test_problem_batch_scores_the_completion_only():
    problems = tasks.problems("addition", "train", 3, 6, seed=1)
    batch = problem_batch(problems, TOKENIZER)
    assert len({len(p.text) for p in problems}) > 1, "the test needs rows of different lengths"
    for row, problem in enumerate(problems):
        scored = batch.targets[row][batch.targets[row] != IGNORE]
        assert TOKENIZER.decode(scored) == problem.completion
        read = batch.inputs[row][batch.valid[row]]
        assert TOKENIZER.decode(read) == problem.text[:-1]


def test_task_source_never_shows_a_held_out_problem():
    source = task_source("addition", 1, TOKENIZER, 64, seed=0)
    shown = {TOKENIZER.decode(row).split("?")[0] + "?" for step in range(20) for row in source(step).inputs}
    held_out = {p.prompt for p in tasks.problems("addition", "held_out", 1, 100, seed=5)}
    assert len(shown) > 50 and not shown & held_out


def test_wrong_sources_are_refused():
    with pytest.raises(ValueError, match="rows"):
        task_source("addition", 2, TOKENIZER, 0, 0)
    with pytest.raises(ValueError, match="difficulty"):
        task_source("addition", 99, TOKENIZER, 2, 0)
    with pytest.raises(ValueError, match="at least one"):
        mixture()
    row = torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="right"):
        Batch("x", row, row, torch.tensor([[False, True, True]]))


# ---- honest figures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 8, 9, 16, 17, 23, 24, 25, 31, 60])
def test_held_out_loss_scores_every_token_once_with_context(length):
    model = tiny_model()
    tokens = torch.randint(0, 100, (length,), generator=torch.Generator().manual_seed(length))
    window, wanted = 16, 0.0
    with torch.no_grad():
        for target in range(1, length):  # one at a time: its window starts half a window or more before it
            start = 0 if target <= window else (target - 1) // 8 * 8 - 8
            logits = model(tokens[None, start:target]).logits[0, -1]
            wanted += F.cross_entropy(logits, tokens[target]).item()
            assert start == 0 or target - start > 8
    assert held_out_loss(model, tokens, window, batch=2) == pytest.approx(wanted / (length - 1), rel=1e-5)


def test_held_out_loss_leaves_modes_alone():
    """Also those of single modules, and where it fails."""
    model = tiny_model().train()
    model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    held_out_loss(model, torch.arange(9), 4)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ValueError):
        held_out_loss(model, torch.full((9,), 10**6), 4)
    assert [module.training for module in model.modules()] == modes


def test_solve_counts_right_answers():
    """A fake model of the right interface would prove little: train a real one until it knows a handful by heart."""
    problems = tasks.problems("addition", "train", 1, 6, seed=3)
    model = tiny_model()
    trainer = Trainer(model, Recipe(steps=150, lr=0.02, warmup=10),
                      mixture(lambda step: problem_batch(problems, TOKENIZER)))
    assert solve(model, TOKENIZER, problems)[0] == [0] * 6
    trainer.train(bar=False)
    assert solve(model, TOKENIZER, problems) == ([1] * 6, [problem.completion for problem in problems])


# ---- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_resume_repeats_the_losses_bit_for_bit(tmp_path, uninterrupted, stop):
    first = tiny_trainer(tmp_path)
    assert not first.train(until=stop, bar=False)
    second = tiny_trainer(tmp_path, resume=True, model=tiny_model(seed=99))  # its own weights must not matter
    assert second.step == stop
    assert second.train(bar=False)
    ours, theirs = ([{**record, "tok_per_s": 0} for record in one.records] for one in (second, uninterrupted))
    assert ours == theirs
    for a, b in zip(second.model.state_dict().values(), uninterrupted.model.state_dict().values()):
        assert torch.equal(a, b)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines == second.records


def interrupted_at(step, trainer):
    """The trainer, with Ctrl-C pressed while it fetches the batches of a step."""
    sources = trainer.batches

    def press(now):
        if now == step:
            os.kill(os.getpid(), signal.SIGINT)
        return sources(now)

    trainer.batches = press
    return trainer


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, uninterrupted, capsys):
    trainer = interrupted_at(4, tiny_trainer(tmp_path))
    before = signal.getsignal(signal.SIGINT)
    assert not trainer.train(bar=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert trainer.step == 5 and "--resume" in capsys.readouterr().err
    again = tiny_trainer(tmp_path, resume=True)
    assert again.train(bar=False) and losses(again) == losses(uninterrupted)


def test_in_a_notebook_ctrl_c_saves_and_raises(tmp_path, monkeypatch, uninterrupted):
    """Or "Run All" would go on with a model that is half trained. What was trained is kept, whole steps only."""
    monkeypatch.setattr(loop, "in_notebook", lambda: True)
    trainer = interrupted_at(4, tiny_trainer(tmp_path))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(bar=False)
    assert signal.getsignal(signal.SIGINT) is before
    again = tiny_trainer(tmp_path, resume=True)
    assert again.step == 5 and again.train(bar=False) and losses(again) == losses(uninterrupted)


@pytest.mark.parametrize("kept, given, says", [
    ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "a.c of run is 2, got 3"),
    ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, "a.c of run is 2, got None"),
    ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, "a.c of run is None, got 2"),
    ({"a": [1, 2]}, {"a": [2, 1]}, r"a of run is \[1, 2\], got \[2, 1\]"),
    ({}, {"a": 0}, "a of run is None, got 0")])
def test_what_is_another_than_the_runs_is_named_alone(kept, given, says):
    with pytest.raises(ValueError, match=f"^{says}; resume with the same$"):
        must_match(Path("run"), {"step": 1, "same": 2} | kept, {"same": 2} | given)


def test_a_text_of_the_same_length_is_another_text(tmp_path, capsys):
    flags = ["train", "--out", str(tmp_path / "run"), "--task-rows", "0", "--text-rows", "1", "--seq", "16", "--steps",
             "1", "--text-file", str(tmp_path / "text")]
    (tmp_path / "text").write_text("ab" * 2000)
    assert main(flags) == 0
    (tmp_path / "text").write_text("ba" * 2000)
    assert main([*flags, "--resume"]) == 2
    assert "minizaya train: text_sha256 of" in capsys.readouterr().err


def test_resume_without_a_checkpoint_starts_at_the_beginning(tmp_path, uninterrupted):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.0}\n{"st')  # killed before the first checkpoint
    trainer = tiny_trainer(tmp_path, resume=True)
    assert trainer.train(bar=False) and losses(trainer) == losses(uninterrupted)


# One process imports torch, then forks: 20 children train and are killed, the parent only watches the log grow.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_train import tiny_trainer
run, chance, size = Path(sys.argv[1]), random.Random(0), 0
log = run / "log.jsonl"
for life in range(20):
    child = os.fork()
    if not child:
        tiny_trainer(run, resume=True, steps=STEPS).train(save_every=3, bar=False)
        os._exit(0)
    goal = size + chance.randrange(200, 1300)  # bytes of log: about 1 to 5 more steps
    while (size := log.stat().st_size if log.exists() else 0) < goal:
        assert os.waitpid(child, os.WNOHANG)[0] == 0, "the run ended by itself before the kill"
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.02))  # anywhere in a step, or in the writing of a checkpoint
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
print("killed", life + 1)
""".replace("STEPS", "150")


def test_twenty_kills_at_random_moments_change_no_loss(tmp_path):
    """20 SIGKILLs, then a run to the end: one line a step, losses and weights of a run left alone."""
    run = tmp_path / "run"
    paths = os.pathsep.join(map(str, (REPO, REPO / "tests" / "train", REPO / "tests" / "helpers")))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(run)], cwd=REPO, env=environment, capture_output=True,
                          text=True)
    assert done.stdout == "killed 20\n", done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the children: bit for bit holds for one number of threads
    try:
        again = tiny_trainer(run, resume=True, steps=150)
        assert 0 < again.step < 150
        again.train(save_every=50, bar=False)
        alone = tiny_trainer(steps=150)
        alone.train(bar=False)
    finally:
        torch.set_num_threads(threads)
    assert losses(again) == losses(alone)
    assert [r["step"] for r in again.records] == list(range(1, 151))
    assert all(torch.equal(a, b) for a, b in zip(again.model.state_dict().values(), alone.model.state_dict().values()))
    assert [p.name for p in run.iterdir() if p.is_dir()] == ["checkpoint-00000150"]


# ---- the checkpoint --------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    trainer = tiny_trainer(tmp_path / "run")
    trainer.train(until=3, bar=False)
    return trainer, checkpoint.latest(tmp_path / "run")


def test_optimizer_state_goes_by_name_and_comes_back():
    trainer = tiny_trainer()
    trainer.train_step()
    state = named_state(trainer.model, trainer.optimizer)
    assert state["embed.weight/exp_avg"].shape == trainer.model.embed.weight.shape
    other = adamw(trainer.model, 1e-3)
    load_named_state(trainer.model, other, state)
    back = named_state(trainer.model, other)
    assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in state)
    for name in ("embed.weight/exp_avg", "norm.weight/exp_avg_sq"):        # of two axes, of one
        with pytest.raises(ValueError, match=f"{name}' has shape"):
            load_named_state(trainer.model, other, state | {name: state[name][1:]})


def test_only_the_newest_checkpoint_stays_and_nothing_is_pickled(saved):
    trainer, folder = saved
    trainer.train(until=6, save_every=1, bar=False)
    assert [p.name for p in sorted(folder.parent.iterdir())] == ["checkpoint-00000006", "log.jsonl", "run.lock"]
    assert {p.suffix for p in checkpoint.latest(folder.parent).iterdir()} == {".safetensors", ".json"}


def test_a_checkpoint_is_whole_when_it_gets_its_name(saved, monkeypatch):
    """Whoever looks at any moment finds all of its files in it, and on the disk."""
    trainer, folder = saved
    synced, seen = [], []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    move = os.replace

    def watched(source, target):
        seen.extend(str(path) for path in Path(source).iterdir() if path.stat().st_size)
        assert {path.name for path in Path(source).iterdir()} == {path.name for path in folder.iterdir()}
        move(source, target)

    monkeypatch.setattr(os, "replace", watched)
    trainer.train_step()
    trainer.save()
    assert len(seen) == 3 and sorted(synced) == sorted(seen)


def test_weights_of_another_type_are_named(saved):
    trainer, folder = saved
    state = checkpoint.model_state(trainer.model) | {"norm.weight": trainer.model.norm.weight.detach().double()}
    path = folder.parent / "other.safetensors"
    path.write_bytes(checkpoint.safetensors().save({name: tensor.contiguous() for name, tensor in state.items()}))
    with pytest.raises(ValueError, match="'norm.weight' is torch.float64 .*, the model wants torch.float32"):
        checkpoint.load_weights(path, trainer.model)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "run.json"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "gone"])
def test_a_damaged_checkpoint_is_one_clear_error(saved, name, damage):
    _, folder = saved
    path = folder / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "garbage": b"\x80\x04garbage" * 9, "empty": b""}[damage])
    with pytest.raises(FileNotFoundError if damage == "gone" else ValueError, match=name):
        tiny_trainer(folder.parent, resume=True)


def test_a_foreign_checkpoint_is_refused(saved):
    trainer, folder = saved
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"format": "something else"}))
    with pytest.raises(ValueError, match="format"):
        tiny_trainer(folder.parent, resume=True)
    (folder / "run.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="recipe"):
        tiny_trainer(folder.parent, resume=True, lr=1.0)
    with pytest.raises(ValueError, match="config"):
        tiny_trainer(folder.parent, resume=True, model=tiny_model(hidden_size=48))
    with pytest.raises(ValueError, match="shape|fit"):
        checkpoint.load_weights(folder / "model.safetensors", tiny_model(hidden_size=48))
    with pytest.raises(ValueError, match="names differ"):
        checkpoint.load_weights(folder / "model.safetensors", tiny_model(num_hidden_layers=3))
    bad = named_state(trainer.model, trainer.optimizer) | {"embed.weight/exp_avg": torch.zeros(3)}
    with pytest.raises(ValueError, match="embed.weight/exp_avg"):
        load_named_state(trainer.model, trainer.optimizer, bad)
    with pytest.raises(ValueError, match="no parameter"):
        load_named_state(trainer.model, trainer.optimizer, {"who/exp_avg": torch.zeros(3)})
    with pytest.raises(FileNotFoundError):
        checkpoint.read_info(folder.parent)


def test_a_run_is_not_overwritten(saved):
    _, folder = saved
    with pytest.raises(ValueError, match="resume"):
        tiny_trainer(folder.parent)


def test_a_log_that_lost_lines_is_refused(saved):
    _, folder = saved
    (folder.parent / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match="log.jsonl"):
        tiny_trainer(folder.parent, resume=True)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write into the run folder"):
        tiny_trainer(tmp_path / "file" / "run")


def test_a_full_disk_keeps_the_last_good_checkpoint(saved, uninterrupted):
    """A limit on the size of files stands for the full disk: writing fails half way through a file."""
    trainer, folder = saved
    trainer.train_step()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(OSError, match=f"cannot write a checkpoint.*last good one is .*{folder.name}"):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == [folder.name]
    again = tiny_trainer(folder.parent, resume=True)
    assert again.train(bar=False) and losses(again) == losses(uninterrupted)


def test_a_read_only_folder_keeps_the_last_good_checkpoint(saved, monkeypatch):
    trainer, folder = saved  # root may write into any folder, so the system call itself must refuse

    def refuse(*args, **kwargs):
        raise PermissionError(30, "Read-only file system")

    trainer.train_step()
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match="Read-only file system.*last good one"):
        trainer.save()
    assert checkpoint.latest(folder.parent) == folder


def test_without_safetensors_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"pip install minizaya\[checkpoints\]"):
        tiny_trainer(tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- the commands ----------------------------------------------------------------------------------------------------


def run_command(*argv):
    from minizaya.__main__ import main

    return main(list(argv))


@pytest.fixture
def short_text(monkeypatch):
    """The commands as they are, on a hundredth of the text."""
    english = text.english()[:6000]
    monkeypatch.setattr(text, "english", lambda: english)


def test_demo_smoke(tmp_path, monkeypatch, capsys, short_text):
    monkeypatch.setattr("minizaya.commands.demo.PROBLEMS", 5)
    monkeypatch.chdir(tmp_path)
    assert run_command("demo", "--steps", "2", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 2 and len(result["text"]["ngrams"]) == 6 and result["task"]["problems"] == 5
    assert result["text"]["beats_ngrams"] == (result["text"]["held_out_loss"] < min(result["text"]["ngrams"]))
    assert (tmp_path / result["figure"]).read_bytes()[:4] == b"\x89PNG"
    assert checkpoint.latest(result["run"]).name == "checkpoint-00000002"
    assert run_command("demo", "--out", result["run"], "--resume", "--json") == 0  # nothing left to do
    again = json.loads(capsys.readouterr().out)
    assert again["steps"] == 2 and again["text"] == result["text"] and again["task"] == result["task"]
    assert run_command("demo", "--resume") == 2 and "--out" in capsys.readouterr().err
    assert free_folder() == Path("runs/demo-2")  # a second run would not overwrite the first
    summary = report(result)
    assert "held-out text" in summary and f"of 5 addition problems right ({result['task']['share']:.1%})" in summary


def test_train_command_resumes(tmp_path, capsys, short_text):
    options = ["--steps", "4", "--save-every", "2", "--text-rows", "2", "--task-rows", "2", "--seq", "16", "--json"]
    assert run_command("train", "--out", str(tmp_path / "whole"), *options) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["done"] and whole["step"] == 4 and whole["eval"]["text"] > 0
    assert run_command("train", "--out", str(tmp_path / "whole"), *options) == 2  # not overwritten
    assert "resume" in capsys.readouterr().err
    assert run_command("train", "--out", str(tmp_path / "whole"), *options, "--resume", "--task", "modchain") == 2
    assert "data" in capsys.readouterr().err
    assert run_command("train", "--out", str(tmp_path / "whole"), *options, "--resume") == 0  # nothing left to do
    assert json.loads(capsys.readouterr().out)["loss"] == whole["loss"]
    assert run_command("train", "--out", str(tmp_path / "none"), "--text-rows", "0", "--task-rows", "0") == 2
    assert "nothing to learn" in capsys.readouterr().err


def test_nano_has_the_vocabulary_of_its_tokenizer():
    nano = mz.ZayaConfig.preset("nano")
    assert (nano.vocab_size, nano.pad_token_id, nano.bos_token_id, nano.eos_token_id) == (
        TOKENIZER.vocab_size, TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id)


# ---- steps with nothing to score, parameters without a gradient ------------------------------------------------------


def unscored(batch, name="empty"):
    return Batch(name, batch.inputs, torch.full_like(batch.targets, IGNORE), batch.valid, batch.doc_ids)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_micro_batch_without_targets_moves_no_weight_and_has_no_loss(place):
    with_empty, without = tiny_trainer(), tiny_trainer()
    sources = tiny_sources()

    def batches(step):
        found = sources(step)
        return [*found[:place], unscored(found[0]), *found[place:]]

    with_empty.batches = batches
    mine, theirs = with_empty.train_step(), without.train_step()
    assert "loss_empty" not in mine and mine["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    json.loads(json.dumps(mine, allow_nan=False))


@pytest.mark.parametrize("nothing", ["no batches", "one", "two of one name"])
def test_a_step_without_targets_is_refused_before_anything_moves(nothing, tmp_path):
    trainer, batch = tiny_trainer(tmp_path / "run"), tiny_sources()(0)[0]
    before = {name: p.clone() for name, p in trainer.model.state_dict().items()}
    trainer.batches = lambda step: [unscored(batch)] * {"no batches": 0, "one": 1, "two of one name": 2}[nothing]
    with pytest.raises(ValueError, match="at least one target a step, got none at step 0"):
        trainer.train(bar=False)
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.state_dict().items())
    assert (trainer.step, trainer.tokens, trainer.records) == (0, 0, [])
    assert named_state(trainer.model, trainer.optimizer) == {}


def test_padding_alone_has_no_load():
    trainer, batch = tiny_trainer(), tiny_sources()(0)[0]
    trainer.batches = lambda step: [Batch("text", batch.inputs, batch.targets, torch.zeros_like(batch.inputs).bool())]
    before = mz.balance.get_biases(trainer.model)
    record = trainer.train_step()
    json.dumps(record, allow_nan=False)
    assert torch.equal(mz.balance.get_biases(trainer.model), before) and record["tokens"] == 0


def test_tokens_that_skip_count_in_the_load(monkeypatch):
    """A fraction of all tokens: what is skipped is missing from the sum, layer by layer, and padding counts nowhere."""
    trainer, seen, routes = tiny_trainer(), [], []
    text_batch, task_batch = tiny_sources()(0)
    trainer.batches = lambda step: [text_batch, task_batch]
    for layer, bias in zip(trainer.model.layers, (0.0, 5.0)):
        layer.router.balancing_bias[-1] = bias
    forward, update = trainer.model.forward, trainer.balancer.update
    monkeypatch.setattr(trainer.model, "forward",
                        lambda *args, **more: [out := forward(*args, **more), routes.append(out.routes)][0])
    monkeypatch.setattr(trainer.balancer, "update", lambda load: seen.append(load.clone()) or update(load))
    trainer.train_step()
    valid = torch.cat([torch.ones_like(text_batch.inputs).bool().flatten(), task_batch.valid.flatten()])
    chosen = torch.cat([found.flatten(0, 1) for found in routes])[valid]
    experts = trainer.model.config.num_experts
    wanted = torch.stack([(chosen == expert).double().mean(0) for expert in range(experts)], 1)
    assert torch.allclose(seen[0].double(), wanted, atol=1e-6)
    assert 0 < float(wanted[0].sum()) < 1 and float(wanted[1].sum()) == 0, wanted


@pytest.mark.parametrize("until, steps", [(0, 0), (1, 1), (None, 3), (3, 3), (9, 3)])
def test_until_is_where_training_stops(until, steps, tmp_path):
    trainer = tiny_trainer(tmp_path / "run", steps=3)
    assert trainer.train(until=until, bar=False) == (steps == 3)
    assert trainer.step == steps and checkpoint.read_info(checkpoint.latest(tmp_path / "run"))["step"] == steps
    again = tiny_trainer(tmp_path / "run", steps=3, resume=True)
    again.train(until=0, bar=False)
    assert again.step == steps


@pytest.mark.parametrize("name", ["until", "eval_every", "save_every"])
def test_negative_steps_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 0, got -1"):
        tiny_trainer().train(**{name: -1}, bar=False)


@pytest.mark.parametrize("wrong", [2.5, True, "2", float("nan")])
def test_a_number_of_steps_is_an_integer(wrong):
    """Half a step is not rounded, and NaN does not train for ever."""
    for name in ("until", "eval_every", "save_every"):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 0, got {wrong!r}"):
            tiny_trainer(steps=2).train(bar=False, **{name: wrong})
    for make in (lambda rows: task_source("copy", 1, TOKENIZER, rows, 0),
                 lambda rows: packed_source("p", None, rows, 9, 0, 0), lambda rows: text_source(range(9), rows, 2, 0)):
        with pytest.raises(ValueError, match=f"(rows|batch) must be an integer of at least 1, got {wrong!r}"):
            make(wrong)
    with pytest.raises(ValueError, match=f"capacity must be an integer of at least 1, got {wrong!r}"):
        packed_source("p", None, 1, wrong, 0, 0)
    with pytest.raises(ValueError, match=f"seq must be an integer of at least 1, got {wrong!r}"):
        text_source(range(9), 1, wrong, 0)


def test_a_step_has_gradients_wherever_it_is_called():
    found = []
    for usual in (True, False):
        trainer = tiny_trainer(steps=2)
        with torch.set_grad_enabled(usual):
            found.append(trainer.train_step()["loss"])
            assert torch.is_grad_enabled() == usual
        found.append([p.detach().clone() for p in trainer.model.parameters()])
    assert found[0] == found[2] and all(map(torch.equal, found[1], found[3]))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("frozen", [("norm.weight",), ("layers.0.", "embed")])
def test_a_parameter_without_a_gradient_yet_comes_back(tmp_path, optimizer, frozen):
    """Stopped while some parameters are frozen, a run goes on as the unstopped one, also after they have thawed."""
    def thaw(model, on):
        for name, p in model.named_parameters():
            p.requires_grad_(on or not name.startswith(frozen))
        return model

    def begun(run):
        trainer = tiny_trainer(run, optimizer=optimizer)
        thaw(trainer.model, False)
        trainer.train(until=2, bar=False)
        thaw(trainer.model, True)
        return trainer

    whole = begun(None)
    begun(tmp_path / "run")
    second = tiny_trainer(tmp_path / "run", resume=True, model=tiny_model(seed=4), optimizer=optimizer)
    for trainer in (whole, second):
        trainer.train(until=4, bar=False)
    assert losses(whole) == losses(second)
    for name, p in whole.model.state_dict().items():
        assert torch.equal(p, second.model.state_dict()[name]), name


def test_lost_memory_is_not_taken_for_a_parameter_without_a_gradient(saved):
    _, folder = saved
    tensors = checkpoint.read_tensors(folder / "optimizer.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("optimizer/norm.weight/")}
    (folder / "optimizer.safetensors").write_bytes(checkpoint.safetensors().save(kept))
    with pytest.raises(ValueError, match="misses 1 parameters.*norm.weight"):
        tiny_trainer(folder.parent, resume=True)


def test_the_reference_experts_may_skip_a_whole_layer(tmp_path):
    """With the plain loop, an expert that no token visits has no gradient: a checkpoint holds what there is."""
    def plain():
        return mz.Zaya(tiny_model().config, backend="reference")

    trainer = tiny_trainer(tmp_path / "run", model=plain())
    trainer.model.layers[1].router.balancing_bias[-1] = 5.0
    trainer.train(until=2, bar=False)
    assert checkpoint.read_info(checkpoint.latest(tmp_path / "run"))["without_memory"]
    again = tiny_trainer(tmp_path / "run", model=plain(), resume=True)
    again.train(until=3, bar=False)
    assert again.step == 3


# ---- the log, the model's device, settings without effect -----------------------------------------------------------


def test_no_file_stays_open_after_a_run(tmp_path):
    trainer = tiny_trainer(tmp_path / "run")
    trainer.train(until=2, save_every=1, bar=False)
    if Path("/proc/self/fd").is_dir():
        held = [os.readlink(f) for f in Path("/proc/self/fd").iterdir() if f.is_symlink()]
        assert not [name for name in held if name.startswith(str(tmp_path))]
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


def test_batches_are_moved_to_the_models_device(monkeypatch):
    trainer, asked = tiny_trainer(), []
    moved = Batch.to
    monkeypatch.setattr(Batch, "to", lambda self, device: asked.append((self.name, device)) or moved(self, device))
    trainer.train_step()
    assert asked == [("text", torch.device("cpu")), ("task", torch.device("cpu"))]


@pytest.mark.parametrize("valid, docs", [(None, None), (True, None), (True, True)])
def test_a_batch_moves_whole(valid, docs):
    x = torch.ones(2, 3, dtype=torch.int64)
    batch = Batch("x", x, x, x.bool() if valid else None, x if docs else None).to(torch.device("meta"))
    tensors = (batch.inputs, batch.targets, batch.valid, batch.doc_ids)
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}
    assert (batch.valid is None, batch.doc_ids is None) == (valid is None, docs is None)


@pytest.mark.parametrize("field, wrong, says", [
    ("targets", torch.ones(2, 7, dtype=torch.int64), r"targets must have the shape of inputs, \(2, 8\), got \(2, 7\)"),
    ("targets", torch.ones(8, 2, dtype=torch.int64), r"targets must have the shape of inputs"),
    ("targets", torch.ones(2, 8, dtype=torch.int32), r"targets must be int64 \(2, 8\), as inputs, got torch.int32"),
    ("targets", torch.full((2, 8), -1), r"targets must lie in 0..\d+ or be -100, got -1..-1"),
    ("targets", torch.full((2, 8), 10**6), r"targets must lie in 0..\d+ or be -100, got 1000000"),
    ("valid", torch.ones(2, 9, dtype=torch.bool), "valid must have the shape of inputs"),
    ("valid", torch.ones(2, 8, dtype=torch.int64), "valid must be bool, got torch.int64"),
    ("doc_ids", torch.ones(1, 8, dtype=torch.int64), "doc_ids must have the shape of inputs"),
])
@pytest.mark.parametrize("compiled", [None, False])
def test_a_batch_that_does_not_fit_together_is_refused(field, wrong, says, compiled):
    """On both paths, before anything is computed: loops would read past the end of targets that are too few."""
    ones = torch.ones(2, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match=says):
        batch = Batch("x", ones, **{"targets": ones, field: wrong})
        Trainer(tiny_model(), Recipe(steps=1), lambda step: [batch], compiled=compiled).train_step()


def test_momentum_without_muon_is_refused():
    with pytest.raises(ValueError, match="momentum is of Muon"):
        Recipe(steps=1, momentum=0.5)


def test_the_newest_checkpoint_has_the_largest_number(tmp_path):
    """As numbers, also where one has a digit more."""
    for name in ("checkpoint-99999999", "checkpoint-100000000", "checkpoint-00000007", "checkpoint-x", "writing-2" * 2):
        (tmp_path / name).mkdir()
    assert checkpoint.latest(tmp_path).name == "checkpoint-100000000"


def test_a_share_has_the_error_of_a_coin():
    found = evaluate.summary([(1, 4), (0, 8), (1, 6), (1, 3)])
    assert found == {"accuracy": 0.75, "stderr": round((0.75 * 0.25 / 4) ** 0.5, 4), "tokens": 5.2}


def test_the_facts_of_a_stage_are_those_of_its_log(tmp_path):
    (tmp_path / "1-a").mkdir()
    lines = [{"tokens": tokens, "tok_per_s": speed, "loss": loss}
             for tokens, speed, loss in ((600, 10.0, 3.0), (1800, 20.0, 2.75), (3000, 20.0, 2.5))]
    (tmp_path / "1-a" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = [{"stage": "1-a", "steps": 3, "tokens": 3000, "minutes": 3.0, "loss": 2.5}]
    assert zoo.stage_facts(tmp_path) == facts
    log = tmp_path / "2-rl" / "1-x" / "trainer" / "log.jsonl"     # one of reinforcement learning behind it
    log.parent.mkdir(parents=True)
    log.write_text('{"update": 1, "tokens": 50, "seconds": 60.0}\n{"stale": 2}\n'
                   '{"update": 2, "tokens": 70, "seconds": 93.0}\n')
    assert zoo.stage_facts(tmp_path) == [
        *facts, {"stage": "2-rl", "steps": 2, "tokens": 120, "minutes": 2.5, "loss": None}]


def test_a_published_checkpoint_holds_the_newest_weights_of_its_run(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    trainer = Trainer(tiny_model(), Recipe(steps=2), tiny_sources(), run=tmp_path / "run",
                      keep={"tokenizer": TOKENIZER.to_dict()})
    for steps in (1, 2):      # the second time over the first
        trainer.train(until=steps, bar=False)
        assert zoo.publish(tmp_path / "run", "mine", {"by": steps}) == tmp_path / "zoo" / "mine"
        info = json.loads((tmp_path / "zoo" / "mine" / "run.json").read_text())
        assert zoo.names() == ["mine"] and info["step"] == info["by"] == steps
        model, tokenizer = zoo.load("mine")
        assert all(torch.equal(tensor, trainer.model.state_dict()[name]) for name, tensor in model.state_dict().items())
        assert tokenizer.decode(tokenizer.encode("1+1")) == "1+1"
    held = tensors_of((tmp_path / "zoo" / "mine" / "model.safetensors").read_bytes())
    assert set(held) == set(checkpoint.model_state(trainer.model)), "no optimizer's memory"
    with pytest.raises(ValueError, match="run must be a folder with a checkpoint in it, got"):
        zoo.publish(tmp_path / "zoo", "other", {})


def test_a_bar_reaches_its_end(monkeypatch):
    bars = []

    class Bar(text_bar):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs | {"disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(loop, "tqdm", Bar)
    monkeypatch.setattr(generate, "tqdm", Bar)
    trainer = tiny_trainer(steps=2)
    trainer.train()
    generate.generate(trainer.model, [[1], [2], [3]], 4, rows=2)
    assert [(bar.n, bar.total) for bar in bars] == [(2, 2), (8, 8)]


def test_defaults_are_those_that_the_texts_state():
    """One update of each balancer with what nobody chose, and the climb of the learning rate."""
    load, error = torch.tensor([0.75, 0.25]), torch.tensor([0.25, -0.25])
    for balancer, step in ((balance.SignBalancer(2), 1e-3), (balance.AdamWBalancer(2), 1e-3),
                           (balance.PIDBalancer(2), 0.6 * 0.25)):
        # one AdamW step is lr whatever the error is, up to its eps of 1e-8 beside an error of 0.25
        torch.testing.assert_close(balancer.update(load), -step * error.sign(), rtol=1e-6, atol=0)
    recipe = Recipe(steps=200)
    rates = [learning_rate(step, 200, recipe.lr, recipe.warmup, recipe.final_share) for step in (0, 49, 50, 51)]
    assert rates[:3] == [5e-3 / 50, 5e-3, 5e-3] and rates[3] < 5e-3


@pytest.mark.parametrize("shown", [True, False])
def test_answers_are_written_in_batches_of_like_room(monkeypatch, shown):
    """At most `rows` at a time, the shortest first; each has its own room, and comes back in its place."""
    asked, bars = [], []

    def written(model, prompts, room, temperature, stop, seed):
        asked.append((len(prompts), room, temperature, seed))
        return [TOKENIZER.encode("x" * room)] * len(prompts)

    monkeypatch.setattr(evaluate, "generate", written)
    monkeypatch.setattr(evaluate, "tqdm", lambda batches, **settings: bars.append(settings) or batches)
    problems = tasks.problems("copy", "held_out", 2, 5, 0)
    found = evaluate.answers(None, TOKENIZER, problems, [9, 3, 7, 5, 1], 0.5, 4, rows=2, bar=shown)
    assert asked == [(2, 3, 0.5, 4), (2, 7, 0.5, 4), (1, 9, 0.5, 4)] and list(map(len, found)) == [9, 3, 7, 5, 1]
    assert bars == [dict(desc="solve", unit="batch", disable=not shown)]


def test_the_room_of_an_answer(monkeypatch):
    """Four tokens more than the longest solution where it must be right at once, half as long again in rollouts."""
    asked = []
    monkeypatch.setattr(evaluate, "answers", lambda model, tokenizer, problems, rooms, temperature, seed, **rest: (
        asked.append((set(rooms), temperature, seed, rest)) or [TOKENIZER.encode(p.completion) for p in problems]))
    problems = tasks.problems("countdown", "held_out", 3, 6, 0)
    right, texts = evaluate.solve(None, TOKENIZER, problems)
    longest = max(len(problem.completion) for problem in problems)
    assert asked == [({longest + 4}, 0.0, 0, {"rows": 128})] and right == [1] * 6 and len(set(texts)) == 6
    found = evaluate.accuracies(None, TOKENIZER, {"countdown": (3,)}, 6, temperature=0.7, seed=0)
    assert asked[1] == ({longest + longest // 2}, 0.7, 0, {}) and found["countdown"]["3"]["accuracy"] == 1.0
    assert found["countdown"]["3"]["tokens"] == round(sum(len(problem.completion) for problem in problems) / 6, 1)
