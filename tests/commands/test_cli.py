"""The command line from outside: help, one JSON document, one-line errors, exit codes; and what the doctor says."""

import io
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import minizaya.__main__ as cli
from minizaya.commands import doctor

ROOT = Path(__file__).resolve().parents[2]


def exits(argv):
    """The code that argparse exits with."""
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    return stop.value.code


# ---- finding and running commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", cli.available())
def test_every_command_explains_itself(command, capsys):
    assert exits([command, "--help"]) == 0
    assert f"minizaya {command}" in capsys.readouterr().out


def test_help_lists_the_commands_and_imports_none(capsys, monkeypatch):
    def refuse(name):
        raise AssertionError(f"--help imported {name}")

    monkeypatch.setattr(cli.importlib, "import_module", refuse)
    assert exits(["--help"]) == 0
    listed = re.findall(r"^    (\w+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    assert listed == list(cli.available()) and {"doctor", "plan"} <= set(listed)


def test_a_command_without_a_module_is_not_listed(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "ghost", ("minizaya.train.ghost", "not written"))
    assert "ghost" not in cli.available()


def test_without_a_command_they_are_listed(capsys):
    assert cli.main([]) == 0
    out, err = capsys.readouterr()
    assert re.findall(r"^    (\w+)(?: |$)", out, re.MULTILINE) == list(cli.available()) and err == ""


@pytest.mark.parametrize("argv", [["fly"], ["--fly"], ["--", "fly"]], ids=str)
def test_an_unknown_command_is_a_usage_error(argv, capsys):
    assert exits(argv) == 2
    said = capsys.readouterr().err
    assert "error:" in said and "Traceback" not in said


def test_an_unknown_command_names_the_known_ones(capsys):
    exits(["fly"])
    said = capsys.readouterr().err
    assert all(command in said for command in cli.available())


@pytest.fixture
def failing(monkeypatch):
    """A command `fail` whose run raises what the test hands over."""
    def install(error):
        def run(args):
            raise error

        monkeypatch.setattr(cli, "available", lambda: {"fail": ("failing_command", "always fails")})
        monkeypatch.setitem(sys.modules, "failing_command",
                            SimpleNamespace(add_arguments=lambda parser: None, run=run))
    return install


@pytest.mark.parametrize("error, code, line", [
    (ValueError("heads must divide,\n  got 3"), 2, "minizaya fail: heads must divide, got 3\n"),
    (FileNotFoundError(2, "No such file", "a.json"), 2, "minizaya fail: [Errno 2] No such file: 'a.json'\n"),
    (ModuleNotFoundError("No module named 'x'"), 2,
     "minizaya fail: No module named 'x'; `python -m minizaya doctor` says what to install\n"),
    (KeyboardInterrupt(), 130, "minizaya fail: stopped\n"),
], ids=["value", "file", "module", "ctrl-c"])
def test_errors_are_one_line(failing, capsys, error, code, line):
    failing(error)
    assert cli.main(["fail"]) == code
    assert capsys.readouterr() == ("", line)


def test_a_bug_keeps_its_traceback(failing):
    failing(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["fail"])


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("lines", [1, 100_000], ids=["at the end", "under way"])
def test_nobody_reads_any_more(failing, monkeypatch, stream, lines):
    """`minizaya laws | head`: an exit code, and no complaint, not even of Python's at its end."""
    failing(None)
    monkeypatch.setattr(sys.modules["failing_command"], "run",
                        lambda args: print("line\n" * lines, file=getattr(sys, stream)) or 0)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", buffering=1 if stream == "stderr" else -1) as pipe:     # as Python's own
        monkeypatch.setattr(sys, stream, pipe)
        assert cli.main(["fail"]) == 141
        pipe.write("to nowhere")    # closing it raises nothing now


def test_a_pipe_of_somebody_else_is_an_error_like_any_other(failing, monkeypatch, tmp_path):
    failing(BrokenPipeError(32, "Broken pipe"))
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert cli.main(["fail"]) == 2
    assert (tmp_path / "err").read_text("utf-8") == "minizaya fail: [Errno 32] Broken pipe\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(failing, monkeypatch, capsys):
    failing(None)
    monkeypatch.setattr(sys.modules["failing_command"], "run", lambda args: print("a line") or 0)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(["fail"]) == 2
    assert capsys.readouterr().err == "minizaya: [Errno 28] No space left on device\n"


def test_the_whole_way_through_a_shell():
    done = subprocess.run([sys.executable, "-m", "minizaya", "plan", "huge", "--json"], cwd=ROOT, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"minizaya plan: unknown preset 'huge'; choose from .*zaya1-8b\n", done.stderr)


# ---- plan ------------------------------------------------------------------------------------------------------------


def test_plan_json_is_one_document(capsys):
    assert cli.main(["plan", "zaya1-8b", "--context", "131072", "--dtype", "float32", "--json"]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert err == ""
    assert figures["parameters"]["total"] == sum(figures["parameters"]["by_part"].values()) == 8_840_488_784
    assert figures["kv_bytes_per_token"] == 81_920
    assert figures["kv_bytes_at_context"] == 81_920 * 131_072
    assert {"forward", "backward", "decode"} <= set(figures["flops_per_token"])


def test_plan_table_shows_the_figures(capsys):
    assert cli.main(["plan", "zaya1-8b"]) == 0
    shown = capsys.readouterr().out
    for figure in ("8,840,488,784", "8.3034B", "0.7536B", "40,960", "40.00 KiB", "0.76B"):
        assert figure in shown
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize("argv", [["nano", "--context", "0"], ["huge"]], ids=str)
def test_plan_refuses_with_one_line(argv, capsys):
    assert cli.main(["plan", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("minizaya plan: ") and err.count("\n") == 1


# ---- doctor ----------------------------------------------------------------------------------------------------------


def hide(monkeypatch, *packages):
    for package in packages:
        # import fails and find_spec finds nothing
        monkeypatch.setitem(sys.modules, doctor.MODULES.get(package, package), None)


def floor(line):
    """("torch", (2, 8)) from "torch>=2.8,<3"."""
    name, major, minor = re.match(r"([\w-]+)>=(\d+)\.(\d+)", line).groups()
    return name, (int(major), int(minor))


def test_doctor_says_whether_what_is_compiled_can_be_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIZAYA_CACHE", str(tmp_path / "new" / "cache"))
    assert doctor.examine()["tools"]["cache"] == str(tmp_path / "new" / "cache") and not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINIZAYA_CACHE", str(tmp_path / "file" / "cache"))
    facts = doctor.examine()
    assert facts["tools"]["cache"] is None
    assert "○ cache         cannot be written, so nothing is compiled; MINIZAYA_CACHE" in doctor.report(facts)
    monkeypatch.setenv("MINIZAYA_CACHE", str(tmp_path))
    monkeypatch.setattr("os.access", lambda *asked: False)        # root may write anywhere
    assert doctor.examine()["tools"]["cache"] is None


def test_doctor_knows_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert doctor.REQUIRED == dict(map(floor, project["dependencies"]))
    extras = {floor(line)[0]: extra for extra, lines in project["optional-dependencies"].items() for line in lines}
    assert {name: extra for name, (extra, _) in doctor.OPTIONAL.items()} == extras
    assert project["requires-python"] == ">=" + ".".join(map(str, doctor.PYTHON))


def test_doctor_json_is_one_document(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ok"] and facts["missing"] == []
    assert facts["required"]["torch"] == torch.__version__
    assert facts["machine"]["cores"] >= 1


def test_doctor_works_without_the_extras(monkeypatch, capsys):
    hide(monkeypatch, *doctor.OPTIONAL)
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for package in doctor.OPTIONAL:
        assert re.search(rf"○ {package} +missing", shown)
    assert re.search(r"pip install .*safetensors", shown)


def test_doctor_says_how_to_install_what_is_required(monkeypatch, capsys):
    hide(monkeypatch, "tqdm", "einops")
    assert cli.main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"✘ einops +missing", shown)
    assert re.search(r"pip install .*'einops>=0\.8' 'tqdm>=4\.66'", shown)


def test_doctor_sees_a_package_that_is_too_old(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "version", lambda name: "2.7.1+cpu" if name == "torch" else "99.0")
    assert cli.main(["doctor"]) == 1
    assert "2.7.1+cpu too old: 2.8 is needed" in capsys.readouterr().out


@pytest.mark.parametrize("found, old", [("2.7.9", True), ("2.8.0", False), ("2.13.0+cpu", False), ("3.0", False),
                                        ("1.99", True), ("unknown version", False)])
def test_versions_are_compared_as_numbers(found, old):
    assert doctor.too_old(found, (2, 8)) is old


def test_doctor_runs_when_torch_is_missing():
    """The rest of the package cannot be imported then."""
    code = ("import sys; sys.modules['torch'] = None; from minizaya.__main__ import main; "
            "sys.exit(main(['doctor', '--json']))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    facts = json.loads(done.stdout)
    assert done.returncode == 1 and facts["missing"] == ["torch"] and "torch>=2.8" in facts["install"]["required"]


def test_doctor_reads_what_lessons_need(tmp_path):
    def write(name, extra):
        (tmp_path / name).write_text(json.dumps({"cells": [], "metadata": extra}), encoding="utf-8")

    write("01_ready.ipynb", {"minizaya": {"minutes": 20, "needs": ["torch"]}})
    write("02_lacks.ipynb", {"minizaya": {"minutes": 30, "needs": ["torch", "gpu", "no_such_package", "no_such.part"]}})
    write("03_silent.ipynb", {})
    (tmp_path / "04_broken.ipynb").write_text("{", encoding="utf-8")
    (tmp_path / "README.md").write_text("not a lesson", encoding="utf-8")
    found = doctor.lessons(tmp_path, {"gpu": None})
    assert [lesson["name"] for lesson in found] == ["01_ready", "02_lacks", "03_silent", "04_broken"]
    assert [lesson["missing"] for lesson in found] == [[], ["gpu", "no_such_package", "no_such.part"], [], []]
    assert [bool(lesson["problem"]) for lesson in found] == [False, False, True, True]
    shown = doctor.report(doctor.examine(tmp_path))
    assert re.search(r"✔ 01_ready +20 min  ready", shown)
    assert re.search(r"○ 02_lacks .*missing: .*no_such_package", shown)
    assert re.search(r"✘ 03_silent +does not say what it needs", shown)


def test_doctor_without_lessons(tmp_path):
    assert doctor.examine(tmp_path / "none")["lessons"] is None
    assert "is not beside the package" in doctor.report(doctor.examine(tmp_path / "none"))
    assert "none in lessons/" in doctor.report(doctor.examine(tmp_path))


def test_a_terminal_without_our_ticks_shows_their_numbers(monkeypatch):
    """LC_ALL=C: the tick and the cross stay two different things."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(doctor, "run", lambda args: print("✔ ✘") or 0)
    assert cli.main(["doctor"]) == 0
    out.flush()
    assert out.buffer.getvalue().split() == [rb"\u2714", rb"\u2718"]


def test_a_working_folder_that_is_gone_is_said(tmp_path, monkeypatch, capsys):
    """Nothing else can be: MKL would end the process with a line about a library."""
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path / "d")
    (tmp_path / "d").rmdir()
    assert cli.main(["plan", "nano"]) == 2
    assert capsys.readouterr().err == "minizaya plan: the working folder is gone: cd to one that is there\n"
