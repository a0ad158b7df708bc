"""Generator and trainer: what waits on the shelf, how old it may be, and that no kill loses or doubles anything."""

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kill_pipeline import TOKENIZER, fates, judge, kill_at_random, tiny_job, tiny_model
from minizaya.data import tasks
from minizaya.rl import pipeline, processes
from minizaya.rl.buffer import Shelf
from minizaya.rl.curriculum import Scheduler
from minizaya.rl.generator import Generator, draw_aggregation, draw_problem, room, verified
from minizaya.rl.pipeline import TrainerSide, run
from minizaya.rl.processes import GeneratorProcess, GeneratorSide, generate_for_ever, wanted
from minizaya.rl.rollout import Rollout
from minizaya.train import checkpoint


def rollout(version: int = 0) -> Rollout:
    return Rollout([1], [2, 3], [-0.5, -0.5], [version, version], torch.tensor([[0], [0], [-1]]), {"task": "copy"})


def test_batches_of_other_seeds_and_numbers_are_other_chances(monkeypatch):
    """Problems and answers, also where seed and number trade places or have one sum."""
    def made(seed, number):
        side, found = object.__new__(GeneratorSide), []
        side.job, side.number = replace(tiny_job(1), seed=seed), number
        monkeypatch.setattr(processes, "draw_problem", lambda name, difficulty, rng: found.append(rng.random()))
        side.generator = SimpleNamespace(answer=lambda asked, chance, refresh: found.append(chance))
        with pytest.raises(TypeError):      # no answers came
            side.make()
        return tuple(found)

    assert made(1, 2) == made(1, 2)
    every = [made(seed, number) for seed in range(4) for number in range(4)]
    for chances in zip(*every):
        assert len(set(chances)) == 16
    assert len(every[0]) == tiny_job(1).groups + 1


def test_each_answer_of_a_batch_has_a_chance_of_its_own():
    generator, seeds = object.__new__(Generator), []
    generator.tokenizer, generator.group, generator.min_p, generator.stop = TOKENIZER, 3, 0.0, []
    generator.engine = SimpleNamespace(submit=lambda *args, seed, **settings: seeds.append(seed), busy=False)
    generator.judged = lambda number, asked, versions: None
    for chance in range(4):
        generator.answer([{"prompt": "1+1=", "room": 4}] * 4, chance)
    assert len(set(seeds)) == len(seeds) == 48


def test_weights_are_saved_every_other_update_and_at_the_end():
    side, saved = object.__new__(TrainerSide), []
    side.job, side.updates, side.done, side.before = replace(tiny_job(5), group=1), 0, set(), 0.0
    side.shelf = SimpleNamespace(take=lambda oldest: (side.updates, [rollout(0)], []))
    side.learner = SimpleNamespace(update=lambda rollouts, group: {})
    side.log, side.save = (lambda record: None), (lambda: saved.append(side.updates))
    for _ in range(5):
        side.step()
    assert saved == [2, 4, 5]


def test_a_generator_of_its_own_takes_new_weights_in_flight_and_does_not_run_ahead(monkeypatch, tmp_path):
    class Side:
        def __init__(self, job, model, tokenizer, shelf):
            self.refresh = lambda: None

        def make(self, in_flight=False):
            made.append(in_flight)

    made, alive = [], iter([5, 5, 5, 5])
    monkeypatch.setattr(processes, "GeneratorSide", Side)
    monkeypatch.setattr(processes.os, "getppid", lambda: next(alive, 1))
    monkeypatch.setattr(Shelf, "numbers", lambda self, kind: range(kind == "batch" and len(made) >= 2))
    monkeypatch.setattr(processes, "STALENESS", 0)
    generate_for_ever(tiny_job(1), tiny_model().config, TOKENIZER, tmp_path, "cpu", 5)
    assert made == [True, True]


@pytest.mark.parametrize("waiting, taken, begun", [(0, 0, True), (0, 5, True), (1, 0, True), (2, 0, True),
                                                   (3, 0, False), (1, 1, True), (1, 2, False), (2, 1, False)])
def test_no_batch_is_begun_that_would_be_too_old_at_its_turn(tmp_path, waiting, taken, begun):
    """Each that waits is an update before it, and so is each that was taken since the last checkpoint."""
    shelf = Shelf(tmp_path, capacity=9)
    for number in range(taken + waiting):
        shelf.put(number, [rollout()], 1, {"number": number})
        if number < taken:
            shelf.take(0)
    assert wanted(shelf) is begun


# ---- the shelf -------------------------------------------------------------------------------------------------------


def test_the_oldest_batch_is_evicted(tmp_path):
    shelf = Shelf(tmp_path, capacity=2)
    evicted = [shelf.put(number, [rollout()], 1, {"number": number} | facts)
               for number, facts in enumerate([{}, {}, {}, {"rates": [1], "levels": {}, "more": 0}])]
    assert evicted == [[], [], [0], [1]] and shelf.numbers("batch") == [2, 3]
    assert [json.loads(line) for line in (tmp_path / "generator.jsonl").read_text().splitlines()] == [
        {"made": 0}, {"made": 1}, {"made": 2}, {"evicted": 0}, {"made": 3, "levels": {}, "rates": [1]}, {"evicted": 1}]
    with pytest.raises(ValueError, match="capacity must be an integer of at least 2, got 1"):
        Shelf(tmp_path, capacity=1)


def test_the_oldest_fresh_batch_is_taken_and_stale_ones_are_named(tmp_path):
    shelf = Shelf(tmp_path, capacity=9)
    for number, version in enumerate((0, 0, 2, 4)):
        shelf.put(number, [rollout(4), rollout(version)], 1, {"number": number})  # its oldest token counts
    number, rollouts, stale = shelf.take(oldest_version=2)
    assert (number, stale) == (2, [0, 1]) and len(rollouts) == 2 and shelf.numbers("batch") == [3]
    assert shelf.take(oldest_version=6) == (-1, [], [3]) and shelf.take(0) is None


def test_taken_batches_wait_again_unless_a_checkpoint_covers_them(tmp_path):
    shelf = Shelf(tmp_path)
    for number in range(3):
        shelf.put(number, [rollout()], 1, {"number": number})
        shelf.take(0)
    shelf.untake(keep={0})
    assert shelf.numbers("batch") == [1, 2] and shelf.numbers("taken") == [0]
    shelf.forget({0, 1})
    assert shelf.numbers("taken") == []
    assert shelf.newest_info() == {"number": 2}


def test_the_newest_batch_is_never_forgotten(tmp_path):
    """The generator reads there where to go on."""
    shelf = Shelf(tmp_path)
    shelf.put(7, [rollout()], 1, {"number": 7})
    shelf.take(0)
    shelf.forget({7})
    assert shelf.newest_info() == {"number": 7} and Shelf(tmp_path / "other").newest_info() is None


def test_weights_are_published_whole_and_two_are_kept(tmp_path):
    shelf = Shelf(tmp_path)
    for version in (0, 2, 4):
        shelf.publish(version, {"w": torch.full((3,), float(version))})
    assert shelf.numbers("weights") == [2, 4] and shelf.weights() == 4
    assert checkpoint.read_tensors(shelf.path("weights", 4))["w"].tolist() == [4, 4, 4]


# ---- problems and answers --------------------------------------------------------------------------------------------


def test_room_does_not_know_the_problem():
    assert room("countdown", 2) == room("countdown", 2) > 0 and room("copy", 20) > room("copy", 2)
    import random
    asked = draw_problem("countdown", 2, random.Random(0))
    assert asked["room"] == room("countdown", 2)
    problem = tasks.get("countdown").generate(asked["number"], 2)
    assert problem.prompt == asked["prompt"] and tasks.split(problem) == "train"


def test_a_groups_problem_is_made_once(monkeypatch):
    task, made = tasks.get("copy"), []
    monkeypatch.setattr(task, "generate", lambda *given: made.append(given) or type(task).generate(task, *given),
                        raising=False)
    problem = type(task).generate(task, 12345, 7)
    for text, right in ((problem.completion, 1.0), ("#7$", 0.0)) * 3:
        assert verified({"task": "copy", "number": 12345, "difficulty": 7}, text) == right
    assert verified({"task": "copy", "number": 12346, "difficulty": 7}, problem.completion) == 0.0
    assert made == [(12345, 7), (12346, 7)]


def test_aggregation_prompts_hold_tails():
    import random
    problem = tasks.get("modchain").generate(3, 12)
    records = [{"task": "modchain", "difficulty": 12, "number": 3, "rollouts": [problem.completion] * 5}]
    drawn = [draw_aggregation(records, random.Random(seed)) for seed in range(20)]
    assert {d["kind"] for d in drawn} == {"own tails", "expert tails"}
    assert all(d["prompt"].startswith(problem.prompt + "|") and d["prompt"].endswith("~") for d in drawn)
    assert all(1 <= d["prompt"].count("|") <= 4 for d in drawn)
    sheet = tasks.get("sheet").generate(3, 24)   # its list alone is longer than another task's tails
    records = [{"task": "sheet", "difficulty": 24, "number": 3, "rollouts": [sheet.completion] * 4}]
    tails = [len(tail) for seed in range(40) for tail in
             draw_aggregation(records, random.Random(seed))["prompt"][:-1].split("|")[1:]]
    assert 64 < max(tails) <= 90


def test_a_loop_earns_nothing():
    """The canary zeroes the reward before any advantage; the flag says why."""
    model = tiny_model()
    generator = Generator(model, TOKENIZER, group=1, slots=1, size=400, threshold=0.06)
    problem, = tasks.problems("copy", "train", 1, 1, 0)
    generator.engine.done[0] = _completion(TOKENIZER.encode("ab" * 150 + f"#{problem.answer}$"))
    import random
    asked = draw_problem("copy", 1, random.Random(0)) | {"prompt": problem.prompt}
    number = next(n for n in range(10**6) if tasks.get("copy").generate(n, 1).prompt == problem.prompt)
    found = generator.judged(0, asked | {"number": number}, [0])
    assert found.reward == 0 and found.flags == ("repeats", )
    generator.engine.done[2] = _completion([model.config.vocab_size - 1] * 300)     # both canaries
    assert generator.judged(2, asked | {"number": number}, [0]).flags == ("repeats", "rare")
    generator.engine.done[1] = _completion(TOKENIZER.encode(problem.completion))
    assert generator.judged(1, asked | {"number": number}, [0]).reward == 1


def test_each_token_has_the_version_that_wrote_it():
    """Of weights that nobody has loaded it is 0: what a trainer's updates are counted from."""
    model = tiny_model()
    generator = Generator(model, TOKENIZER, group=2, slots=2, size=40, judge=lambda asked, text: 0.0)
    asked = [{"prompt": "12+34?", "room": 3}, {"prompt": "1+2?", "room": 2}]
    written = generator.answer(asked, 0)
    assert [r.prompt for r in written] == [TOKENIZER.encode(one["prompt"]) for one in asked for _ in range(2)]
    assert all(r.versions == [0] * len(r.tokens) for r in written)
    generator.load(model.state_dict(), 7)
    assert all(r.versions == [7] * len(r.tokens) for r in generator.answer(asked, 0))


def test_an_answer_that_breaks_is_told_with_its_problem():
    """Before its first token, too. Broken weights must not become a batch."""
    model = tiny_model()
    model.norm.register_forward_hook(lambda module, args, out: out * float("nan"))
    asked = {"prompt": "12+34?", "room": 5, "task": "addition", "number": 0, "difficulty": 1}
    with pytest.raises(RuntimeError, match=r"no answer to '12\+34\?': logits must hold no NaN.*, after 0 new tokens"):
        Generator(model, TOKENIZER, group=2, slots=2, size=40).answer([asked], 0)


def _completion(tokens):
    from minizaya.infer.engine import Completion
    return Completion(tokens, "stop", [0.0] * len(tokens), torch.zeros(len(tokens), 2, dtype=torch.int16))


# ---- the run ---------------------------------------------------------------------------------------------------------


def facts(folder):
    lines = [json.loads(line) for line in (folder / "trainer" / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Eight updates in one process without a break: the folder and the weights."""
    folder, model = tmp_path_factory.mktemp("straight"), tiny_model()
    assert run(tiny_job(8), model, TOKENIZER, folder, bar=False)
    return folder, model.state_dict()


def test_staleness_is_bounded_and_recorded(straight):
    folder, _ = straight
    judge(fates(folder))
    lines = facts(folder)
    assert [line["staleness"] for line in lines] == [0, 1] * 4 and [line["batch"] for line in lines] == list(range(8))
    assert all(line["mean_staleness"] == line["staleness"] for line in lines)
    assert sum(line["mixed"] > 0 for line in lines) >= 6  # the weights do move, so the tests below can fail
    assert any(not torch.equal(value, tiny_model().state_dict()[name]) for name, value in straight[1].items())


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_a_trainer_that_dies_changes_no_later_update(straight, tmp_path, monkeypatch, stop_after):
    """Killed in the middle of update `stop_after` + 1, after the batch was taken: the same log and the same weights."""
    class Killed(BaseException):
        pass

    step, calls = TrainerSide.log, []

    def dies(self, record):
        calls.append(record)
        if len(calls) == stop_after + 1:
            raise Killed
        step(self, record)

    monkeypatch.setattr(TrainerSide, "log", dies)
    with pytest.raises(Killed):
        run(tiny_job(8), tiny_model(), TOKENIZER, tmp_path, bar=False)
    monkeypatch.setattr(TrainerSide, "log", step)
    model = tiny_model(seed=9)  # its weights come from the folder, or from the first run's
    if stop_after < 2:
        model = tiny_model()    # no checkpoint yet
    assert run(tiny_job(8), model, TOKENIZER, tmp_path, bar=False)
    assert facts(tmp_path) == facts(straight[0])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in straight[1].items())


def test_a_generator_that_dies_makes_the_same_batch_again(straight, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    put, calls = Shelf.put, []

    def dies(self, number, *rest):
        calls.append(number)
        if len(calls) == 4:
            raise Killed  # the answers are written, the batch is not yet on the shelf
        return put(self, number, *rest)

    monkeypatch.setattr(Shelf, "put", dies)
    with pytest.raises(Killed):
        run(tiny_job(8), tiny_model(), TOKENIZER, tmp_path, bar=False)
    monkeypatch.setattr(Shelf, "put", put)
    assert run(tiny_job(8), tiny_model(), TOKENIZER, tmp_path, bar=False)
    assert facts(tmp_path) == facts(straight[0])


def test_new_weights_in_flight_are_recorded_token_by_token(tmp_path):
    """Weights that arrive while answers are written: later tokens carry the new version, and the cache goes on."""
    shelf, model = Shelf(tmp_path), tiny_model()
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "head.weight"}
    shelf.publish(0, state)
    side = GeneratorSide(tiny_job(8), tiny_model(1), TOKENIZER, shelf)
    asked = [{"task": "copy", "difficulty": 1, "number": 1, "prompt": "Cab?", "room": 20, "kind": "problem"}]
    steps = iter(range(100))

    def refresh():
        if next(steps) == 5:
            shelf.publish(2, {name: value + 0.01 for name, value in state.items()})
        side.refresh()

    found = side.generator.answer(asked, 0, refresh)
    assert {tuple(sorted(set(r.versions))) for r in found if len(r.tokens) > 6} == {(0, 2)}
    assert all(r.versions == sorted(r.versions) and r.versions[:5] == [0] * len(r.versions[:5]) for r in found)


def test_weights_that_are_gone_before_they_are_read_are_not_taken_for_loaded(tmp_path, monkeypatch):
    shelf, model = Shelf(tmp_path), tiny_model()
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "head.weight"}
    shelf.publish(0, state)
    side = GeneratorSide(tiny_job(8), tiny_model(1), TOKENIZER, shelf)
    monkeypatch.setattr(shelf, "weights", lambda: 3)
    side.refresh()
    assert side.version == side.generator.version == 0
    monkeypatch.undo()
    shelf.publish(4, state)
    side.refresh()
    assert side.version == side.generator.version == 4


def test_a_copy_in_low_precision_takes_new_weights_too(tmp_path):
    shelf, model = Shelf(tmp_path), tiny_model()
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "head.weight"}
    shelf.publish(0, state)
    side = GeneratorSide(replace(tiny_job(8), precision=("bfloat16", False)), tiny_model(1), TOKENIZER, shelf)
    shelf.publish(2, {name: value + 0.01 for name, value in state.items()})
    side.refresh()
    held, embedding = side.generator.model.state_dict(), "embed.weight"
    assert torch.equal(held[embedding], (state[embedding] + 0.01).bfloat16().float())


def test_two_processes_and_random_kills(tmp_path):
    """Half a minute of it; `python tests/helpers/kill_pipeline.py --minutes 30` is the long one."""
    found = kill_at_random(tmp_path, 30, seed=1, between=(5.0, 10.0))
    judge(found)
    assert found["kills"]["trainer"] + found["kills"]["generator"] >= 2 and len(found["updates"]) >= 2


def test_one_trainer_and_one_generator_at_a_time(tmp_path):
    """Half an hour of kills found this: an orphan generator beside the new one, and batches made twice."""
    first, second = Shelf(tmp_path / "shelf"), Shelf(tmp_path / "shelf")
    assert first.lock("generator") and first.lock("generator")
    assert not second.lock("generator") and second.lock("trainer")
    with pytest.raises(ValueError, match="another process trains"):
        run(tiny_job(2), tiny_model(), TOKENIZER, tmp_path, bar=False)
    first.unlock()
    second.unlock()
    assert run(tiny_job(2), tiny_model(), TOKENIZER, tmp_path, bar=False)


def test_an_orphan_generator_ends(tmp_path):
    """Its trainer died before it had even started: it must not take the next process for its parent."""
    import os

    Shelf(tmp_path).publish(
        0, {name: value for name, value in tiny_model().state_dict().items() if name != "head.weight"}
    )
    generate_for_ever(tiny_job(2), tiny_model().config, TOKENIZER, str(tmp_path), "cpu",
                      parent=os.getppid() + 1)  # comes back
    assert Shelf(tmp_path).numbers("batch") == []


def test_who_waits_for_another_generator_goes_with_its_parent(tmp_path, monkeypatch):
    """Whoever the orphan's new parent is: not everywhere process 1."""
    held, waits = Shelf(tmp_path), []
    assert held.lock("generator")

    def sleep(seconds):
        waits.append(seconds)
        assert len(waits) < 9

    monkeypatch.setattr(processes.time, "sleep", sleep)
    monkeypatch.setattr(processes.os, "getppid", lambda: 5 if len(waits) < 2 else 77)
    generate_for_ever(tiny_job(2), tiny_model().config, TOKENIZER, str(tmp_path), "cpu", parent=5)
    assert len(waits) == 2 and Shelf(tmp_path).numbers("batch") == []


def test_a_checkpoint_names_every_batch_that_it_covers(straight):
    """A kill before they are gone from the shelf must not bring one of them back."""
    info = checkpoint.read_info(checkpoint.latest(straight[0] / "trainer"))
    assert info["done"] == list(range(8)) and info["step"] == 8


def test_a_generator_that_cannot_start_is_an_error(tmp_path):
    generator = GeneratorProcess(None, tiny_model().config, TOKENIZER, tmp_path)  # no job: it dies at once
    with pytest.raises(RuntimeError, match="died 5 times"):
        for _ in range(5):
            generator.process.join()
            generator.watch()
    generator.stop()


def test_bad_arguments():
    with pytest.raises(ValueError, match="processes must be 1 or 2"):
        run(tiny_job(2), tiny_model(), TOKENIZER, "nowhere", processes=3)
    assert Scheduler({"copy": 1}, {"copy": 3}).draw(0) == []


@pytest.mark.parametrize("aggregation, level", [(0.0, 2), (1.0, 1)])
def test_aggregation_prompts_do_not_move_the_difficulty(aggregation, level):
    """They start from attempts at a problem, so they say nothing about how hard it is."""
    problem = tasks.get("copy").generate(3, 1)
    record = {"task": "copy", "difficulty": 1, "number": 3, "rollouts": [problem.completion] * 4}
    job = replace(tiny_job(1), aggregation=aggregation, records=[record], scheduler=Scheduler({"copy": 1}, {"copy": 3}))
    side = object.__new__(GeneratorSide)
    side.job, side.number, side.model = job, 0, tiny_model()
    right = replace(rollout(), reward=1.0)
    side.generator = SimpleNamespace(answer=lambda asked, *rest: [right] * (len(asked) * job.group))
    side.shelf = SimpleNamespace(put=lambda *rest: None)
    assert side.make()["levels"] == {"copy": level}


def test_deaths_count_only_in_a_row(monkeypatch, capsys):
    """A generator that makes a batch before it dies may die as often as it likes."""
    side, made = object.__new__(GeneratorProcess), iter(range(100))
    side.seen, side.deaths, side.process = None, 0, SimpleNamespace(is_alive=lambda: False, exitcode=-9)
    side.shelf, side.start = SimpleNamespace(newest_info=lambda: {"number": next(made)}), lambda: None
    for _ in range(12):
        side.watch()
    side.shelf = SimpleNamespace(newest_info=lambda: {"number": 11})
    with pytest.raises(RuntimeError, match="died 5 times"):
        for _ in range(4):
            side.watch()
    assert capsys.readouterr().err.count("starting it again") == 15


# ---- what is shown and written down ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [False, True])
def test_the_bar_counts_updates_and_shows_the_reward(tmp_path, monkeypatch, stopped):
    """From where the run was; an update that found no fresh batch is none. Ctrl-C ends the run after an update."""
    shown, watched, waits = [], [], []

    class Bar:
        def __init__(self, **settings):
            shown.append(settings)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def update(self, by=1):
            shown.append(by)

        def set_postfix(self, refresh=True, **figures):
            shown.append((refresh, figures))

    class Side:
        def __init__(self, *rest):
            self.updates, self.turns = 3, iter([0, 1, 1])

        def ready(self):
            waits.append("ready")
            return len(waits) > 2

        def step(self):
            fresh = next(self.turns)
            self.updates += fresh
            if stopped:
                pipeline.signal_stop.append(True)
            return {"reward": 0.456} if fresh else None

    monkeypatch.setattr(pipeline, "tqdm", Bar)
    monkeypatch.setattr(pipeline, "TrainerSide", Side)
    monkeypatch.setattr(pipeline, "GeneratorSide", lambda *rest: SimpleNamespace(work=lambda: waits.append("work")))
    monkeypatch.setattr(pipeline, "signal_stop", [], raising=False)
    monkeypatch.setattr(pipeline, "interrupts", lambda: nullcontext(pipeline.signal_stop))
    done = run(tiny_job(5), tiny_model(), TOKENIZER, tmp_path, watch=watched.append)
    assert shown[0] == dict(total=5, initial=3, desc="rl", unit="update", disable=False)
    steps = [] if stopped else [1, (False, {"reward": "0.46"})] * 2
    assert shown[1:] == steps and watched == [{"reward": 0.456}] * (len(steps) // 2) and done is not stopped
    assert waits[:3] == ["ready", "work", "ready"] and waits.count("work") == 1


def test_a_batch_says_what_it_was_made_of():
    """Pass rates by problem, the difficulties after it, tokens and flags; it is number's next one's turn then."""
    side, put = object.__new__(GeneratorSide), []
    side.job, side.number, side.model = tiny_job(1), 6, tiny_model()
    drawn = [replace(rollout(), reward=float(i < 3), flags=("rare",) * (i % 3 == 0)) for i in range(8)]
    side.generator = SimpleNamespace(answer=lambda asked, *rest: drawn)
    side.shelf = SimpleNamespace(put=lambda *given: put.append(given))
    info = side.make()
    assert put == [(6, drawn, side.model.config.num_experts, info)] and side.number == 7
    assert (info["number"], info["flags"], info["tokens"]) == (6, 3, 16)
    assert info["rates"] == [["copy", 1, "problem", 0.75], ["parity", 1, "problem", 0.0]]
    assert info["levels"] == {"copy": 2, "parity": 1} and info["scheduler"] == side.job.scheduler.state()


def test_new_weights_are_looked_for_at_every_sixteenth_step():
    side, looked = object.__new__(GeneratorSide), []
    side.job, side.number, side.refresh = tiny_job(1), 0, lambda: looked.append(True)

    def answer(asked, seed, refresh):
        for _ in range(33):
            refresh and refresh()
        return []

    side.generator = SimpleNamespace(answer=answer)
    for in_flight, times in ((False, 0), (True, 3)):
        looked.clear()
        with pytest.raises(ZeroDivisionError):      # no answers came
            side.make(in_flight)
        assert len(looked) == times


def test_aggregation_prompts_are_of_one_to_four_tails_of_either_kind():
    """Each number of tails as often as another, half of them an expert's; a record's own room and number."""
    import random
    problem = tasks.get("modchain").generate(3, 12)
    records = [{"task": "modchain", "difficulty": 12, "number": 3, "rollouts": [problem.completion] * 5}]
    drawn = [draw_aggregation(records, random.Random(seed)) for seed in range(200)]
    counts = [sum(d["prompt"].count("|") == count for d in drawn) for count in (1, 2, 3, 4)]
    assert sum(counts) == 200 and min(counts) >= 30 and max(counts) <= 70
    assert 75 <= sum(d["kind"] == "own tails" for d in drawn) <= 125
    assert {(d["task"], d["difficulty"], d["number"], d["room"]) for d in drawn} == {
        ("modchain", 12, 3, room("modchain", 12))}


def test_the_staleness_of_a_batch_is_that_of_its_tokens(tmp_path):
    side, written = object.__new__(TrainerSide), []
    side.job, side.updates, side.done, side.before = replace(tiny_job(9), group=1), 4, set(), 0.0
    mixed = replace(rollout(), versions=[2, 3])
    side.shelf = SimpleNamespace(take=lambda oldest: (7, [rollout(4), mixed, rollout(4)], [5]) if oldest == 2 else None)
    side.learner = SimpleNamespace(update=lambda rollouts, group: {"reward": 0.5})
    side.log = written.append
    side.step()
    assert written[0] == {"stale": 5} and side.done == {5, 7}
    assert {key: value for key, value in written[1].items() if key != "seconds"} == {
        "update": 5, "batch": 7, "staleness": 2, "mean_staleness": 0.5, "reward": 0.5}


def test_a_generator_that_never_takes_new_weights_ends_the_run(tmp_path, monkeypatch):
    """A run that throws every batch away would go on for ever."""
    fresh = iter([True, True, True, False, False, False, True] + [False] * 20)

    def make(self, in_flight=False):
        self.shelf.put(self.number, [rollout(10**6 * next(fresh))], 1, {"number": self.number})
        self.number += 1

    monkeypatch.setattr(GeneratorSide, "make", make)
    monkeypatch.setattr(pipeline, "STALENESS", -1)
    monkeypatch.setattr(pipeline.Learner, "update", lambda self, rollouts, group: {"reward": 0.0})
    with pytest.raises(RuntimeError, match="the last 8 batches were too old to train update 5 on; does the generator"):
        run(replace(tiny_job(9), group=1), tiny_model(), TOKENIZER, tmp_path, bar=False)
    assert sum("stale" in json.loads(line) for line in (tmp_path / "trainer/log.jsonl").read_text().splitlines()) == 11


def test_a_batch_is_enough_to_learn_from():
    side = object.__new__(TrainerSide)
    for waiting in (0, 1, 2):
        side.updates, side.shelf = 1, SimpleNamespace(numbers=lambda kind, n=waiting: [0] * n)
        assert side.ready() == (waiting > 0)


def test_two_processes_take_a_thread_each_and_give_it_back(tmp_path, monkeypatch):
    seen, idle = [], SimpleNamespace(stop=lambda: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(pipeline, "GeneratorProcess", lambda *given: idle)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run(tiny_job(0), tiny_model(), TOKENIZER, tmp_path, processes=2, bar=False)
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
