"""Every flag of every command is used, or refused where the others leave it without effect."""

import argparse
import ast
import importlib
import inspect
import math
import re
from pathlib import Path

import pytest

import minizaya.__main__ as cli
from minizaya.commands.shared import flags
from minizaya.grading.judge import Limits

REASONER = ["--model", "nano-reasoner"]
TRAIN = [(["--text-rows", "0", "--seq", "64"], "seq has no effect with --text-rows 0, got '64'"),
         (["--text-rows", "0", "--text-file", "x"], "text_file has no effect with --text-rows 0, got 'x'"),
         (["--task-rows", "0", "--task", "copy"], "task has no effect with --task-rows 0"),
         (["--task-rows", "0", "--difficulty", "4"], "difficulty has no effect with --task-rows 0")]
TABLE = [(["--table", *flag], f"{flag[0][2:]} has no effect with --table") for flag in (
    ["--out", "x"], ["--resume"], ["--share", "0.5"], ["--seed", "1"], ["--publish", "x"], ["--device", "cpu"])]
ASK_HERE = ["--questions", "x", "--model", "nano-reasoner"]
ASK_THERE = ["--questions", "x", "--endpoint", "u", "--model-name", "m"]
IDLE = {  # command -> (flags, what is said): each flag beside others that leave it without effect
    "train": [(["--out", "x", *flags], says) for flags, says in TRAIN],
    "stages": [*TABLE, (["--table", "--sheets"], "sheets has no effect with --table"),
               (["--out", "x", "--problems", "9"], "problems has no effect without --publish"),
               (["--table", "--problems", "9"], "problems has no effect without --publish")],
    "cascade": [*TABLE, (["--table", "--problems", "9"], "problems has no effect with --table"),
                (["--table", "--processes", "1"], "processes has no effect with --table"),
                (["--table", "--model", "x"], "model has no effect with --table")],
    "demo": [(["--resume"], "--resume needs --out")],
    "solve": [([*REASONER, "--setting", "tight"], "setting has no effect without"),
              ([*REASONER, "--exam"], "exam has no effect without"),
              ([*REASONER, "--compare", "--exam", "--setting", "tight"], "give one of --exam and --setting"),
              ([*REASONER, "--compare", "--sweep"], "give one of --compare and --sweep"),
              ([*REASONER, "--compare", "--task", "copy"], "task has no effect with --compare"),
              ([*REASONER, "--sweep", "--task", "copy", "--difficulty", "3"], "task has no effect with --sweep"),
              ([*REASONER, "--difficulty", "3"], "difficulty needs a task"),
              ([*REASONER, "--sweep", "--temperature", "0"], "temperature has no effect with --sweep")],
    "serve": [(["--int8"], "int8 has no effect without --weights"),
              (["--dtype", "bfloat16"], "dtype has no effect without --weights"),
              (["--weights", "x", "--model", "y"], "model has no effect with --weights, got 'y'")],
    "sample": [(["--checkpoint", "x", "--prompt", "a", *flags], says) for flags, says in (
        (["--int8"], "int8 has no effect without --weights"),
        (["--dtype", "bfloat16"], "dtype has no effect without --weights"),
        (["--raw"], "raw has no effect without --weights"),
        (["--temperature", "0", "--top-p", "0.5"], "top_p has no effect at temperature 0"),
        (["--temperature", "0", "--min-p", "0.5"], "min_p has no effect at temperature 0"),
        (["--temperature", "0", "--seed", "5"], "seed has no effect at temperature 0"))],
    "bench": [(["--int8"], "int8 has no effect without --full"), (["--no-peer"], "no_peer has no effect without"),
              (["--dtype", "bfloat16"], "dtype has no effect without --full"),
              (["--full", "nowhere", "--growth", "x.png"], "growth has no effect with --full"),
              (["--growth", "x.png", "--device", "cuda"], "--growth decodes on the CPU"),
              (["--full", "nowhere", "--device", "cuda"], "paged from disk, which runs on the CPU")],
    "kernels": [(["--ladder", "gemm", "--trace"], "trace has no effect with --ladder"),
                (["--ladder", "gemm", "--explain", "x"], "explain has no effect with --ladder"),
                (["moe", "--ladder", "gemm"], "name has no effect with --ladder"),
                (["--figure", "x.png"], "figure has no effect without the name of one kernel"),
                (["--explain", "x", "--trace"], "trace has no effect with --explain"),
                (["moe", "--explain", "x"], "name has no effect with --explain")],
    "lessons": [(["--without-answers", "x", "--seconds", "9"], "seconds has no effect with --without-answers"),
                (["--without-answers", "x", "--check"], "check has no effect with --without-answers"),
                (["--without-answers", "x", "--reset", "04"], "reset has no effect with --without-answers"),
                (["--nbgrader", "x", "--without-answers", "x"], "without_answers has no effect with --nbgrader"),
                (["--nbgrader", "x", "--seconds", "9"], "seconds has no effect with --nbgrader"),
                (["--reset", "04", "--check"], "check has no effect with --reset"),
                (["--reset", "04", "--seconds", "9"], "seconds has no effect with --reset"),
                (["--without-answers", "x", "--slides", "01_moe"], "slides has no effect with --without-answers"),
                (["--reset", "04", "--slides", "01_moe"], "slides has no effect with --reset"),
                (["--book", "x", "--slides", "01_moe"], "slides has no effect with --book"),
                (["--only", "01"], "--only needs --book"),
                (["--slides", "01_moe", "--check"], "check has no effect with --slides"),
                (["--check", "--seconds", "9"], "seconds has no effect with --check")],
    "laws": [(["cca", *flags], f"{flags[0][2:]} has no effect without --run") for flags in (
        ["--numpy"], ["--examples", "9"], ["--seed", "1"], ["--tol", "1"], ["--dtype", "float32"],
        ["--device", "cpu"])],
    "leaderboard": [(["--baseline", "x"], "board has no effect with --baseline"),
                    (["--baseline", "--add", "x"], "add has no effect with --baseline"),
                    (["x", "--seed", "y"], "seed has no effect without --add or --baseline")],
    "evaluate": [*[([*ASK_HERE, *flag], f"{flag[0][2:].replace('-', '_')} has no effect with --model") for flag in (
                     ["--model-name", "y"], ["--tokenizer", "y"], ["--raw"], ["--key-from", "y"])],
                 ([*ASK_THERE, "--device", "cpu"], "device has no effect with --endpoint"),
                 ([*ASK_THERE, "--tokenizer", "y"], "tokenizer has no effect with --method single"),
                 ([*ASK_HERE, "--rsa", "report"], "rsa has no effect with --method single"),
                 ([*ASK_HERE, "--method", "markovian_rsa", "--samples", "3"], "samples has no effect with --method"),
                 ([*ASK_HERE, "--method", "markovian_rsa", "--max-tokens", "3"], "max_tokens has no effect with"),
                 ([*ASK_HERE, "--benchmark", "y"], "benchmark has no effect without --figure"),
                 ([*ASK_HERE, "--resume"], "resume has no effect without --out")],
    "parallel": [],  # those of train, which it reads by train's own functions
}
USED = {  # the flags that no other flag leaves without effect
    "train": "out resume preset steps lr optimizer text_rows task_rows save_every seed device json",
    "stages": "table json", "cascade": "table json", "demo": "out seed steps json",
    "solve": "model problems seed compare sweep device json", "serve": "weights host port slots size format",
    "sample": "checkpoint weights prompt max_new_tokens temperature stop json", "bench": "pairs seed full json",
    "kernels": "name build trace explain json", "doctor": "weights json",
    "lessons": "folder without_answers nbgrader json",
    "laws": "name run json",
    "plan": "preset context dtype device dp ep cp batch optimizer efficiency price answer_tokens figures json",
    "grade": "submissions lesson csv seconds whole memory seed workers json",
    "evaluate": "endpoint model model_name questions problems method temperature top_p seed exact out concurrency rate "
                "yes figure json",
    "leaderboard": "board baseline only json",
    "materialize": "preset folder seed layout dtype layers json",
    "parallel": "layout out resume preset steps lr optimizer text_rows task_rows save_every seed device json timeout "
                "seq text_file task difficulty",
}


def options(command):
    parser = argparse.ArgumentParser()
    importlib.import_module(cli.COMMANDS[command][0]).add_arguments(parser)
    return {action.dest for action in parser._actions} - {"help"}


@pytest.mark.parametrize("command", cli.available())
def test_every_flag_is_read(command):
    """As `args.name`; a line that only refuses it does not count."""
    modules = [cli.COMMANDS[command][0]] + ["minizaya.commands.train"] * (command == "parallel")
    trees = [ast.parse(inspect.getsource(importlib.import_module(module))) for module in modules]
    read = {node.attr for tree in trees for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "args"}
    assert not options(command) - read


@pytest.mark.parametrize("command", cli.available())
def test_every_flag_is_in_one_of_the_lists(command):
    """A new flag has to say where it stands: used whatever the others are, or refused beside some of them."""
    given = {word[2:].replace("-", "_") for flags, _ in IDLE.get(command, []) for word in flags if word[:2] == "--"}
    used = set(USED[command].split())
    assert used | given == options(command) and used <= options(command)


@pytest.mark.parametrize("command, flags, says", [(command, *row) for command, rows in IDLE.items() for row in rows])
def test_a_flag_without_effect_is_refused(command, flags, says, capsys, tmp_path, monkeypatch):
    """Before anything is read or written."""
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, *flags]) == 2
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


LESSONS = str(Path(__file__).resolve().parents[2] / "lessons")
WRITTEN = {  # command -> the flags that name what is written when all the work is done
    "grade": [LESSONS, "--csv", "file"], "leaderboard": ["file", "--add", LESSONS],
    "evaluate": ["--questions", "task:copy:3", "--model", "nano-reasoner", "--figure", "file"],
    "kernels": ["router", "--figure", "file"], "lessons": ["--slides", "01_moe"],
    "stages": ["--out", "runs", "--publish", "name"], "cascade": ["--out", "runs", "--publish", "name"]}


@pytest.mark.parametrize("command", WRITTEN)
def test_what_cannot_be_written_is_said_before_the_work(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flags.os, "access", lambda path, mode: False)    # root may write where others may not
    assert cli.main([command, *WRITTEN[command]]) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"minizaya {command}: \w+: nothing can be written into '.*', got '.*'\n", err) and out == ""


def test_a_value_that_is_nothing_is_a_value():
    for value in (0, "", False, None):
        with pytest.raises(ValueError, match="share has no effect here, got"):
            flags.refuse(argparse.Namespace(share=value), "here", share=1.0)
    flags.refuse(argparse.Namespace(share=None), "here", share=None)


def test_which_places_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (None, tmp_path / "new", tmp_path / "file", Path("new")):
        flags.writable("csv", path)
    flags.writable("book", tmp_path / "a" / "b", parents=True)
    flags.writable("book", tmp_path, parents=True)
    for path, parents, says in ((tmp_path, False, "must be a file, got the folder"),
                                (tmp_path / "a" / "b", False, "must be in a folder that is there, got"),
                                (tmp_path / "file" / "b", False, "nothing can be written into"),
                                (tmp_path / "file" / "b" / "c", True, "nothing can be written into")):
        with pytest.raises(ValueError, match=f"csv:? {says}.*{path}"):
            flags.writable("csv", path, parents)


def test_kernels_where_nothing_can_be_kept(monkeypatch, capsys):
    monkeypatch.setenv("MINIZAYA_CACHE", "/dev/null")
    assert cli.main(["kernels", "router", "--trace"]) == 2
    assert capsys.readouterr().err == ("minizaya kernels: cannot write into /dev/null/kernels (Not a directory); "
                                       "MINIZAYA_CACHE names another folder\n")


def test_a_parallel_run_refuses_them_too(monkeypatch, capsys):
    from minizaya.commands import parallel
    for given, says in TRAIN:
        parser = argparse.ArgumentParser()
        parallel.add_arguments(parser)
        args = parallel.from_json(parallel.to_json(parser.parse_args(["--layout", "dp1", "--out", "x", *given])))
        with pytest.raises(ValueError, match=says):
            parallel.run_train.material(args)
    with pytest.raises(SystemExit):
        cli.main(["parallel", "--layout", "dp1", "--out", "x", "--device", "cuda"])
    assert "argument --device: invalid choice: 'cuda'" in capsys.readouterr().err


def test_a_demo_goes_on_with_the_steps_that_it_was_begun_with(tmp_path, monkeypatch):
    from minizaya.commands import demo
    asked = []

    class Begun(Exception):
        pass

    def trainer(model, recipe, batches, **settings):
        asked.append(recipe.steps)
        raise Begun

    monkeypatch.setattr(demo, "Trainer", trainer)
    monkeypatch.setattr(demo, "witten_bell", lambda *args: [1.0])
    monkeypatch.setattr(demo, "latest", lambda out: out)
    monkeypatch.setattr(demo, "read_info", lambda folder: {"recipe": {"steps": 7}})
    for steps in (None, 9):
        with pytest.raises(Begun):
            demo.demo(tmp_path, steps=steps, resume=True)
    assert asked == [7, 9]  # the trainer refuses what is not the run's


@pytest.mark.parametrize("command, flag, values", [
    ("grade", "seconds", ("0", "-1", "nan", "inf", "2e9")), ("grade", "whole", ("0", "nan", "inf")),
    ("grade", "memory", ("0", "nan", "inf", "1e-12")), ("grade", "workers", ("0", "-1")),
    ("lessons", "seconds", ("0", "nan", "inf"))])
def test_limits_of_the_grader(command, flag, values, capsys, tmp_path):
    """One line that names it, before any notebook is read; an infinite number of seconds has no whole part."""
    for value in values:
        assert cli.main([command, *[str(tmp_path)] * (command == "grade"), f"--{flag}", value]) == 2
        err = capsys.readouterr().err
        assert re.fullmatch(rf"minizaya {command}: {flag} must be an? .*\n", err), err


@pytest.mark.parametrize("wrong", [dict(examples=0), dict(examples=True), dict(examples=2.0), dict(seed=3),
                                   dict(memory=2.0**30), dict(memory=0), dict(seconds="1"), dict(whole=math.nan)])
def test_limits_in_python(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Limits(**wrong)
    assert Limits(examples=1, seed="x", memory=1, seconds=1).seconds == 1
