"""The compilers of this machine are found, and what they made is kept whole, once."""

import os
import subprocess
import sys

import pytest

from minizaya import hip
from minizaya.commands import doctor
from minizaya.hip import ops
from minizaya.native import compiler, matmul
from minizaya.native.fused import library as fused


def stand_in(folder, name, text):
    script = folder / name
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return script


def test_the_compiler_that_knows_mi300(tmp_path, monkeypatch):
    """Stand-ins on an otherwise empty PATH: an old clang that does not list gfx942, and a newer one that does."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    for suffix, targets in (("", "gfx908"), ("-20", "gfx908 gfx942")):
        stand_in(tmp_path, f"clang++{suffix}",
                 f'case "$*" in *-nogpulib*supported*) echo {targets};; *) echo clang{suffix} 1.0;; esac')
        stand_in(tmp_path, f"ld.lld{suffix}", "echo lld")
    assert compiler.gfx942() == (["clang++-20"], ["ld.lld-20"])
    assert doctor.examine(tmp_path)["tools"]["gfx942"] == "clang++-20: clang-20 1.0"
    compiler._said.cache_clear()
    (tmp_path / "ld.lld-20").unlink()   # a compiler without its linker makes no code object
    assert compiler.gfx942() is None


def test_a_compiler_makes_both_libraries():
    """Without them most tests of this room are skipped: what does not compile must not look like no compiler."""
    if compiler.cpp() is None:
        pytest.skip("no C++ compiler")
    assert matmul.library() is not None and fused.library() is not None, compiler.TROUBLE


def test_the_cpp_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiler.cpp() is None
    stand_in(tmp_path, "mine", "echo my compiler 1.0; echo and more")
    monkeypatch.setenv("CXX", "g++ 'not closed")
    assert compiler.cpp() is None
    monkeypatch.setenv("CXX", "mine -m64")
    assert compiler.cpp() == ["mine", "-m64"]
    assert doctor.named(compiler.cpp()) == "mine: my compiler 1.0"


def make(text):
    def inner(folder):
        (folder / "made.so").write_text(text)
        (folder / "made.s").write_text("listing")
        return folder / "made.so"
    return inner


def test_what_was_made_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIZAYA_CACHE", str(tmp_path))
    first = compiler.kept("room/thing.so", ["a", "b"], make("one"), beside=(".s",))
    assert first.read_text() == "one" and first.with_suffix(".s").read_text() == "listing"
    assert compiler.kept("room/thing.so", ["a", "b"], make("two")) == first and first.read_text() == "one"
    others = [compiler.kept("room/thing.so", given, make("three")) for given in (["a", "c"], ["ab"], ["a"])]
    assert len({first, *others}) == 4, "everything that went into it decides its name"
    assert all(path.read_text() == "three" for path in others)
    monkeypatch.setattr(compiler, "processor", lambda: "another one, which would die of this one's instructions")
    assert compiler.kept("room/thing.so", ["a", "b"], make("four")).read_text() == "four"


def test_nothing_half_made_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIZAYA_CACHE", str(tmp_path))

    def fails(folder):
        (folder / "half.so").write_text("half")
        compiler.run(["false"])

    with pytest.raises(compiler.CompilerError, match="the compiler refused: false"):
        compiler.kept("room/thing.so", ["a"], fails)
    assert not list(tmp_path.rglob("*.so"))
    with pytest.raises(compiler.CompilerError, match="did not start"):
        compiler.run([tmp_path / "nobody"])


def test_why_a_compiler_refused_is_its_first_line(tmp_path, monkeypatch):
    """Whoever goes on without it says one line: the reason, not the command; a full disk for temporary files, say."""
    refuses = tmp_path / "c++"
    refuses.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 1 && exit\n"
                       "echo 'a.cpp:1: warning: old' >&2; echo 'c++: fatal error: No space left on device' >&2\n"
                       "echo 'compilation terminated.' >&2; exit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("CXX", str(refuses))
    monkeypatch.setenv("MINIZAYA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "TROUBLE", ["before"])
    (tmp_path / "a.cpp").write_text("int one;")
    assert compiler.shared("room/thing.so", [tmp_path / "a.cpp"]) is None
    assert compiler.TROUBLE[1:] == ["the compiler refused: c++: fatal error: No space left on device"]
    with pytest.raises(compiler.CompilerError) as caught:
        compiler.run([refuses, "a.cpp"])
    assert str(caught.value).splitlines()[1:3] == [f"{refuses} a.cpp", "a.cpp:1: warning: old"]


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    """One clear line, and whoever can do without goes on without."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MINIZAYA_CACHE", str(tmp_path / "file"))
    reason = f"cannot write into {tmp_path / 'file' / 'room'} (Not a directory); MINIZAYA_CACHE names another folder"
    with pytest.raises(compiler.CompilerError) as caught:
        compiler.kept("room/thing.so", ["a"], make("one"))
    assert str(caught.value) == reason
    with pytest.raises(hip.KernelError, match="cannot write into .*kernels .*MINIZAYA_CACHE"):
        hip.build("balance", "cpu")
    assert ops.unusable.__wrapped__("balance", "cpu") == reason.replace("room", "kernels")
    assert matmul.library.__wrapped__() is None


def test_two_processes_make_it_once(tmp_path):
    """Both start at once; the one that comes second waits, and finds it made."""
    code = """
import sys, time
from pathlib import Path
from minizaya.native import compiler
def make(folder):
    with open(sys.argv[1], "a") as log: log.write("made\\n")
    time.sleep(0.5)
    (folder / "x.so").write_text("x")
    return folder / "x.so"
print(compiler.kept("x.so", ["a"], make).read_text())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                             env=os.environ | {"MINIZAYA_CACHE": str(tmp_path)})
            for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["x\n", "x\n"]
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_user_without_a_home(monkeypatch, tmp_path):
    """A container's number that no list of users knows: said in one line, and whoever can do without goes on so."""
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    for name in ("MINIZAYA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compiler.Path, "home", nobody)
    with pytest.raises(OSError, match="home directory. MINIZAYA_CACHE may name a folder"):
        compiler.home()
    with pytest.raises(compiler.CompilerError, match="MINIZAYA_CACHE may name a folder"):
        compiler.kept("room/thing.so", ["a"], make("one"))
    assert matmul.library.__wrapped__() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiler.home() == tmp_path / "minizaya"
