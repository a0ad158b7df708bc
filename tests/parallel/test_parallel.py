"""Several processes equal one, and a job that loses a rank says so once and goes on from its last checkpoint."""

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from minizaya import ZayaConfig
from minizaya import __main__ as cli
from minizaya.arch import balance
from minizaya.commands import parallel as run_parallel
from minizaya.commands import train as run_train
from minizaya.hub import zoo
from minizaya.native.fused import library
from minizaya.notebook import text_bar
from minizaya.parallel import launch, sharded_checkpoint
from minizaya.parallel.launch import LOST, RankFailed, run_job, verdict
from minizaya.parallel.layout import Layout, rows_of
from minizaya.parallel.trainer import ParallelTrainer
from minizaya.plan import memory
from minizaya.studies import equality
from minizaya.train.checkpoint import latest
from minizaya.train.loop import Recipe, Trainer
from minizaya.train.sources import mixture
from mutants import plant

ROOT = Path(__file__).resolve().parents[2]
PATHS = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
ENV = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"}
TIGHT = {"float64": 1e-9, "float32": 1e-4}
CASES = {   # in float32 layers go by fused loops, but for cp, where they cannot
    2: [(layout, load, "float64") for layout in ("dp2", "ep2", "cp2") for load in ("skewed", "half empty")]
    + [("ep2", "balanced", "float32"), ("dp2", "half empty", "float32"), ("cp2", "skewed", "float32")],
    4: [("ep4", "skewed", "float64"), ("ep4", "half empty", "float64"), ("dp2xep2", "skewed", "float64"),
        ("dp2xep2", "half empty", "float64"), ("cp4", "skewed", "float64"), ("ep2xcp2", "half empty", "float64")],
}
EVERY = [(ranks, *case) for ranks, cases in CASES.items() for case in cases]


@pytest.fixture(scope="module")
def measured():
    """(ranks, layout, load, dtype) -> differences; all layouts of one size in one job: starting is the slow part."""
    jobs = {ranks: run_job("parallel_jobs:equal", ranks, cases=cases) for ranks, cases in CASES.items()}
    return {(ranks, *case): [rank[i] for rank in jobs[ranks]]
            for ranks, cases in CASES.items() for i, case in enumerate(cases)}


# ---- equal to one process --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks, layout, load, dtype", EVERY, ids=["-".join(map(str, case)) for case in EVERY])
def test_a_layout_equals_one_process(ranks, layout, load, dtype, measured):
    """Loss, gradients, routes and weights over five optimizer steps with balancer updates."""
    for found in measured[ranks, layout, load, dtype]:
        assert found["routes"] == 0
        assert found["biases"] == 0
        for part in ("loss", "gradients", "weights"):
            assert found[part] <= TIGHT[dtype], (part, found)


def test_the_loads_are_what_their_names_say(measured):
    first = {load: measured[4, "ep4", load, "float64"][0]["tokens"] for load in ("skewed", "half empty")}
    for layer in first["skewed"]:
        assert layer[3] == 0 and layer[0] > sum(layer) / 2
    for layer in first["half empty"]:
        assert layer[2] == layer[3] == 0
    assert sum(layer[4] for layer in first["half empty"]) > 0, "some tokens are skipped"


# ---- planted bugs ----------------------------------------------------------------------------------------------------

FUSED = "native/fused/model.py"
CP, EP, ALL, TRAINER = (f"parallel/{name}.py" for name in ("context_parallel", "expert_parallel", "grid", "trainer"))
BUGS = [
    ("no halo", CP, "return carry(x, ctx.start, halo, ctx.start - lag, ctx.plan, group)", "return halo", "cp2"),
    ("the halo's gradient is dropped", CP,
     "return carry(gradient, ctx.start - ctx.lag, own, ctx.start, turned, ctx.group), None",
     "return own, None", "cp2"),
    ("a halo one token too short", CP, "max(starts[source], start - lag)",
     "max(starts[source], start - lag + (lag > 1))", "cp2"),
    ("no value from the rank before", CP, "return past, before[:, 0]", "return past, 0 * before[:, 0]", "cp2"),
    ("a document's first token takes the value of another rank's", "arch/cca.py", "before, place.position, nobody)",
     "before, place.position)", "cp2"),
    ("the halo crosses a document border", CP, "past = past * (self.own[:, :1] >= reach)[..., None]", "pass", "cp2"),
    ("attention crosses a document border", CP, "same & causal_mask(", "(same | True) & causal_mask(", "cp2"),
    ("a document's positions start anew on each rank", CP, "rope_angles(self.own, ",
     "rope_angles(self.own - self.own[:, :1], ", "cp2"),
    ("rotary positions start anew on each rank", "arch/attention.py", "rope_angles(queries if position",
     "rope_angles(queries - past if position", "cp2"),
    ("keys get their own rank's gradient only", CP, "dist.reduce_scatter(mine, parts, group=ctx.group)",
     "mine = parts[dist.get_rank(ctx.group)]", "cp2"),
    ("tokens of a chunk are counted twice", TRAINER, "for part in parts if grid.cp_rank == 0 else ():",
     "for part in parts:", "cp2"),
    ("tokens go to the wrong rank", EP, ".view(ranks, -1)", ".view(ranks, -1).flip(0)", "ep2"),
    ("received tokens are taken as they came", EP,
     "return torch.argsort(expert.flatten().repeat_interleave(counts.flatten()), stable=True)",
     "return torch.arange(int(counts.sum()))", "ep2"),
    ("no gradient through the all-to-all", EP, "return AllToAll.apply(gradient, ctx.got, ctx.sent, ctx.group), None",
     "return gradient.new_zeros(sum(ctx.sent), *gradient.shape[1:]), None", "ep2"),
    ("the gate's gradient is lost", EP, "* gates.flatten()[:, None]", "* gates.detach().flatten()[:, None]", "ep2"),
    ("gradients are averaged", ALL, "module.set_gradient_divide_factor(1.0)", "pass", "ep2"),
    ("experts average, the rest sums", ALL, "module.set_gradient_divide_factor(1.0)",
     "isinstance(module, ExpertParallel) or module.set_gradient_divide_factor(1.0)", "dp2"),
    ("a mean of the ranks' means", TRAINER, "(total / scored.sum()).backward()",
     "(total / (mine.targets != IGNORE).sum() / grid.layout.ranks).backward()", "dp2"),
    ("local balance statistics", TRAINER, "global_load(grid.sum(visits)[None])", "global_load(visits[None])", "dp2"),
    ("each rank clips by its own norm", ALL, "norm = float(grid.sum(squares).sqrt())",
     "norm = float(squares.sqrt())", "dp2"),
    # in float32, so by fused loops
    ("loops take received tokens as they came", EP, "repeat_interleave(counts.sum(0))[back]",
     "repeat_interleave(counts.sum(0))", "ep2 float32"),
    ("half of the gate's gradient is lost in loops", FUSED, "block.experts(x, routes, gates)",
     "block.experts(x, routes, (gates + gates.detach()) / 2)", "dp2 float32"),
]


@pytest.fixture(scope="module")
def damage(tmp_path_factory):
    """Bug -> differences."""
    folders = []
    for number, (_, file, old, new, layout) in enumerate(BUGS):
        folder = tmp_path_factory.mktemp(f"bug{number}")
        plant((file, old, new), folder)
        for source in (ROOT / "minizaya/native").rglob("*.cpp") if layout.endswith("float32") else ():
            (folder / source.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / source.relative_to(ROOT))   # without them the copy goes the plain way
        folders.append([str(folder), layout])
    return dict(zip((bug[0] for bug in BUGS), run_job("parallel_jobs:planted", 2, folders=folders)[0]))


@pytest.mark.parametrize("bug", BUGS, ids=[bug[0].replace(" ", "-") for bug in BUGS])
def test_a_planted_bug_is_seen(bug, damage):
    name, file, old, _, layout = bug
    if layout.endswith("float32") and library.library() is None:
        pytest.skip("no C++ compiler")
    near = TIGHT[layout.partition(" ")[2] or "float64"]
    assert (ROOT / "minizaya" / file).read_text().count(old) == 1, "the table must follow the code"
    found = damage[name]
    assert found["routes"] or any(not found[part] <= near for part in ("loss", "gradients", "weights", "biases")), name


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone():
    """Six steps in one process, uninterrupted."""
    trainer = Trainer(equality.tiny_model(), Recipe(steps=6, lr=0.02, warmup=2, balance_lr=0.05), equality.tiny_batches)
    trainer.train(bar=False)
    return trainer


def check_run(folder, alone):
    """A finished run equals the uninterrupted one: weights, biases, and every line of the log."""
    got = sharded_checkpoint.read_model(folder)
    assert sharded_checkpoint.read_info(latest(folder))["step"] == 6
    for (name, p), wanted in zip(got.named_parameters(), alone.model.parameters(), strict=True):
        assert float((p - wanted).detach().abs().max()) <= 1e-9, name
    assert torch.equal(balance.get_biases(got), balance.get_biases(alone.model))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line, wanted in zip(lines, alone.records):
        assert line["tokens"] == wanted["tokens"]
        assert line["loss"] == pytest.approx(wanted["loss"], abs=1e-9)
        assert line["load_entropy"] == pytest.approx(wanted["load_entropy"], abs=1e-6)


def test_saved_on_four_resumed_on_two_and_on_one(tmp_path, alone):
    first, second, third = (tmp_path / name for name in "abc")
    run_job("parallel_jobs:train", 4, runs=[[str(first), "dp2xep2"], [str(second), "cp4"]], steps=6, until=3)
    assert sharded_checkpoint.read_info(latest(first))["parts"] == 4
    shutil.copytree(first, third)
    run_job("parallel_jobs:train", 2, runs=[[str(first), "ep2"], [str(second), "dp2"]], steps=6)
    run_job("parallel_jobs:train", 1, runs=[[str(third), "dp1"]], steps=6)
    for folder in (first, second, third):
        check_run(folder, alone)


def test_who_holds_which_rows():
    """Every row is held once, whatever the layout; FSDP's pieces of 5 rows over 4 ranks are 2, 2, 1 and 0."""
    assert [rows_of("norm.weight", 5, Layout(dp=4), rank) for rank in range(4)] == [(0, 2), (2, 4), (4, 5), (5, 5)]
    for layout in (Layout(dp=3), Layout(ep=4), Layout(dp=2, ep=2), Layout(dp=3, ep=2, cp=2)):
        for name, count in (("embed.weight", 23), ("layers.0.experts.down_proj", 8),
                            ("layers.1.attention.temperature", 2)):
            rows = [row for rank in range(layout.ranks)
                    for row in range(*rows_of(name, count, layout, rank))]
            assert sorted(rows) == list(range(count))


def test_a_rank_holds_what_is_planned():
    """To the byte on the fullest rank; where pieces do not divide, others hold less, but have room for as much."""
    cases = [("dp2", 4), ("ep2", 4), ("cp2", 4), ("cp2", 1)]   # the last: one expert for two ranks
    ranks = run_job("parallel_jobs:held", 2, cases=cases)
    for (layout, experts), *found in zip(cases, *ranks, strict=True):
        config = equality.tiny_model(num_experts=experts, load=None).config
        planned = memory.training_memory(config, 1, 12, "float32", layout=Layout.parse(layout))
        for part in ("weights", "gradients", "optimizer"):
            assert found[0][part] == max(rank[part] for rank in found) == planned[part], (layout, experts, part)
        assert len({rank["weights"] for rank in found}) == 1


def test_a_chunk_keeps_everybodys_keys_and_a_mask():
    """On the last rank of cp, which the plan is about; the others see less."""
    config, length = ZayaConfig.preset("nano"), 256
    found = run_job("parallel_jobs:kept_for_backward", 2, length=length)
    planned = memory.training_memory(config, 2, length, "float32", layout=Layout(cp=2))["activations"]
    assert found[0] < found[1] == pytest.approx(planned, rel=0.01)


def test_damaged_checkpoints_are_named(tmp_path, alone):
    folder = tmp_path / "run"
    run_job("parallel_jobs:train", 1, runs=[[str(folder), "dp1"]], steps=6, until=1)
    (whole,) = folder.glob("checkpoint-*")
    sharded_checkpoint.read_model(whole)

    def damaged(change):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        change(copy)
        return copy

    def cut(copy):
        part = copy / sharded_checkpoint.part_name(0, 1)
        part.write_bytes(part.read_bytes()[:-100])

    def edit(**changes):
        def change(copy):
            document = json.loads((copy / "run.json").read_text())
            (copy / "run.json").write_text(json.dumps(document | changes))
        return change

    def lose_rows(copy):
        document = json.loads((copy / "run.json").read_text())
        document["tensors"]["model/embed.weight"]["pieces"] = [[0, 0, 9], [0, 12, 23]]
        (copy / "run.json").write_text(json.dumps(document))

    for change, error, words in (
            (cut, ValueError, "damaged"), (edit(format="other"), ValueError, "format"),
            (edit(parts=2), FileNotFoundError, "not whole"), (lose_rows, ValueError, "row 9 of"),
            (lambda copy: (copy / "run.json").write_text("{"), ValueError, "damaged"),
            (lambda copy: (copy / "run.json").unlink(), FileNotFoundError, "missing")):
        with pytest.raises(error, match=words):
            sharded_checkpoint.read_model(damaged(change))
    (folder / "log.jsonl").write_bytes(b"")
    with pytest.raises(RankFailed, match="log.jsonl is shorter than when"):
        run_job("parallel_jobs:train", 1, runs=[[str(folder), "dp1"]], steps=6)


# ---- a rank is lost --------------------------------------------------------------------------------------------------


def test_a_rank_killed_while_it_saves(tmp_path, alone):
    """One error that names it, within 30 seconds; the checkpoint before is whole; another layout goes on from it."""
    folder = tmp_path / "run"
    with pytest.raises(RankFailed, match="rank 1 was ended by SIGKILL") as caught:
        run_job("parallel_jobs:train", 2, runs=[[str(folder), "ep2"]], steps=6, save_every=2, die=[1, "save", 3])
    assert time.time() - (folder / "left").stat().st_mtime < 30
    assert caught.value.rank == 1
    assert latest(folder).name == "checkpoint-00000002"
    assert (folder / "writing-00000004").is_dir(), "the save was under way"
    run_job("parallel_jobs:train", 2, runs=[[str(folder), "cp2"]], steps=6, save_every=2)
    check_run(folder, alone)
    assert not list(folder.glob("writing-*"))


def test_a_rank_that_does_not_answer(tmp_path):
    with pytest.raises(RankFailed, match="rank 0 did not answer the others in time"):
        run_job("parallel_jobs:train", 2, timeout=8, runs=[[str(tmp_path), "dp2"]], steps=6, die=[0, "hang", 2])
    assert time.time() - (tmp_path / "left").stat().st_mtime < 30


def test_a_rank_that_raises():
    with pytest.raises(RankFailed, match="rank 1 failed: RuntimeError: the disk of rank one is on fire") as caught:
        run_job("parallel_jobs:whisper", 2)
    assert caught.value.rank == 1 and caught.value.code == 1


def test_the_verdict_knows_cause_from_effect(tmp_path):
    (tmp_path / "rank-2.log").write_text("first\nValueError: no\n\n")
    assert verdict([LOST, LOST, -signal.SIGKILL, None], tmp_path).rank == 2
    assert str(verdict([LOST, None, 1], tmp_path)) == "rank 2 failed: ValueError: no"
    assert verdict([LOST, None, LOST], tmp_path).rank == 1


def worker(parent, rank):
    """The process id of a rank among the descendants of a process, or None."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = path.read_bytes().split(b"\0")
            stat = path.parent.joinpath("stat").read_text()
            parents = {int(path.parent.name), int(stat.rsplit(")", 1)[1].split()[1])}
            command = path.parent.joinpath("cmdline").read_bytes()
        except OSError:
            continue
        if f"RANK={rank}".encode() in words and parent in parents and b"minizaya" in command:
            return int(path.parent.name)
    return None


FLAGS = ["--layout", "ep2", "--steps", "9", "--seq", "17", "--text-rows", "3", "--task-rows", "3", "--save-every", "2"]


STARTERS = {"torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "minizaya", "parallel"],
            "minizaya": ["-m", "minizaya", "parallel"]}


@pytest.mark.parametrize("starter", list(STARTERS))
def test_the_command_survives_a_kill(tmp_path, starter):
    if not Path("/proc").is_dir():
        pytest.skip("finds the rank to kill in /proc")
    folder = tmp_path / "run"
    command = [sys.executable, *STARTERS[starter], *FLAGS, "--out", str(folder)]
    job = subprocess.Popen(command, env=ENV, stderr=subprocess.PIPE, text=True)
    log = folder / "log.jsonl"
    while job.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        time.sleep(0.02)
    victim = worker(job.pid, 1)
    assert victim, job.stderr.read()[-3000:]
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    said = job.communicate(timeout=60)[1]
    assert time.monotonic() - began < 30
    assert job.returncode == 1
    if starter == "torchrun":
        # torchrun's own report; the rank that is left says nothing
        _, cause = said.split("Root Cause")
        assert "rank      : 1" in cause and "Signal 9 (SIGKILL)" in cause
        assert "minizaya parallel" not in said and "[rank0]" not in said
    else:
        (line,) = [line for line in said.splitlines() if line.startswith("minizaya")]
        assert "rank 1 was ended by SIGKILL" in line and str(latest(folder)) in line and "--resume" in line
        assert "Traceback" not in said
    assert sharded_checkpoint.read_info(latest(folder))["step"] >= 2
    if starter == "minizaya":
        return
    done = subprocess.run([*command, "--resume", "--json"], env=ENV, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    assert figures["done"] and figures["step"] == 9 and figures["layout"] == "ep2"
    assert set(figures["sent_in_one_step"]) >= {"experts, all-to-all", "weights, gather", "weights, gradient", "sums"}

    parser = argparse.ArgumentParser()
    run_train.add_arguments(parser)
    args = parser.parse_args([*FLAGS[2:], "--out", "unused"])
    tokenizer, train_text, _ = run_train.material(args)
    alone = Trainer(run_train.fresh_model(args, tokenizer), Recipe(steps=9),
                    mixture(*run_train.sources(args, tokenizer, train_text)))
    alone.train(bar=False)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))
    for line, wanted in zip(lines, alone.records):
        assert line["loss"] == pytest.approx(wanted["loss"], rel=1e-4)


def minizaya_lines(*words):
    """The exit code of `python -m minizaya parallel`, and the lines in which it complains."""
    done = subprocess.run([sys.executable, "-m", "minizaya", "parallel", *words], env=ENV, capture_output=True,
                          text=True, timeout=120)
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("minizaya")]


def test_what_one_rank_alone_finds_wrong_is_said(tmp_path):
    """Rank 1 reads part 1. Its complaint is the job's, once."""
    folder = tmp_path / "run"
    words = [*FLAGS, "--steps", "2", "--out", str(folder)]
    assert minizaya_lines(*words) == (0, [])
    part = latest(folder) / sharded_checkpoint.part_name(1, 2)
    part.write_bytes(part.read_bytes()[:-100])
    code, (line,) = minizaya_lines(*words, "--resume")
    assert code == 2 and "rank 1 failed: ValueError: " in line and f"{part} is damaged" in line


def test_wrong_flags_are_said_once(tmp_path):
    """A zero arrives as a zero; and all ranks find the same, but one line is enough."""
    words = [word if before not in ("--text-rows", "--task-rows") else "0" for before, word in zip(["", *FLAGS], FLAGS)]
    del words[words.index("--seq"): words.index("--seq") + 2]      # it would have no effect, which is said first
    code, (line,) = minizaya_lines(*words, "--out", str(tmp_path / "run"))
    assert code == 2 and line == "minizaya parallel: nothing to learn: --text-rows and --task-rows are both 0"
    for seconds in ("0", "-1", "nan", "inf"):
        with pytest.raises(ValueError, match="--timeout must be above 0 seconds, got"):
            run_parallel.run(parser_of().parse_args([*FLAGS, "--out", str(tmp_path / "run"), f"--timeout={seconds}"]))


def parser_of():
    parser = argparse.ArgumentParser()
    run_parallel.add_arguments(parser)
    return parser


@pytest.mark.parametrize("words", [
    [], ["--text-rows", "0"],
    ["--task-rows", "0", "--save-every", "0", "--difficulty", "0", "--lr", "0", "--seed", "0", "--steps", "0"],
    ["--seed", "-1", "--resume", "--json"], ["--text-file", "a b.txt", "--task", "parity", "--timeout", "0"]], ids=str)
def test_the_ranks_get_the_flags_as_given(words):
    parser = parser_of()
    args = parser.parse_args(["--layout", "dp2", "--out=-odd name", *words])
    there = json.loads(json.dumps(run_parallel.to_json(args)))
    assert run_parallel.from_json(there) == args


def test_help_promises_what_is_there():
    said = " ".join(parser_of().format_help().split())
    assert said.count("--out OUT") == 2 and "log, picture" not in said and "no picture is drawn" in said
    assert "{adamw" not in said and "AdamW only" in said


def test_the_command_stops_at_ctrl_c(tmp_path):
    """All ranks after the same step, with a checkpoint of it."""
    folder = tmp_path / "run"
    flags = ["9000" if word == "9" else word for word in FLAGS]
    job = subprocess.Popen([sys.executable, "-m", "minizaya", "parallel", *flags, "--out", str(folder)], env=ENV,
                           stderr=subprocess.PIPE, text=True)
    log = folder / "log.jsonl"
    while job.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        time.sleep(0.02)
    job.send_signal(signal.SIGINT)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 130 and "Traceback" not in said
    assert sharded_checkpoint.read_info(latest(folder))["step"] == len(log.read_text().splitlines())
    # what several processes have trained, one can use; but not train on
    model, tokenizer = zoo.open_model(str(folder))
    same = sharded_checkpoint.read_model(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values()))
    assert tokenizer.decode(tokenizer.encode("17+25=")) == "17+25="
    assert cli.main(["sample", "--checkpoint", str(folder), "--prompt", "1+1=", "--max-new-tokens", "3"]) == 0
    theirs = "belongs to a run of `python -m minizaya parallel`; this reads those of `train`"
    with pytest.raises(ValueError, match=theirs):
        Trainer(equality.tiny_model(), Recipe(steps=9), equality.tiny_batches, folder, resume=True)


def gone(pid):
    """Has this process ended? One that nobody has buried yet has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("starter", list(STARTERS))
def test_ranks_go_with_their_launcher(tmp_path, starter):
    """Or they would train on, unseen, and write beside whoever resumes the run."""
    if not Path("/proc").is_dir():
        pytest.skip("finds the ranks in /proc")
    folder = tmp_path / "run"
    flags = ["9000" if word == "9" else word for word in FLAGS]
    job = subprocess.Popen([sys.executable, *STARTERS[starter], *flags, "--out", str(folder)], env=ENV,
                           stderr=subprocess.DEVNULL)
    log = folder / "log.jsonl"
    while job.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) >= 2):
        time.sleep(0.02)
    ranks = [worker(job.pid, rank) for rank in (0, 1)]
    assert all(ranks)
    job.kill()
    job.wait(timeout=20)
    began = time.monotonic()
    while not all(map(gone, ranks)) and time.monotonic() - began < 20:
        time.sleep(0.05)
    took = time.monotonic() - began
    for rank in ranks:
        if not gone(rank):
            os.kill(rank, signal.SIGKILL)
    assert took < 5


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, words", [
    ("tp2", "2 KV heads"), ("dp2xtp4", "2 KV heads"), ("dp0", "at least 1"), ("four", "dp2xep2"),
    ("dp2xdp2", "once each"), ("", "dp2xep2")])
def test_layouts_that_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        Layout.parse(text)


def test_layouts_are_read_and_written():
    assert Layout.parse("DP2xEP4") == Layout(dp=2, ep=4) and Layout.parse("dp2xep4").ranks == 8
    assert [str(Layout.parse(text)) for text in ("cp2xdp3", "ep1", "ep2")] == ["dp3xcp2", "dp1", "ep2"]


def test_what_cannot_be_is_said():
    said = run_job("parallel_jobs:refusals", 2)
    for message, words in zip(said[0], ("wants 3 ranks", "divide num_experts", "whole matrices", "cp 2 and 1 tokens",
                                        "attention_bias", "No space left on device", "with cp a rank does not",
                                        "its weights are not float32"), strict=True):
        assert words in message
    assert said[0][5] == said[1][5], "all ranks know why one of them could not write"


# ---- bars ------------------------------------------------------------------------------------------------------------


def bars(monkeypatch, module):
    """Every bar that the module makes, shown nowhere; `off`: whether it asked not to be."""
    made = []

    class Bar(text_bar):
        def __init__(self, *args, **settings):
            self.off, self.said = settings.pop("disable", False), []
            super().__init__(*args, **settings, file=io.StringIO())
            made.append(self)

        def set_postfix(self, **figures):
            self.said.append(figures)

    monkeypatch.setattr(module, "tqdm", Bar)
    return made


@pytest.mark.parametrize("rank, bar, shown", [(0, True, True), (0, False, False), (1, True, False)])
def test_the_first_rank_has_a_bar_that_reaches_its_end(monkeypatch, rank, bar, shown):
    """From the step that the run was at; checkpoints where they are due, and at the end."""
    trainer, saved, watched = object.__new__(ParallelTrainer), [], []
    trainer.grid, trainer.recipe = SimpleNamespace(rank=rank), Recipe(steps=5, warmup=1)
    trainer.step, trainer.stop, trainer.run_folder, trainer.saved_step, trainer.lock = 1, False, None, -1, nullcontext()
    trainer.save, trainer.log = (lambda: saved.append(trainer.step)), (lambda record: None)

    def train_step(asked):
        trainer.step += 1
        return {"loss": 0.12345, "tok_per_s": 9.6}

    trainer.train_step = train_step
    found = bars(monkeypatch, sys.modules[ParallelTrainer.__module__])
    assert trainer.train(save_every=2, bar=bar, watch=watched.append)
    line, = found
    assert (line.initial, line.n, line.total, line.desc, line.unit, not line.off) == (1, 5, 5, "train", "step", shown)
    assert line.said == [dict(loss="0.123", tok_s="10", refresh=False)] * 4 == [dict(loss="0.123", tok_s="10",
                                                                                    refresh=False)] * len(watched)
    assert saved == [2, 4, 5]


@pytest.mark.parametrize("foreground, notebook, shown", [
    (False, True, True), (True, True, False), (False, False, False)])
def test_in_a_notebook_a_bar_counts_the_processes_that_are_done(monkeypatch, tmp_path, foreground, notebook, shown):
    found = bars(monkeypatch, launch)
    monkeypatch.setattr(launch, "in_notebook", lambda: notebook)
    monkeypatch.setattr(launch, "end_all", lambda processes: None)
    ends = [iter([None, 0, 0, 0]), iter([None, None, 0, 0])]
    processes = [SimpleNamespace(poll=lambda codes=codes: next(codes, 0)) for codes in ends]
    launch.wait(processes, tmp_path, 60, foreground)
    line, = found
    assert (line.total, line.n, line.desc, not line.off) == (2, 2, "processes done", shown)
