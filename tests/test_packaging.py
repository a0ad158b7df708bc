"""One description of the environment, kept in step: pyproject.toml says what is needed, constraints.txt the
exact versions, environment.yml and the Makefile how to get them, README.md what to type."""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from minizaya.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ON_REQUEST = {"gyms", "browser"}  # extras too big for `make test`: pinned, but installed by hand
EXTRAS = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name not in ON_REQUEST}
DECLARED = [Requirement(line) for group in (PROJECT["dependencies"], *EXTRAS.values()) for line in group]
REQUESTED = [Requirement(line) for name in ON_REQUEST for line in PROJECT["optional-dependencies"][name]]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def pins():
    """constraints.txt as {canonical name: Requirement}."""
    lines = (line.strip() for line in read("constraints.txt").splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def exact(requirement):
    """The version of a requirement that is one `==` and nothing else; fails on any other."""
    specifiers = list(requirement.specifier)
    assert len(specifiers) == 1 and specifiers[0].operator == "==", f"not an exact version: {requirement}"
    version = Version(specifiers[0].version)
    assert version.local is None, f"a local build exists on one machine only: {requirement}"
    return version


def makefile_variables():
    return dict(re.findall(r"^(\w+)\s*[?:]?=\s*(.*)$", read("Makefile"), re.MULTILINE))


def makefile_targets():
    return set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))


def conda_environment():
    """environment.yml as (conda lines, pip lines).

    The file is two lists at fixed depths, so it is read as such: a YAML parser is not among our dependencies.
    """
    listing = read("environment.yml").split("\ndependencies:\n")[1]
    conda = re.findall(r"^  - (.*[^:\n])$", listing, re.MULTILINE)
    pip = re.findall(r"^      - (.*)$", listing, re.MULTILINE)
    return conda, pip


# --- constraints.txt ------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", sorted(DECLARED + REQUESTED, key=str), ids=str)
def test_every_dependency_is_pinned_inside_its_range(requirement):
    if requirement.name == "torch":
        pin = Requirement(makefile_variables()["TORCH"])
    else:
        pin = pins()[canonicalize_name(requirement.name)]
    assert exact(pin) in requirement.specifier


def test_every_pin_is_exact_and_written_once():
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(pins()) > len(DECLARED)
    for pin in pins().values():
        exact(pin)


def test_every_pin_is_for_the_oldest_python():
    """Debian has 3.11.2. Where a pin is for a later one, pip 23 tries versions of everything else without an end."""
    oldest = re.search(r"[\d.]+", PROJECT["requires-python"])[0] + ".0"
    for name, pin in pins().items():
        found = next(iter(metadata.distributions(name=name)), None)
        if found and found.version in pin.specifier:
            assert oldest in SpecifierSet(found.metadata["Requires-Python"] or ""), f"{pin} is not for Python {oldest}"


def test_torch_is_not_constrained():
    """A pin would fight whoever picks another build with TORCH."""
    assert "torch" not in pins()


def test_what_the_dependencies_bring_is_pinned_too():
    """Walks the installed packages from ours to the last dependency of a dependency.

    Stops at torch: each of its builds brings its own helpers (CUDA libraries, Triton).
    """
    todo, seen = [(r.name, r.extras) for r in DECLARED], set()
    while todo:
        name, extras = todo.pop()
        name = canonicalize_name(name)
        if name == "torch" or (name, frozenset(extras)) in seen:
            continue
        seen.add((name, frozenset(extras)))
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            environments = [default_environment() | {"extra": extra} for extra in ("", *extras)]
            if needed.marker is None or any(needed.marker.evaluate(e) for e in environments):
                todo.append((needed.name, needed.extras))
    assert len(seen) > len(DECLARED)
    assert {name for name, _ in seen} - set(pins()) == set()


# --- the ways to install ----------------------------------------------------------------------


def test_conda_installs_what_make_test_installs():
    conda, pip = conda_environment()
    assert makefile_variables()["TORCH"] in pip
    assert "-c constraints.txt" in pip
    (editable,) = [line for line in pip if line.startswith("-e ")]
    assert editable == f"-e .[{','.join(EXTRAS)}]"
    assert f"--editable '.[{','.join(EXTRAS)}]'" in read("Makefile")


def test_conda_python_is_one_we_support():
    conda, _ = conda_environment()
    (python,) = [Requirement(line.replace("=", "==", 1)) for line in conda if line.startswith("python=")]
    assert exact(python) in SpecifierSet(PROJECT["requires-python"])
    assert "pip" in conda


def test_makefile_asks_for_the_same_python():
    (floor,) = SpecifierSet(PROJECT["requires-python"])
    assert floor.operator == ">="
    assert f"sys.version_info >= ({floor.version.replace('.', ', ')})" in read("Makefile")


def test_every_make_command_is_phony_and_explained():
    (phony,) = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    explained = re.findall(r'^\t@echo "make (\w+)', read("Makefile"), re.MULTILINE)
    assert set(phony.split()) == makefile_targets() == {"help", *explained}


def test_ci_runs_make_lint_make_test_and_make_browser():
    commands = [shlex.split(line, comments=True) for line in read(".ci/run").splitlines() if line[:5] == "make "]
    assert [command[:2] for command in commands] == [["make", "lint"], ["make", "test"], ["make", "browser"]]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100, ".ci/run is not executable"


# --- README.md --------------------------------------------------------------------------------


def blocks(name, language):
    """The code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(name), re.MULTILINE | re.DOTALL)


def commands(name):
    """Every command of a page's `sh` blocks, comments and line continuations removed."""
    text = "".join(blocks(name, "sh")).replace("\\\n", " ")
    return [words for words in (shlex.split(line, comments=True) for line in text.splitlines()) if words]


def test_the_front_door_is_short():
    assert len(read("README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", ["README.md", "docs/running.md", "docs/evaluate.md", "lessons/TEACHING.md",
                                  "CONTRIBUTING.md"])
def test_pages_name_commands_and_files_that_exist(page):
    """Each `minizaya COMMAND --flag ...` of a page can be parsed, and each file that a page links to is there."""
    for words in commands(page):
        if words[:3] == ["python", "-m", "minizaya"]:
            words = words[2:]
        if words[0] != "minizaya":
            continue
        name, *rest = words[1:]
        parser = argparse.ArgumentParser(exit_on_error=False)
        import_module(COMMANDS[name][0]).add_arguments(parser)
        parser.parse_args(rest)
    for link in re.findall(r"\]\(([^)#]+)\)", read(page)):
        assert "://" in link or (ROOT / page).parent.joinpath(link).exists(), f"{page} links to {link}"


def test_readme_names_commands_that_exist():
    make = [command for command in commands("README.md") + commands("docs/running.md") if command[0] == "make"]
    assert {"lessons", "test", "demo"} <= {command[1] for command in make}
    for command in make:
        target, *assignments = command[1:]
        assert target in makefile_targets()
        assert {word.split("=")[0] for word in assignments} <= set(makefile_variables())


def test_what_is_installed_by_hand_is_what_the_makefile_installs():
    """Without make (Windows), two pip lines do the same."""
    page = commands("docs/running.md")
    installs = [command[command.index("install") + 1 :] for command in page if "pip" in command]
    assert installs == [
        ["--no-deps", makefile_variables()["TORCH"]],
        ["--constraint", "constraints.txt", "--editable", f".[{','.join(EXTRAS)}]"],
    ]


# --- CONTRIBUTING.md --------------------------------------------------------------------------


def test_contributing_names_what_is_there():
    text = read("CONTRIBUTING.md")
    assert set(re.findall(r"`make (\w+)`", text)) <= makefile_targets()
    assert {command[1] for command in commands("CONTRIBUTING.md") if command[0] == "make"} <= makefile_targets()
    paths = re.findall(r"`([\w./]+(?:\.(?:py|md|toml|txt)|/run|/))`|\]\(([\w./]+)\)", text)
    paths = [path or link for path, link in paths if "NAME" not in path]
    assert len(paths) > 20
    for path in paths:
        assert any((base / path).exists() for base in (ROOT, ROOT / "minizaya")), f"CONTRIBUTING.md names {path}"


def test_contributing_refreshes_every_extra():
    every = ",".join(PROJECT["optional-dependencies"])
    installs = [command for command in commands("CONTRIBUTING.md") if "install" in command]
    refresh = [command[command.index("install") + 1 :] for command in installs]
    assert refresh == [[makefile_variables()["TORCH"]], [f".[{every}]"]]


def test_the_changelog_has_this_version():
    assert f"## {PROJECT['version']}" in read("CHANGELOG.md") and "## Unreleased" in read("CHANGELOG.md")


# --- ARCHITECTURE.md ----------------------------------------------------------------------------


def tree():
    """The file tree: two spaces of indentation a level, then a name, then two spaces and the comment."""
    (text,) = [block for block in blocks("ARCHITECTURE.md", "text") if block.startswith("minizaya/  ")]
    folders = []
    for line in text.splitlines():
        folders = folders[: (len(line) - len(line.lstrip(" "))) // 2]
        name, comment = re.fullmatch(r"(\S+)  (\S.*)", line.strip()).groups()
        yield "/".join([*folders, name.rstrip("/")]), comment
        if name.endswith("/"):
            folders.append(name.rstrip("/"))


def test_the_tree_names_what_is_there():
    for path, _ in tree():
        assert (ROOT / path).exists(), f"ARCHITECTURE.md names {path}"


def test_the_tree_names_every_module():
    """Where the tree names one module of a folder it names all; a folder without its files holds many of one kind."""
    named = {path for path, _ in tree()}
    assert {f"minizaya/{room}" for room in rooms()} <= named
    for folder in {Path(path).parent for path in named if path.endswith(".py") and path.startswith("minizaya/")}:
        there = {f"{folder}/{path.name}" for kind in ("*.py", "*.cpp") for path in (ROOT / folder).glob(kind)}
        assert there - {f"{folder}/__init__.py"} <= named, f"ARCHITECTURE.md does not name all of {folder}"


def rooms():
    return [path.parent.name for path in (ROOT / "minizaya").glob("*/__init__.py")]


def test_the_picture_shows_every_room():
    picture = next(block for block in blocks("ARCHITECTURE.md", "text") if block.startswith("    config"))
    shown = re.findall(r"[a-z]+", " ".join(line[:36] for line in picture.splitlines()))
    assert sorted(shown) == sorted(["config", "notebook", *rooms()])


def test_architecture_names_files_that_exist():
    """In the text, too. Paths are from the root or from minizaya/; a bare name stands beside the file before it."""
    text = re.sub(r"^```.*?^```", "", read("ARCHITECTURE.md"), flags=re.MULTILINE | re.DOTALL)
    names = re.findall(r"`([\w./]+\.(?:py|cpp|hip|md|toml)|[a-z_/]+/)`", text)
    assert len(names) > 80
    before = ROOT / "minizaya"
    for name in names:
        found = [base / name for base in (ROOT / "minizaya", ROOT, before.parent) if (base / name).exists()]
        assert found, f"ARCHITECTURE.md names {name}"
        before = found[0]


# --- what the Makefile runs ---------------------------------------------------------------------

RUNS = sorted(set(re.findall(r"^\t\$\(PY\) -m (minizaya\S*)(?: ([a-z]+)$)?", read("Makefile"), re.MULTILINE)))


def test_makefile_runs_the_package():
    assert len(RUNS) >= 3


@pytest.mark.parametrize("module, subcommand", RUNS, ids=str)
def test_what_the_makefile_runs_exists(module, subcommand):
    if not subcommand:
        assert find_spec(module) is not None
        return
    command = [sys.executable, "-m", module, subcommand, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert subcommand in done.stdout


# --- what a wheel holds -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, from an sdist, from a copy of what git knows. Its weights are empty: packing them takes long."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            (source / name).touch()
        else:
            shutil.copy(ROOT / name, source / name)
    backend("sdist", source, out)
    with tarfile.open(next(out.glob("*.tar.gz"))) as sdist:
        sdist.extractall(out, filter="data")
    backend("wheel", next(path for path in out.iterdir() if path.is_dir()), out)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as found:
        yield found


def tracked():
    """The files that git knows and that are there. A tree without git (an archive) tests no wheel."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git repository around this tree")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def backend(kind, source, out):
    """What `python -m build --no-isolation` runs."""
    code = f"import sys; out = sys.argv[1]; from setuptools import build_meta; build_meta.build_{kind}(out)"
    command = [sys.executable, "-c", code, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_wheel_holds_the_package_and_nothing_else(wheel):
    """Every file that git knows under minizaya/: code, C++, checkpoints with their cards, py.typed."""
    there = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert there == {name for name in tracked() if name.startswith("minizaya/")}
    model = "minizaya/checkpoints/nano-reasoner/model.safetensors"
    assert {"minizaya/py.typed", "minizaya/native/decode/step.cpp", model} <= there


def test_a_wheel_brings_the_command(wheel):
    (entries,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "minizaya = minizaya.__main__:main" in wheel.read(entries).decode()
    assert PROJECT["scripts"] == {"minizaya": "minizaya.__main__:main"}


WITHOUT_REPOSITORY = """
import sys
sys.path = [path for path in sys.path if "__editable__" not in path]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path.insert(0, sys.argv.pop(1))
import minizaya
assert minizaya.__file__.startswith(sys.path[0]), minizaya.__file__
from runpy import run_module
run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("words, said", [
    ("minizaya kernels", "minizaya kernels: the folder `kernels` is not beside the package"),
    ("minizaya lessons", "the lessons come with the repository"),
    ("minizaya.studies full_8b", "it comes with the repository"),
    ("minizaya.plots figures 10_markovian_rsa", "it comes with the repository"),
    ("minizaya.plots figures 14_hip_kernels", "clone the repository"),
])
def test_what_needs_the_repository_says_so_in_one_line(words, said, wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    command = [sys.executable, "-c", WITHOUT_REPOSITORY, str(tmp_path / "site"), *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr
