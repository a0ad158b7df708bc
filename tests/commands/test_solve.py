"""The shipped reasoner and the commands around it: zoo, solve, solve --compare, stages."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch

import minizaya as mz
from minizaya.__main__ import main
from minizaya.data import tasks, text
from minizaya.data.tokenizer import CharTokenizer
from minizaya.hub import zoo
from minizaya.infer.generate import generate
from minizaya.infer.rsa import RSAConfig
from minizaya.rl import cascade
from minizaya.studies import compare, scoring
from minizaya.train import checkpoint, evaluate, stages
from minizaya.train.loop import Recipe, Trainer
from minizaya.train.sources import mixture, task_source

TOKENIZER = CharTokenizer(text.ALPHABET, unknown="unk")
SIZES = SimpleNamespace(config=mz.ZayaConfig.preset("nano"))   # all that `compare` asks of a model, beside a sampler


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run's folder with an untrained tiny model."""
    torch.manual_seed(0)
    model = mz.Zaya(mz.ZayaConfig.preset("nano", hidden_size=16, num_hidden_layers=1, head_dim=8,
                                         moe_intermediate_size=8))
    run = tmp_path_factory.mktemp("runs") / "tiny"
    trainer = Trainer(model, Recipe(steps=1), mixture(task_source("addition", 1, TOKENIZER, 2, 0)), run,
                      {"tokenizer": TOKENIZER.to_dict()})
    trainer.train(bar=False)
    return run


# ---- the zoo ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nano-reasoner", "nano-sheets"])
def test_the_shipped_reasoners_load_and_are_small(name):
    model, tokenizer = mz.zoo.load(name)
    assert not model.training and tokenizer.vocab_size == model.config.vocab_size
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 5e6
    assert (zoo.folder(name) / "model.safetensors").stat().st_size < 16e6
    files = {path.name for path in zoo.folder(name).iterdir()}
    assert files == {"model.safetensors", "run.json", "card.json", "README.md"}
    prompt = tokenizer.encode("47+85?")
    answer, = mz.generate(model, [prompt], 40, temperature=0.0, stop=tokenizer.encode("$"))
    assert tokenizer.decode(answer) == "a0752b1483c1#132$"


@pytest.mark.parametrize("name, stages", [("nano-reasoner", 4), ("nano-sheets", 7)])
def test_the_card_says_what_the_checkpoint_is(name, stages):
    card, words = zoo.card(name), (zoo.folder(name) / "README.md").read_text("utf-8")
    assert set(card["accuracy"]) == set(tasks.names()) - ({"rule", "sheet"} if stages == 4 else set())
    for task, by_difficulty in card["accuracy"].items():
        for cell in by_difficulty.values():
            p, n = cell["accuracy"], card["problems"]
            assert cell["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / n), abs=1e-4)
        assert f"| {task} |" in words
        easiest = min(by_difficulty, key=int)
    assert sum(max(c["accuracy"] for c in cells.values()) > 0.9 for cells in card["accuracy"].values()) >= 8
    middling = [task for task, cells in card["accuracy"].items()
                if any(0.3 <= c["accuracy"] <= 0.75 for c in cells.values())]
    assert len(middling) >= 2, "there must be room for what follows"
    assert easiest and words == zoo.card_text(name, card)
    assert [stage["stage"][2:] for stage in card["stages"]] == [
        "base-1", "base-2", "extension", "sft", "sheets", "parts", "rl"][:stages]


def test_a_card_says_nothing_of_stages_that_there_were_not():
    """Of the RL in nano-sheets, and of its sheets; the columns of a table are another matter."""
    card = zoo.card("nano-sheets")
    for count, told in ((7, (True, True)), (6, (False, True)), (4, (False, False))):
        words = zoo.card_text("nano-sheets", card | {"stages": card["stages"][:count]})
        assert ("The last stage is reinforcement" in words, "and for `sheet`" in words) == told


def test_a_card_lists_its_tasks_in_one_order():
    """Whatever the order in which a run came to their levels."""
    card = zoo.card("nano-reasoner-rl")
    turned = card | {"levels": dict(reversed(card["levels"].items()))}
    assert list(turned["levels"]) != list(card["levels"])
    assert zoo.card_text("nano-reasoner-rl", turned) == zoo.card_text("nano-reasoner-rl", card)


@pytest.mark.parametrize("task, difficulty", [("addition", 10), ("countdown", 2), ("program", 8)])
def test_the_card_reproduces(task, difficulty):
    """Other problems, other chances: within three standard errors of the difference."""
    card = zoo.card("nano-reasoner")["accuracy"][task][str(difficulty)]
    model, tokenizer = zoo.load("nano-reasoner")
    again = evaluate.accuracies(model, tokenizer, {task: (difficulty, )}, problems=100, seed=123)[task][str(difficulty)]
    error = math.hypot(max(card["stderr"], 0.01), max(again["stderr"], 0.01))
    assert abs(card["accuracy"] - again["accuracy"]) <= 3 * error


def test_unknown_names_and_folders_are_refused(tmp_path):
    for call in zoo.load, zoo.card, zoo.folder:
        with pytest.raises(ValueError, match="name must be one of"):
            call("giant")
    with pytest.raises(ValueError, match="the folder of a run"):
        zoo.open_model("nowhere")
    with pytest.raises(ValueError, match="with a checkpoint in it"):
        zoo.publish(tmp_path, "x", {})


def test_publish_keeps_weights_and_tokenizer(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    folder = zoo.publish(tiny, "copy", {"made_by": "a test"})
    assert zoo.names() == ["copy"] and checkpoint.read_info(folder)["made_by"] == "a test"
    ours, _ = zoo.load("copy")
    theirs, _ = checkpoint.load_model(tiny)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()))
    assert not list(folder.glob("writing*"))


# ---- solve -----------------------------------------------------------------------------------------------------------


def test_solve_prints_accuracies(tiny, capsys):
    flags = ["--task", "copy", "--difficulty", "2", "--problems", "3", "--json"]
    assert main(["solve", "--model", str(tiny), *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["problems"], found["temperature"], found["seed"]) == (3, 1.0, 1)
    assert found["accuracy"] == {"copy": {"2": {"accuracy": 0.0, "stderr": 0.0, "tokens": pytest.approx(16, abs=16)}}}
    assert main(["solve", "--model", str(tiny), "--task", "copy", "--problems", "2"]) == 0
    assert capsys.readouterr().out.startswith("copy ")


@pytest.mark.parametrize("flags, says", [(["--problems", "0"], "problems must"),
                                         (["--difficulty", "2"], "difficulty needs a task"),
                                         (["--task", "copy", "--difficulty", "99"], "difficulty of copy")])
def test_solve_refuses(tiny, flags, says, capsys):
    assert main(["solve", "--model", str(tiny), *flags]) == 2
    assert says in capsys.readouterr().err


def test_right_answers_count(monkeypatch):
    """A generator that knows: accuracy one, and the mean length of the solutions."""
    known = {}
    for problem in tasks.problems("copy", "held_out", 3, 5, 1) + tasks.problems("countdown", "held_out", 2, 5, 1):
        known[tuple(TOKENIZER.encode(problem.prompt))] = problem

    def generate(model, prompts, room, temperature, stop, seed):
        rooms.append(room)
        return [TOKENIZER.encode(known[tuple(prompt)].completion) for prompt in prompts]

    rooms = []
    monkeypatch.setattr(evaluate, "generate", generate)
    assert evaluate.accuracies(None, TOKENIZER, {"copy": (3, )}, 5) and rooms == [14 + 7], "half as long again"
    found = evaluate.accuracies(None, TOKENIZER, {"copy": (3, ), "countdown": (2, )}, 5)
    assert found["copy"]["3"] == {"accuracy": 1.0, "stderr": 0.0, "tokens": 14.0}
    assert found["countdown"]["2"]["accuracy"] == 1.0
    assert all(d in range(1, tasks.get(t).max_difficulty + 1) for t, levels in evaluate.LEVELS.items() for d in levels)
    assert set(evaluate.LEVELS) == set(tasks.names())
    shipped = {name: tuple(map(int, cells)) for name, cells in zoo.card("nano-sheets")["accuracy"].items()}
    assert shipped == evaluate.LEVELS, "the shipped card looks where a new one would"


# ---- compare ---------------------------------------------------------------------------------------------------------


def test_compare_counts_and_shapes(tiny):
    model, tokenizer = zoo.open_model(str(tiny))
    setting = compare.Setting("copy", 2, RSAConfig(N=3, C=2, T=1, beta=6, tau=3))
    found = compare.compare(model, tokenizer, setting, problems=4, seed=0)
    assert list(found) == ["single", "greedy", "majority", "full_rsa", "delethink", "markovian_rsa"]
    assert found == compare.compare(model, tokenizer, setting, problems=4, seed=0)
    assert found["single"]["tokens"] <= 6 and all(cell["tokens"] <= 2 * 3 * 6 for cell in found.values())
    assert "markovian_rsa" in compare.table(setting, found)


def test_what_methods_begin_with_is_decoded_once(tiny, monkeypatch):
    """The vote's rollouts hold the first ones of every other method, which are those that it would get alone."""
    model, tokenizer = zoo.open_model(str(tiny))
    setting, decoded = compare.Setting("copy", 2, RSAConfig(N=3, C=2, T=1, beta=6, tau=3)), []
    prompts = [tokenizer.encode(problem.prompt) for problem in setting.problems(4, 0) for _ in range(3)]
    alone = compare.sampler(model, tokenizer, 0, {})(prompts, 6)
    after = compare.sampler(model, tokenizer, 0, known := {})
    after(prompts * 2, 6)
    assert compare.sampler(model, tokenizer, 0, known)(prompts, 6) == alone
    assert after(prompts, 6) != alone, "a second call has chances of its own"
    monkeypatch.setattr(compare, "generate", lambda model, given, *rest, **settings: decoded.append(len(given)) or
                        generate(model, given, *rest, **settings))
    compare.compare(model, tokenizer, setting, problems=4, seed=0)
    assert decoded == [24, 12, 12, 12, 4]


def test_compare_scores_by_the_mean(monkeypatch):
    """Half of the traces are right: the mean says a half, and the vote of equal wrong answers is lost or won."""
    problem, = tasks.problems("copy", "held_out", 2, 1, 0)
    right, wrong = TOKENIZER.encode(f"#{problem.answer}$"), TOKENIZER.encode("#000$")

    def half(model, tokenizer, seed, known, temperature=1.0):
        return lambda prompts, n: [right if i % 2 or temperature == 0 else wrong for i in range(len(prompts))]

    monkeypatch.setattr(compare, "sampler", half)
    setting = compare.Setting("copy", 2, RSAConfig(N=4, C=2, T=1, beta=9, tau=3))
    found = compare.compare(SIZES, TOKENIZER, setting, problems=1, seed=0)
    assert found["single"]["accuracy"] == found["markovian_rsa"]["accuracy"] == found["delethink"]["accuracy"] == 0.5
    assert found["majority"]["accuracy"] == 0.0 and found["markovian_rsa"]["tokens"] == 8 * 5
    # beside the mean, not instead of it
    assert found["markovian_rsa"]["vote"] == 0 and found["markovian_rsa"]["best"] == 1
    # what it costs: traces of five tokens; a later prompt holds two tails of three tokens, two marks and the go
    question, a_token = len(problem.prompt), 2 * 2 * 32 * 4 * 4  # K and V, heads, numbers of four bytes, layers
    assert found["greedy"] == {"accuracy": 1.0, "stderr": 0.0, "tokens": 5, "context": question + 5,
                               "cache_bytes": (question + 5) * a_token}, "one rollout, at temperature 0"
    assert found["single"]["tokens"] == 5 and found["single"]["cache_bytes"] == (question + 5) * a_token
    assert found["majority"]["tokens"] == 40 and found["majority"]["cache_bytes"] == 8 * (question + 5) * a_token
    assert found["majority"]["context"] == question + 5
    assert found["markovian_rsa"]["context"] == question + 2 * 4 + 1 + 5
    assert found["markovian_rsa"]["cache_bytes"] == 4 * (question + 2 * 4 + 1 + 5) * a_token
    assert found["delethink"]["context"] == question + 4 + 1 + 5


def test_an_answer_in_parts_is_voted_on_part_by_part(monkeypatch):
    """Every trace lacks one part, each another one: no whole answer is right, and every part is right twice."""
    problem, = compare.Setting("sheet", (3, ), RSAConfig()).problems(1, 0)
    parts = re.findall("[abc][0-9]{2}", problem.answer)
    lists = [f"#{''.join(p if i != gone else p[0] + '?' for i, p in enumerate(parts))}$" for gone in range(3)]

    def one_gone(model, tokenizer, seed, known, temperature=1.0):
        return lambda prompts, n: [TOKENIZER.encode(lists[i % 3]) for i in range(len(prompts))]

    monkeypatch.setattr(compare, "sampler", one_gone)
    setting = compare.Setting("sheet", (3, ), RSAConfig(N=3, C=2, T=1, beta=10, tau=10))
    found = compare.compare(SIZES, TOKENIZER, setting, problems=1, seed=0)
    assert list(found) == list(compare.METHODS)
    assert found["by_parts"]["accuracy"] == found["by_parts"]["parts"] == 1
    assert found["majority"]["accuracy"] == found["single"]["accuracy"] == found["markovian_rsa"]["best"] == 0
    for name in ("single", "greedy", "majority", "markovian_rsa"):
        assert found[name]["parts"] == pytest.approx(2 / 3, abs=1e-4)
    assert scoring.voted_by_parts([]) == scoring.voted_by_parts(["~", "", "#a12"]) == "#$"
    assert scoring.voted_by_parts(["a12b34", "#a12b?$", "a07!#a56b34", "#a12c89b34$", "#b34$"]) == "#a12b34$"
    assert scoring.voted_by_parts(["#a12c?$", "#c89$", "#a?b?c89d77$"]) == "#a12c89$", "b is not found, d a slip"
    assert scoring.right_parts(problem, "#?$") == 0 and scoring.right_parts(problem, problem.completion) == 1


def test_scores_by_hand():
    """Four digits of an accuracy; parts only where all have some; a letter that half of the lists name is a slip."""
    copies = tasks.problems("copy", "held_out", 2, 3, 0)
    right = [[problem.completion] for problem in copies]
    assert scoring.scored(copies, [*right[:1], [""], [""]]) == {"accuracy": 0.3333, "stderr": 0.3333}
    sheets = tasks.problems("sheet", "held_out", 2, 1, 0)
    assert "parts" not in scoring.scored([copies[0], *sheets], [right[0], [sheets[0].completion]])
    assert scoring.scored([copies[0], *sheets], [right[0], ["#?$"]])["accuracy"] == 0.5
    assert scoring.voted_by_parts(["#a12c34$", "#a12$"]) == "#a12$"
    assert scoring.voted(["#1$", "#2$", "#2$", "#1"]) == "#2$" and scoring.voted(["1$", ""]) == ""


def test_a_shipped_model_is_asked_only_what_it_has_learned(capsys, monkeypatch):
    """The model that went on from it answers, and that is said; another one's follower does not."""
    asked = []
    monkeypatch.setattr(compare, "compare", lambda model, *rest: asked.append(model) or {})
    said = "nano-reasoner has not learned sheet; nano-sheets, which went on from it, answers\n"
    for name, line in (("nano-reasoner", said), ("nano-sheets", "")):
        assert main(["solve", "--model", name, "--compare", "--exam", "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out) == {} and line in err and ("learned" in err) == bool(line)
    both = [model.state_dict() for model in asked]
    assert all(torch.equal(tensor, both[1][key]) for key, tensor in both[0].items())
    assert main(["solve", "--model", "nano-reasoner-rl", "--compare", "--exam"]) == 2
    assert "model must have learned sheet, as nano-sheets has, got 'nano-reasoner-rl'" in capsys.readouterr().err
    assert main(["solve", "--model", "nano-reasoner", "--compare", "--json"]) == 0
    assert "learned" not in capsys.readouterr().err


def test_an_exam_has_its_difficulties_in_turn():
    setting = compare.SETTINGS["exam"]
    asked = setting.problems(13, seed=2)
    assert [problem.difficulty for problem in asked] == [1, 24, 2, 24, 3, 24, 1, 24, 2, 24, 3, 24, 1]
    assert len({problem.prompt for problem in asked}) == 13
    assert all(tasks.split(problem) == "held_out" for problem in asked)
    assert setting.problems(5, seed=2) == asked[:5] != setting.problems(5, seed=3)
    tight = compare.SETTINGS["tight"]
    assert tight.problems(3, 1) == tasks.problems("chain100", "held_out", 20, 3, 1)


def test_levels_are_told_apart(monkeypatch):
    """One part is right, three are not: the mean says a half, and each level its own."""
    def first_part(model, tokenizer, seed, known, temperature=1.0):
        return lambda prompts, n: [TOKENIZER.encode(answers[tuple(prompt[: prompt.index(stop) + 1])])
                                   for prompt in prompts]

    setting, (stop, ) = compare.Setting("sheet", (1, 3), RSAConfig(N=2, C=1, T=1, beta=9, tau=9)), TOKENIZER.encode("?")
    asked = setting.problems(4, 0)
    answers = {tuple(TOKENIZER.encode(p.prompt)): f"#{p.answer[:3]}$" for p in asked}
    monkeypatch.setattr(compare, "sampler", first_part)
    found = compare.compare(SIZES, TOKENIZER, setting, problems=4, seed=0)
    for name in compare.METHODS:
        assert found[name]["by_level"] == {"1": 1.0, "3": 0.0} and found[name]["accuracy"] == 0.5
        assert found[name]["parts"] == pytest.approx((1 + 1 / 3) / 2, abs=1e-4)
    assert "1: 100, 3: 0" in compare.table(setting, found)


def test_a_sweep_has_a_row_a_point(tiny, monkeypatch, capsys):
    monkeypatch.setattr(compare, "SWEEP", ((6, 3), (4, 4)))
    monkeypatch.setitem(compare.SETTINGS, "tight", compare.Setting("copy", 2, RSAConfig(N=3, C=2, T=2, beta=6, tau=3)))
    assert main(["solve", "--model", str(tiny), "--sweep", "--problems", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["beta"], row["tau"], len(row["rounds"])) for row in rows] == [(6, 3, 3), (4, 4, 3)]
    assert all(set(cell) == {"accuracy", "stderr", "tokens", "ended"} for row in rows for cell in row["rounds"])
    assert rows[1]["rounds"][0]["tokens"] <= 12
    assert main(["solve", "--model", str(tiny), "--sweep", "--problems", "2"]) == 0
    assert "beta, tau" in capsys.readouterr().out


def test_a_sweep_of_the_exam_varies_c_and_tau(tiny, monkeypatch, capsys):
    monkeypatch.setattr(compare, "EXAM_SWEEP", ((1, 5), (2, 3)))
    small = RSAConfig(N=3, C=3, T=1, beta=6, tau=3)
    monkeypatch.setitem(compare.SETTINGS, "exam", compare.Setting("sheet", (1, 2), small))
    asked = []
    monkeypatch.setattr(compare, "after_each_round", lambda model, tokenizer, setting, problems, seed: asked.append(
        setting.rsa) or [{"accuracy": 0.5, "stderr": 0.0}])
    assert main(["solve", "--model", str(tiny), "--sweep", "--exam", "--problems", "2", "--json"]) == 0
    assert [(row["C"], row["tau"]) for row in json.loads(capsys.readouterr().out)] == [(1, 5), (2, 3)]
    assert [(rsa.C, rsa.tau, rsa.beta, rsa.N) for rsa in asked] == [(1, 5, 6, 3), (2, 3, 6, 3)]
    assert main(["solve", "--model", str(tiny), "--sweep", "--exam", "--problems", "2"]) == 0
    told = capsys.readouterr().out
    assert "C, tau" in told and "    2     3    50.0" in told


# ---- stages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, table", [([], stages.TOY), (["--sheets"], stages.ALL)])
def test_two_stages_more_and_what_they_taught(tiny, tmp_path, monkeypatch, flags, table):
    """The table that is run, the run that is published, and the tasks that its card measures: those it was taught."""
    seen = {}
    monkeypatch.setattr(stages, "train", lambda out, table, *rest, **more: seen.update(table=table) or True)
    opened = zoo.open_model(str(tiny))
    monkeypatch.setattr(zoo, "open_model", lambda name: seen.update(opened=name) or opened)
    monkeypatch.setattr(cascade, "train", lambda model, tokenizer, out, table, seed, share: seen.update(
        rl=(out.name, table, seed, share)) or True)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    monkeypatch.setattr(zoo, "publish", lambda run, name, keep: seen.update(run=run))
    monkeypatch.setattr(zoo, "load", lambda name: opened)
    monkeypatch.setattr(zoo, "write_card", lambda name, card: seen.update(card=card))
    monkeypatch.setattr(evaluate, "accuracies", lambda model, tokenizer, levels, n: seen.update(levels=levels))
    runs = tmp_path / "runs"
    assert main(["stages", "--out", str(runs), "--publish", "new", "--seed", "3", "--share", "0.5", *flags]) == 0
    assert seen["table"] == table
    assert seen["run"] == (runs / "7-rl" / "1-ttc" / "trainer" if flags else runs / "4-sft")
    if flags:      # the third one is of reinforcement learning, from where the other two ended
        assert seen["opened"] == str(runs / "6-parts") and seen["rl"] == ("7-rl", cascade.SHEETS, 3, 0.5)
        monkeypatch.setattr(cascade, "train", lambda *given, **named: False)
        assert main(["stages", "--out", str(runs), *flags]) == 130
    else:
        assert "rl" not in seen
    assert ("sheet" in seen["levels"]) == bool(flags) and seen["levels"]["copy"] == evaluate.LEVELS["copy"]
    assert seen["card"]["flags"] == "".join(f" {flag}" for flag in flags)



def test_stages_command(tmp_path, capsys):
    assert main(["stages", "--table", "--json"]) == 0
    assert [row["stage"] for row in json.loads(capsys.readouterr().out)] == [
        "base-1", "base-2", "extension", "sft", "sheets", "parts"]
    assert main(["stages", "--table"]) == 0 and "8.00T" in capsys.readouterr().out
    assert main(["stages"]) == 2 and "out must name" in capsys.readouterr().err
    assert main(["stages", "--out", str(tmp_path), "--share", "2"]) == 2 and "share must" in capsys.readouterr().err
