"""The cascade: its table, resuming, its command, and the record and card of what it gained."""

import json
import math
import random
from types import SimpleNamespace

import pytest
import torch

from kill_pipeline import TOKENIZER, tiny_model
from minizaya.__main__ import main
from minizaya.data import tasks
from minizaya.hub import zoo
from minizaya.infer.rsa import RSAConfig
from minizaya.rl import cascade
from minizaya.rl.cascade import Fixed, Stage, records
from minizaya.rl.generator import draw_aggregation
from minizaya.studies import recorded
from minizaya.train import evaluate

TINY = (Stage("one", 2, tasks=("copy",), follow=False),
        Stage("two", 2, tasks=("copy", "parity"), style=True, advantage="grpo"))


def test_the_table_is_the_reports():
    assert [stage.name for stage in cascade.TOY] == [stage["name"] for stage in cascade.REAL]
    assert "warm-up" in cascade.text_table() and len(cascade.rows()) == 4
    assert cascade.TOY[2].aggregation > 0 and cascade.TOY[3].style and cascade.TOY[3].advantage == "grpo"
    for wrong, says in ((dict(updates=0), "updates"), (dict(tasks=("chess",)), "name must be one of"),
                        (dict(aggregation=1.5), "aggregation")):
        with pytest.raises(ValueError, match=says):
            Stage("x", **{"updates": 3, **wrong})


def test_difficulties_that_stay():
    table = Fixed({"copy": 2}, {"copy": 5})
    assert table.update("copy", 2, [1.0] * 8) == 2 and table.draw(1) == [("copy", 2)]


def test_a_stopped_cascade_goes_on(tmp_path, monkeypatch):
    """Broken off after the first stage and in the middle of the second: the same weights as without a break."""
    straight = tiny_model()
    assert cascade.train(straight, TOKENIZER, tmp_path / "a", TINY, bar=False)
    for stage in ("1-one", "2-two"):    # and each stage's trainer is a model that can be asked
        model, tokenizer = zoo.open_model(str(tmp_path / "a" / stage / "trainer"))
        assert tokenizer.to_dict() == TOKENIZER.to_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in straight.state_dict().items())
    run, calls = cascade.run, []

    def once(*args, **kwargs):
        calls.append(args)
        return False if len(calls) == 2 else run(*args, **kwargs)

    monkeypatch.setattr(cascade, "run", once)
    model = tiny_model()
    assert not cascade.train(model, TOKENIZER, tmp_path / "b", TINY, bar=False)
    monkeypatch.setattr(cascade, "run", run)
    again = tiny_model()
    assert cascade.train(again, TOKENIZER, tmp_path / "b", TINY, bar=False)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in straight.state_dict().items())
    with pytest.raises(ValueError, match="another table, seed or share"):
        cascade.train(tiny_model(), TOKENIZER, tmp_path / "b", TINY, seed=1, bar=False)


def test_room_is_the_same_for_training_and_judging(monkeypatch):
    """An answer that ends after its room is cut off, so it is wrong: judged as it would be in training."""
    problem, = tasks.problems("copy", "held_out", 2, 1, 0)
    limit = cascade.room("copy", 2)
    monkeypatch.setattr(evaluate, "generate", lambda model, prompts, *_, **kw: [
        TOKENIZER.encode("a" * (limit - len(problem.answer)) + f"#{problem.answer}$")] * len(prompts))
    assert cascade.judged(None, TOKENIZER, [problem], 0) == [0]
    monkeypatch.setattr(evaluate, "generate",
                        lambda model, prompts, *_, **kw: [TOKENIZER.encode(problem.completion)] * len(prompts))
    assert cascade.judged(None, TOKENIZER, [problem, problem], 0) == [1, 1]


def test_the_command(tmp_path, capsys, monkeypatch):
    assert main(["cascade", "--table", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["warm-up", "curriculum", "ttc", "behaviour"]
    assert main(["cascade"]) == 2
    assert "out must name a folder" in capsys.readouterr().err
    monkeypatch.setattr(cascade, "TOY", TINY)
    monkeypatch.setattr(zoo, "open_model", lambda name: (tiny_model().eval(), TOKENIZER))
    monkeypatch.setattr(cascade.train, "__defaults__", (TINY, *cascade.train.__defaults__[1:]))
    arguments = ["cascade", "--out", str(tmp_path / "run"), "--processes", "1", "--problems", "2"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"levels", "before", "after", "gain", "minutes"} and set(found["before"]) == {"copy", "parity"}
    assert main(arguments) == 2 and "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0 and "mean gain" in capsys.readouterr().out


def test_the_record_shows_the_gain():
    """At least ten points on average over tasks, three seeds, two standard errors above zero,
    in at most 15 minutes each."""
    runs = recorded("cascade")["runs"]
    gains = [sum(run["after"].values()) / len(run["after"]) - sum(run["before"].values()) / len(run["before"])
             for run in runs]
    mean = sum(gains) / len(gains)
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1) / len(gains))
    assert len(runs) >= 3 and mean >= 0.10 and mean - 2 * error > 0
    assert all(run["minutes"] <= 15 for run in runs)
    assert max(update["staleness"] for run in runs for update in run["curve"]) <= 2


@pytest.mark.parametrize("task", ["sorting", "invert"])
def test_the_card_of_the_trained_model_reproduces(task):
    """Sixty held-out problems, within three standard errors of the card's hundred; and better than before."""
    card = zoo.card("nano-reasoner-rl")
    model, tokenizer = zoo.load("nano-reasoner-rl")
    level = card["levels"][task]
    again = cascade.examine(model, tokenizer, {task: level}, 60, seed=5)[task]
    error = math.sqrt(0.25 / 60 + 0.25 / 100)
    assert abs(again - card["after"][task]) <= 3 * error
    assert again > card["before"][task]


def test_a_stage_begins_where_the_one_before_has_ended(tmp_path, monkeypatch):
    """With the levels that the last one to train a task has left."""
    table = (Stage("one", 2, tasks=("copy",)), Stage("two", 2, tasks=("copy", "parity")),
             Stage("three", 2, tasks=("copy",)))
    ends, begun = iter([{"copy": 4}, {"copy": 2, "parity": 3}, {}]), []
    monkeypatch.setattr(cascade, "calibrate", lambda *rest: {name: SimpleNamespace(best=lambda: 1)
                                                             for name in ("copy", "parity")})
    monkeypatch.setattr(cascade, "run", lambda job, *rest, **settings: begun.append(dict(job.scheduler.levels)) or True)
    monkeypatch.setattr(cascade, "last_levels", lambda folder: next(ends))
    assert cascade.train(None, TOKENIZER, tmp_path, table, bar=False)
    assert begun == [{"copy": 1}, {"copy": 4, "parity": 1}, {"copy": 2}]


# ---- figures that the texts state ------------------------------------------------------------------------------------


def test_the_table_is_this_one():
    assert cascade.text_table().splitlines()[1:] == [
        "warm-up           20  maxrl              0.0 |         232, mathematics and puzzles",
        "curriculum        60  maxrl              0.0 |         400, RLVE-Gym, 400 environments",
        "ttc               30  maxrl              0.4 |   384 + 464, mathematics, code, aggregation prompts",
        "behaviour         10  grpo               0.0 |         384, chat and instructions"]
    assert [(row["lr"], row["brevity"], row["follow"], row["style"], len(row["tasks"])) for row in cascade.rows()] == [
        (1e-3, 0.0, False, False, 7), (1e-3, 0.0, True, False, 7), (1e-3, 0.2, True, False, 6),
        (3e-4, 0.0, True, True, 7)]
    assert set(cascade.TOY[2].tasks) == set(cascade.BOUNDARY) - {"sorting"} and "sorting" in cascade.TOY[1].tasks


@pytest.mark.parametrize("seed", [0, 3])
def test_calibration_asks_eight_times_sixteen_problems_a_task(monkeypatch, seed):
    """Other ones each time, of the training part, and each task believes what was right of its own."""
    turns, told = [], []

    def judged(model, tokenizer, problems, turn):
        turns.append(turn)
        assert [p.task for p in problems] == ["copy"] * 16 + ["parity"] * 16
        assert all(tasks.split(p) == "train" for p in problems)
        return [int(p.task == "copy") for p in problems]

    monkeypatch.setattr(cascade, "judged", judged)
    monkeypatch.setattr(cascade.Calibrator, "tell", lambda self, difficulty, right, asked: told.append((right, asked)))
    found = cascade.calibrate(None, None, ["copy", "parity"], seed)
    assert turns == [1000 * seed + turn for turn in range(8)] and told == [(16, 16), (0, 16)] * 8
    assert [found[name].highest for name in ("copy", "parity")] == [25, 20]
    other = cascade.Calibrator(25, seed)
    assert found["copy"].particles == other.particles       # the seed is the belief's, too


def test_an_examination_counts_each_task_alone(monkeypatch):
    monkeypatch.setattr(cascade, "judged", lambda model, tokenizer, problems, seed: [
        int((p.task, p.difficulty) == ("parity", 3)) if i % 4 else 0 for i, p in enumerate(problems)])
    assert cascade.examine(None, None, {"parity": 3, "copy": 2}, 4, 0) == {"copy": 0.0, "parity": 0.75}


def test_a_stage_as_a_job():
    job = cascade.job_of(Stage("x", 9, tasks=("copy",), aggregation=0.25, brevity=0.5, lr=0.02), {"copy": 3}, 7, 0.5)
    assert (job.updates, job.seed, job.aggregation, job.judge) == (4, 7, 0.25, cascade.verified)
    assert (job.learner.lr, job.learner.brevity, job.learner.advantage) == (0.02, 0.5, "maxrl")
    assert job.scheduler.levels == {"copy": 3} and job.scheduler.highest == {"copy": 25}
    assert job.scheduler.update("copy", 3, [1.0]) == 4
    stage = Stage("x", 9, tasks=("copy",), follow=False, style=True, advantage="grpo")
    job = cascade.job_of(stage, {"copy": 3}, 7, 0.1)
    assert (job.updates, job.judge, job.learner.advantage) == (2, cascade.styled, "grpo")
    assert job.scheduler.update("copy", 3, [1.0]) == 3


@pytest.mark.parametrize("share, problems", [(1.0, 160), (0.1, 16), (0.01, 8)])
def test_a_stage_with_aggregation_gets_attempts_at_its_own_tasks(tmp_path, monkeypatch, share, problems):
    """Of the difficulties that SFT had, and as many as its share; each stage with a chance of its own."""
    asked, begun = [], []
    monkeypatch.setattr(cascade, "calibrate", lambda *rest: {name: SimpleNamespace(best=lambda: 1)
                                                             for name in ("addition", "copy")})
    monkeypatch.setattr(cascade.stages, "rollouts", lambda *given: asked.append(given[3:]) or ["records"])
    monkeypatch.setattr(cascade, "run", lambda job, *rest, **settings: begun.append((job.records, job.seed)) or True)
    monkeypatch.setattr(cascade, "last_levels", lambda folder: {})
    table = (Stage("one", 2, tasks=("copy",)), Stage("two", 2, tasks=("addition", "copy"), aggregation=0.5))
    assert cascade.train(None, TOKENIZER, tmp_path, table, seed=4, share=share, bar=False)
    assert begun == [(None, 401), (["records"], 402)]
    assert asked == [({"addition": (6, 16)}, problems, cascade.seed_of("cascade", 4, 2))]


def test_minutes_are_those_of_all_updates(tmp_path):
    for number, seconds in enumerate(((30.0, 60.0), (90.0,))):
        log = tmp_path / f"{number}-x" / "trainer" / "log.jsonl"
        log.parent.mkdir(parents=True)
        log.write_text("".join(json.dumps({"seconds": each}) + "\n" for each in seconds) + '{"stale": 3}\n')
    assert cascade.minutes(tmp_path) == 3.0


# ---- the one stage of nano-sheets ------------------------------------------------------------------------------------


def test_the_stage_of_sheets_is_this_one():
    stage, = cascade.SHEETS
    assert stage == Stage("ttc", 48, tasks=("sheet",), follow=False, aggregation=0.85, lr=5e-4,
                          rsa=RSAConfig(N=8, C=4, T=1, beta=280, tau=74))
    assert records.PARTS == (6, 12, 18, 24, 24, 24) and records.TOGETHER == 48
    assert (cascade.job_of(stage, {"sheet": 3}, 0, 1.0).size, cascade.job_of(TINY[0], {"copy": 1}, 0, 1.0).size) == (
        1024, 768)
    with pytest.raises(ValueError, match="rsa must be None without a share of aggregation prompts"):
        Stage("x", 2, rsa=RSAConfig())


@pytest.mark.parametrize("share, problems", [(1.0, 240), (0.1, 24), (0.001, 1)])
def test_its_prompts_are_made_of_traces_of_its_own_rounds(tmp_path, monkeypatch, share, problems):
    asked, begun = [], []
    monkeypatch.setattr(cascade, "calibrate", lambda *rest: {"sheet": SimpleNamespace(best=lambda: 3)})
    monkeypatch.setattr(cascade, "handed_on", lambda *given: asked.append(given) or ["records"])
    monkeypatch.setattr(cascade, "run", lambda job, *rest, **settings: begun.append(job) or True)
    monkeypatch.setattr(cascade, "last_levels", lambda folder: {})
    assert cascade.train(None, TOKENIZER, tmp_path, cascade.SHEETS, seed=4, share=share, bar=False)
    assert asked == [(tmp_path / "1-ttc" / "own.jsonl", None, TOKENIZER, cascade.SHEETS[0].rsa, problems,
                      cascade.seed_of("cascade", 4, 1))]
    assert begun[0].records == ["records"] and begun[0].scheduler.levels == {"sheet": 3}


def test_records_of_rounds_and_how_they_are_handed_on(tmp_path, monkeypatch):
    """Round 0 once and the last round twice; sorted by parts; each group and round with chances of its own."""
    monkeypatch.setattr(records, "PARTS", (1, 3, 2))
    monkeypatch.setattr(records, "TOGETHER", 3)
    seeds, prompts = [], []

    def generate(model, asked, most, stop, seed, rows):
        seeds.append(seed)
        prompts.extend(map(TOKENIZER.decode, asked))
        assert (most, TOKENIZER.decode(stop), rows) == (30, tasks.END, 256)
        return [TOKENIZER.encode(f"{len(seeds):04}{i:06}" * 2 + tasks.END) for i, _ in enumerate(asked)]

    monkeypatch.setattr(records, "generate", generate)
    rsa = RSAConfig(N=5, C=3, T=2, beta=30, tau=15)
    found = records.handed_on(tmp_path / "own.jsonl", None, TOKENIZER, rsa, 4, seed=6)
    assert len(seeds) == 6 == len(set(seeds)) and len(found) == 12
    assert [record["rollouts"][0][:4] for record in found[:3]] == ["0001", "0003", "0003"]
    assert [record["rollouts"][0][:4] for record in found[-3:]] == ["0004", "0006", "0006"]
    assert all(len(record["rollouts"]) == 5 and record["tau"] == 15 for record in found)
    parts = [record["difficulty"] for record in found]
    assert parts == sorted(parts) and set(parts) <= {1, 2, 3}
    problem = tasks.get("sheet").generate(found[0]["number"], found[0]["difficulty"])
    assert prompts[0] == problem.prompt and tasks.split(problem) == "train"
    assert records.handed_on(tmp_path / "own.jsonl", None, TOKENIZER, rsa, 4, seed=6) == found and len(seeds) == 6
    again = records.handed_on(tmp_path / "two.jsonl", None, TOKENIZER, rsa, 4, seed=7)
    assert len(set(seeds)) == 12 and [r["number"] for r in again] != [r["number"] for r in found]

    whole = 0
    for seed in range(200):
        asked = draw_aggregation(found[:1], random.Random(seed))
        assert (asked["room"], asked["kind"], asked["difficulty"]) == (30, "own tails", found[0]["difficulty"])
        own = asked["prompt"].removeprefix(problem.prompt)[:-1].split("|")[1:]
        assert len(own) == 3
        whole += all(tail in {rollout[-15:] for rollout in found[0]["rollouts"]} for tail in own)
    assert 120 < whole < 175   # seven in ten, and those of the others that nothing was done to
