"""The pages beside the lessons name tests, parts and commands: all of them exist."""

import re
from pathlib import Path

import minizaya as mz
from minizaya.arch.cca import CCA
from minizaya.grading.table import lessons as table

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "lessons" / "README.md").read_text(encoding="utf-8")
TEACHING = (ROOT / "lessons" / "TEACHING.md").read_text(encoding="utf-8")


def section(title):
    return README.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text):
    """The cells of the body rows of the one table in `text`."""
    table = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_every_difference_is_pinned():
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    found = rows(section("Where papers and code disagree"))
    assert len(found) >= 12
    for row in found:
        (name,) = re.findall(r"`(test_\w+)`", row[-1])
        assert f"def {name}(" in tests, name


def test_the_glossary_names_what_is_there():
    ours = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "minizaya").rglob("*.py"))
    for here, _, _ in rows(section("Glossary")):
        for name in re.findall(r"`([\w.]+)`", here):
            assert re.search(rf"\b{name.split('.')[-1]}\b", ours), name


def test_the_glossary_covers_the_parameters():
    """Every parameter and buffer of a layer has its row."""
    model = mz.Zaya(mz.ZayaConfig.preset("nano"))
    text = section("Glossary")
    for name in model.state_dict():
        part = name.removesuffix(".weight").removesuffix(".bias").split(".")[-1]
        if "norm" in name or name.startswith(("embed.", "head.")) or ".mlp." in name:
            continue  # under the same name everywhere, or in RouterMLP's row
        assert part in text, name
    assert isinstance(model.layers[0].attention, CCA)


def test_the_glossary_names_what_transformers_has():
    import inspect

    from transformers.models.zaya import configuration_zaya, modeling_zaya
    theirs = inspect.getsource(modeling_zaya) + inspect.getsource(configuration_zaya)
    for _, _, there in rows(section("Glossary")):
        for name in re.findall(r"`([\w.]+)`", there):
            for part in name.split("."):
                assert part in theirs, name


def test_the_plans_have_the_lessons_minutes():
    minutes = {name[:2]: lesson["minutes"] for name, lesson in table().items()}
    plans = re.findall(r"^\| [^|]+ \| ((?:\d\d, )*\d\d) \| (\d+) \|", TEACHING, flags=re.MULTILINE)
    assert len(plans) == 6 + 8
    for names, said in plans:
        assert sum(minutes[name] for name in names.split(", ")) == int(said), names


def test_the_teachers_commands_exist():
    import argparse

    from minizaya.commands import grade, leaderboard, lessons
    known = set()
    for command in (grade, lessons, leaderboard):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        known |= set(parser._option_string_actions)
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEACHING))
    assert flags <= known, flags - known
    for target in re.findall(r"make (\w+)", TEACHING):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), target
