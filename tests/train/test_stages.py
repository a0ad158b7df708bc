"""The stages: packed rows train as their documents do one by one, the table is the report's,
and a stopped run goes on."""

import itertools
import json
import random
from collections import Counter
from dataclasses import replace
from importlib.resources import files

import pytest
import torch
import torch.nn.functional as F

import minizaya as mz
from minizaya.data import tasks, text
from minizaya.data.chat import Chat, encode
from minizaya.data.tokenizer import CharTokenizer
from minizaya.train import checkpoint, evaluate, stages
from minizaya.train import sources as the_sources
from minizaya.train.loop import Recipe, Trainer
from minizaya.train.sources import (
    IGNORE,
    mixture,
    packed_source,
    problem_documents,
    seed_of,
    task_source,
    text_source,
    training_problem,
)

TOKENIZER = CharTokenizer(text.ALPHABET, unknown="unk")
TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
            moe_intermediate_size=16, router_hidden_size=8, num_experts=3)
LEVELS = {"addition": (1, 3), "sorting": (1, 4), "modchain": (2, 5)}


def tiny_model():
    torch.manual_seed(0)
    return mz.Zaya(mz.ZayaConfig.preset("nano", **TINY))


def test_packed_rows_train_as_the_documents_do_alone():
    """One step on packed rows: loss and every gradient are those of the documents, each in a batch of its own."""
    model = tiny_model().double()
    batch = packed_source("p", problem_documents(LEVELS, TOKENIZER), 3, 61, TOKENIZER.pad_id, seed=3)(0)
    out = model(batch.inputs, doc_ids=batch.doc_ids)
    loss = F.cross_entropy(out.logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum")
    loss.backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = torch.zeros((), dtype=torch.float64)
    for i in batch.doc_ids.unique().tolist():
        if i >= 0:
            inside = batch.doc_ids == i
            logits = model(batch.inputs[inside][None]).logits
            alone = alone + F.cross_entropy(logits[0], batch.targets[inside], ignore_index=IGNORE, reduction="sum")
    alone.backward()
    assert loss.item() == pytest.approx(alone.item(), rel=1e-12)
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(packed[name], p.grad, rtol=1e-9, atol=1e-9, msg=name)


def test_the_loop_reads_documents_apart():
    """The trainer must hand the document numbers to the model: without them the loss is another."""
    source = packed_source("p", problem_documents(LEVELS, TOKENIZER), 3, 61, TOKENIZER.pad_id, seed=3)
    trainer = Trainer(tiny_model(), Recipe(steps=2, warmup=1), mixture(source))
    record = trainer.train_step()
    batch, model = source(0), tiny_model()
    for doc_ids, same in ((batch.doc_ids, True), (None, False)):
        logits = model(batch.inputs, doc_ids=doc_ids).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE).item()
        assert (abs(loss - record["loss"]) < 1e-5) == same
    assert record["tokens"] == int(batch.valid.sum())


def test_packed_source_is_a_pure_function_of_the_step():
    source = packed_source("p", problem_documents(LEVELS, TOKENIZER), 4, 50, TOKENIZER.pad_id, seed=1)
    random.seed(5)
    again = packed_source("p", problem_documents(LEVELS, TOKENIZER), 4, 50, TOKENIZER.pad_id, seed=1)(7)
    assert torch.equal(source(7).inputs, again.inputs) and not torch.equal(source(7).inputs, source(8).inputs)
    for step in range(5):
        batch = source(step)
        assert batch.inputs.shape[1] == 50 and 4 <= len(batch.inputs) <= 6  # gaps cost a row or two
        answered = TOKENIZER.decode(batch.targets[batch.targets != IGNORE].tolist())
        assert answered.count(tasks.END) == int((batch.doc_ids.unique() >= 0).sum())  # every answer is there, whole
    for bad in dict(rows=0), dict(capacity=0):
        with pytest.raises(ValueError, match=next(iter(bad))):
            packed_source("p", None, **dict(rows=1, capacity=9) | bad, pad_id=0, seed=0)


@pytest.mark.parametrize("in_a_row, fits", [(the_sources.SEARCH_LIMIT - 1, True), (the_sources.SEARCH_LIMIT, False)])
def test_only_misses_in_a_row_stop_a_source(in_a_row, fits):
    """Documents that do not fit, twice 999 of them with one that fits between."""
    encoded = {long: encode([{"role": "assistant", "content": "12" + "3" * 90 * long}], TOKENIZER) for long in (0, 1)}
    turn = itertools.count(1)
    capacity = len(encoded[0].tokens)
    source = packed_source("p", lambda rng: encoded[bool(next(turn) % (in_a_row + 1))], 2, capacity, 0, seed=0)
    if fits:
        assert (source(0).doc_ids >= 0).sum() == 2 * capacity
    else:
        with pytest.raises(ValueError, match="capacity must hold the documents of p"):
            source(0)


def test_the_real_table_is_the_reports():
    assert [row["tokens"] for row in stages.REAL] == [8e12, 4e12, 1.2e12, 660e9]
    assert [row["context"] for row in stages.REAL] == [4096, 4096, 32768, 131072]
    assert [row["rope_theta"] for row in stages.REAL] == [1e4, 1e4, 1e6, 5e6]
    assert [row["stage"] for row in stages.rows()] == [row["name"] for row in stages.REAL] + ["sheets", "parts"]
    assert [row["real"] is None for row in stages.rows()] == [False] * 4 + [True] * 2
    for row in stages.REAL[2:]:
        assert sum(row["mixture"].values()) == pytest.approx(1, abs=0.003)  # rounded in the report
    for stage in stages.TOY + stages.SHEETS:
        assert stages.text_table().count(f"\n{stage.name} ") == 1
    bases = [stage.rope_theta for stage in stages.TOY]
    assert bases == sorted(bases) and bases[0] < bases[2] < bases[3]
    assert json.loads(json.dumps(stages.rows()))


def test_the_shipped_models_were_trained_by_the_tables():
    """Their cards say how many steps each stage took, of 4,096 tokens each. The rest of a row stands here again."""
    for name, table in (("nano-reasoner", stages.TOY), ("nano-sheets", stages.ALL)):
        facts, rl = mz.zoo.card(name)["stages"][: len(table)], mz.zoo.card(name)["stages"][len(table):]
        assert [(fact["stage"], fact["steps"]) for fact in rl] == ([("7-rl", 48)] if table == stages.ALL else [])
        assert [fact["stage"] for fact in facts] == [f"{i}-{stage.name}" for i, stage in enumerate(table, start=1)]
        assert [fact["steps"] for fact in facts] == [round(stage.tokens / 4096) for stage in table]
        config = checkpoint.read_info(mz.zoo.folder(name))["config"]
        assert (config["rope_theta"], config["num_experts"], config["moe_intermediate_size"]) == (5e4, 8, 256)
    assert [(s.context, s.rope_theta, s.mixture, s.lr, s.final_share, s.rollouts, s.focus) for s in stages.ALL] == [
        (128, 1e3, {"text": 0.1, "problems": 0.9}, 5e-3, 0.4, 0, None),
        (128, 1e3, {"text": 0.05, "problems": 0.95}, 2e-3, 0.5, 0, None),
        (256, 1e4, {"text": 0.05, "problems": 0.95}, 2e-3, 0.5, 0, None),
        (512, 5e4, {"problems": 0.3, "aggregation": 0.7}, 3e-3, 0.0, 9000, None),
        (512, 5e4, {"problems": 1.0}, 4e-3, 0.5, 0, "sheet"),
        (640, 5e4, {"problems": 0.25, "aggregation": 0.75}, 3e-3, 0.0, 3000, "sheet")]
    assert stages.EXPERTS == {"num_experts": 8, "moe_intermediate_size": 256}


def test_model_cards_look_where_the_shipped_ones_did():
    """The newest shipped model knows all tasks, and its card has one figure for each difficulty."""
    card = json.loads(files("minizaya").joinpath("checkpoints", "nano-sheets", "card.json").read_text())
    assert {task: tuple(map(int, levels)) for task, levels in card["accuracy"].items()} == evaluate.LEVELS


def test_what_each_stage_reads():
    """Hardest short and long problems, and the difficulties whose rollouts become aggregation examples."""
    wanted = {"addition": (8, 16), "base": (3, 5), "chain100": (8, 20), "copy": (12, 25), "countdown": (3, 4),
              "falsify": (3, 5), "invert": (3, 5), "modchain": (12, 25), "parity": (10, 20), "program": (5, 8),
              "reverse": (12, 25), "sorting": (8, 12)}
    assert stages.SHORT == {name: (1, short) for name, (short, _) in wanted.items()}
    assert stages.LONG == {name: (1, long) for name, (_, long) in wanted.items()}
    assert [stage.levels for stage in stages.TOY] == [stages.SHORT, *[stages.LONG] * 3]
    assert all(stage.levels == stages.LONG | {"rule": (1, 3), "sheet": (1, 24)} for stage in stages.SHEETS)
    assert stages.AGGREGATED == {"addition": (6, 16), "chain100": (8, 25), "countdown": (1, 4), "falsify": (1, 4),
                                 "modchain": (10, 25), "sheet": (1, 24)}


def test_the_table_reads_so():
    assert stages.text_table().splitlines() == [
        "stage          tokens   context  RoPE base |  ZAYA1-8B: tokens   context  RoPE base",
        "base-1          6.0M       128       1000 |             8.00T      4096      10000",
        "base-2          3.0M       128       1000 |             4.00T      4096      10000",
        "extension       2.5M       256      10000 |             1.20T     32768    1000000",
        "sft            10.0M       512      50000 |             0.66T    131072    5000000",
        "sheets          3.0M       512      50000 |  (our own: answers with parts)",
        "parts           6.0M       640      50000 |  (our own: answers with parts)"]
    assert [row["mixture"] for row in stages.REAL] == [None, None, *(
        dict(zip(("long reasoning", "web, synthetic, multilingual", "native long context", "code", "math and STEM",
                  "short instructions"), shares)) for shares in ((0.861, 0.057, 0.008, 0.030, 0.030, 0.014),
                                                                  (0.750, 0.098, 0.064, 0.050, 0.026, 0.012)))]


@pytest.mark.parametrize("share, steps, problems", [(1.0, 10, 90), (0.1, 1, 9), (0.01, 1, 2)])
def test_how_a_stage_is_trained(tmp_path, monkeypatch, share, steps, problems):
    """By Muon, with a warm-up of at most 50 steps; a checkpoint every 100; rollouts by its share, two at least."""
    made, drawn = [], []

    class Still:
        def __init__(self, model, recipe, batches, folder, keep, resume):
            made.append((recipe, folder.name, keep["stage"]["name"], resume))

        def train(self, **settings):
            assert settings == dict(save_every=100, bar=False)
            return len(made) < 2

    monkeypatch.setattr(stages, "Trainer", Still)
    monkeypatch.setattr(stages, "rollouts", lambda path, model, tokenizer, levels, count, seed, focus: drawn.append(
        (path.name, levels, count, seed, focus)) or [{"rollouts": [""] * 4}])
    kinds = dict(levels=LEVELS, rollouts=90, tokens=10 * stages.TOKENS_A_STEP, context=48)
    table = (replace(stages.TOY[0], **kinds), replace(stages.TOY[3], focus="addition", **kinds), stages.TOY[0])
    assert not stages.train(tmp_path, table, share=share, seed=7, sizes=TINY, resume=True, bar=False)
    first, second = (Recipe(steps, lr=lr, warmup=min(50, steps), seed=7, optimizer="muon", final_share=end)
                     for lr, end in ((5e-3, 0.4), (3e-3, 0.0)))
    assert made == [(first, "1-base-1", "base-1", True), (second, "2-sft", "sft", True)]    # and then it was stopped
    wanted = {"addition": (6, 16), "modchain": (10, 25)}
    assert drawn == [("2-sft.jsonl", wanted, problems, 7, "addition")]


def test_rollouts_have_room_for_the_longest_solution_and_32_tokens(tmp_path, monkeypatch):
    """In batches of 32 problems of like length, eight answers each, in the order of their prompts."""
    asked = []
    monkeypatch.setattr(stages, "generate", lambda model, prompts, room, stop, seed: asked.append((prompts, room)) or [
        TOKENIZER.encode(str(i % 10)) for i in range(len(prompts))])
    found = stages.rollouts(tmp_path / "a.jsonl", None, TOKENIZER, {"copy": (1, 9)}, 40, 0)
    problems = [tasks.get("copy").generate(record["number"], record["difficulty"]) for record in found]
    lengths = [len(problem.completion) for problem in problems]
    assert lengths == sorted(lengths) and [len(prompts) for prompts, _ in asked] == [32 * 8, 8 * 8]
    assert [room for _, room in asked] == [lengths[31] + 32, lengths[-1] + 32]
    assert asked[1][0][:8] == [TOKENIZER.encode(problems[32].prompt)] * 8
    assert [record["rollouts"][0] for record in found[:3]] == ["0", "8", "6"]
    assert stages.rollouts(tmp_path / "a.jsonl", None, TOKENIZER, {}, 0, 0) == found      # read, not made again


def test_bad_tables_are_refused():
    stage = stages.TOY[0]
    with pytest.raises(ValueError, match="mixture may hold"):
        replace(stage, mixture={"web": 1.0})
    with pytest.raises(ValueError, match="add up to 1"):
        replace(stage, mixture={"text": 0.5, "problems": 0.4})
    with pytest.raises(ValueError, match="add up to 1"):
        replace(stage, mixture={"text": 1.5, "problems": -0.5})
    with pytest.raises(ValueError, match="positive shares"):
        replace(stage, mixture={"text": 1.0, "problems": 0.0})
    for wrong in (dict(tokens=0), dict(context=0), dict(context=1.5), dict(rope_theta=-1.0), dict(lr=0.0),
                  dict(final_share=float("nan")), dict(rollouts=-1), dict(focus="chess"),
                  dict(mixture={"text": float("nan")})):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
            replace(stage, **wrong)
    for share in (0, 1.01):
        with pytest.raises(ValueError, match="share must lie in .0, 1"):
            stages.train("nowhere", share=share)


def small_table():
    base, _, extension, sft = stages.TOY
    return tuple(replace(stage, tokens=tokens, context=context, levels=LEVELS, rollouts=6) for stage, tokens, context in
                 ((base, 6 * stages.TOKENS_A_STEP, 48), (extension, 3 * stages.TOKENS_A_STEP, 96),
                  (sft, 4 * stages.TOKENS_A_STEP, 192)))


def weights(out):
    folder = checkpoint.latest(out / "3-sft")
    return checkpoint.read_tensors(folder / "model.safetensors")


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr(stages, "TOKENS_A_STEP", 400)


def test_stopped_in_every_stage_and_resumed(tmp_path, monkeypatch, small_steps):
    """Stopped in the middle of each stage, and between two, a resumed run ends with the same weights bit for bit."""
    table = small_table()
    assert stages.train(tmp_path / "whole", table, sizes=TINY, bar=False)
    true_train = Trainer.train
    for stop_after in (2, 5, None):  # each pass trains `stop_after` more steps, then stops
        if stop_after:
            def stopping(self, stop_after=stop_after, **settings):
                return true_train(self, **settings | dict(until=self.step + stop_after))
            monkeypatch.setattr(Trainer, "train", stopping)
        else:
            monkeypatch.setattr(Trainer, "train", true_train)
        done = stages.train(tmp_path / "parts", table, sizes=TINY, resume=True, bar=False)
    assert done
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    records = [json.loads(line) for line in (tmp_path / "whole" / "3-sft.jsonl").read_text().splitlines()]
    assert all(len(record["rollouts"]) == 8 and record["task"] in LEVELS for record in records)
    for record in records:
        problem = tasks.get(record["task"]).generate(record["number"], record["difficulty"])
        assert tasks.split(problem) == "train"
    with pytest.raises(ValueError, match="holds a run already"):
        stages.train(tmp_path / "whole", table, sizes=TINY, bar=False)
    with pytest.raises(ValueError, match=r"stage\.rope_theta of .* is 1000\.0, got 7\.0"):
        stages.train(tmp_path / "whole", (replace(table[0], rope_theta=7.0), *table[1:]), sizes=TINY, resume=True,
                     bar=False)


def test_weights_carry_over_and_the_base_is_raised(tmp_path, small_steps):
    table = tuple(replace(stage, lr=1e-12) for stage in small_table())  # so small a rate moves nothing visibly
    stages.train(tmp_path, table, sizes=TINY, bar=False)
    first, last = (checkpoint.latest(tmp_path / name) for name in ("1-base-1", "3-sft"))
    before, after = (checkpoint.read_tensors(folder / "model.safetensors") for folder in (first, last))
    matrices = [name for name in before if before[name].dim() > 1]  # the balancer moves the routing biases
    assert matrices and all(torch.allclose(before[name], after[name], atol=1e-6) for name in matrices)
    assert checkpoint.read_info(first)["config"]["rope_theta"] == table[0].rope_theta
    assert checkpoint.read_info(last)["config"]["rope_theta"] == table[-1].rope_theta


# ---- chances ---------------------------------------------------------------------------------------------------------


def inputs(batch):
    return batch.inputs.tolist()


@pytest.mark.parametrize("make", [
    lambda seed: text_source(list(range(900)), 3, 8, seed),
    lambda seed: task_source("addition", 9, TOKENIZER, 3, seed),
    lambda seed: packed_source("p", problem_documents({"addition": (9, 9)}, TOKENIZER), 1, 60, TOKENIZER.pad_id, seed)])
def test_no_two_pairs_of_seed_and_step_draw_the_same(make):
    """Neither sums nor traded places collide, at small numbers and at the large ones that a formula may multiply by."""
    pairs = [(a, b) for a in (0, 1, 2, 12, 120) for b in (0, 1, 2, 12, 120)] + [(-1, 1), (10**6, 3), (3, 10**6)]
    drawn = [inputs(make(seed)(step)) for seed, step in pairs]
    assert all(one != two for i, one in enumerate(drawn) for two in drawn[:i])
    assert drawn == [inputs(make(seed)(step)) for seed, step in pairs]


def test_the_name_of_a_source_has_chances_of_its_own():
    draw = problem_documents({"addition": (9, 9)}, TOKENIZER)
    one, two = (packed_source(name, draw, 1, 60, TOKENIZER.pad_id, 0) for name in ("problems", "aggregation"))
    assert inputs(one(0)) != inputs(two(0))


def test_a_model_trains_on_traces_that_may_fall_short():
    """Of a sheet of 24 a worked solution finds every pair; what is trained on leaves some open."""
    draw = problem_documents({"sheet": (24, 24), "copy": (3, 3)}, TOKENIZER)
    told = [TOKENIZER.decode(draw(random.Random(seed)).tokens) for seed in range(20)]
    lists = [text.partition("#")[2] for text in told if text.startswith("Q")]
    assert 3 < len(lists) < 17 and all("?" in text and text.endswith("$") for text in lists)


def test_every_second_problem_is_of_the_focus(tmp_path, monkeypatch):
    draw = problem_documents({"addition": (9, 9), "copy": (3, 3), "sheet": (2, 2)}, TOKENIZER, "sheet")
    firsts = [TOKENIZER.decode(draw(random.Random(seed)).tokens)[0] for seed in range(600)]
    # a half and a third of the other half: 400 of 600, with a standard deviation of 12; a third each without a focus
    assert abs(firsts.count("Q") - 400) < 60 and firsts.count("C") > 50 < sum(map(str.isdigit, firsts))
    monkeypatch.setattr(stages, "generate", lambda model, prompts, room, stop, seed: [[1]] * len(prompts))
    levels = {"addition": (1, 3), "copy": (3, 3), "sheet": (2, 4)}
    for focus, wanted in (("copy", {"addition": 4, "copy": 12 + 4, "sheet": 4}),
                          (None, {"addition": 8, "copy": 8, "sheet": 8})):
        found = stages.rollouts(tmp_path / f"{focus}.jsonl", None, TOKENIZER, levels, 24, 0, each=1, focus=focus)
        assert {name: [record["task"] for record in found].count(name) for name in levels} == wanted


def test_seeds_of_parts():
    grid = [(a, b) for a in range(-3, 12) for b in range(-3, 12)] + [(str(a), b) for a in range(4) for b in range(4)]
    grid += [(1, 23), (12, 3), ("1/2", 3), ("1", "2/3"), (123,), (1, 2, 3)]
    seeds = {seed_of(*parts) for parts in grid}
    assert len(seeds) == len(set(grid)) and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of("stages", 0, 1) == 5773953279587726961      # the same on every machine


def test_each_stage_of_each_seed_draws_its_own(tmp_path, monkeypatch):
    """Stage 2 of seed 0 is not stage 1 of seed 1: what a stage reads comes from both numbers."""
    seen, table = [], tuple(replace(stages.TOY[0], name=name, context=48, levels=LEVELS) for name in "abc")

    class Still:
        def __init__(self, model, recipe, batches, *rest):
            seen.extend(batch.inputs.flatten().tolist() for batch in batches(0))

        def train(self, **settings):
            return True

    monkeypatch.setattr(stages, "Trainer", Still)
    monkeypatch.setattr(stages, "TOKENS_A_STEP", 480)
    for seed in (0, 1, 2):
        stages.train(tmp_path, table, share=0.01, seed=seed, sizes=TINY, bar=False)
    assert len(seen) == 3 * 3 * 2 and len({tuple(tokens) for tokens in seen}) == len(seen)


def test_rollouts_of_other_seeds_and_batches_are_other_chances(tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr(stages, "generate", lambda model, prompts, room, stop, seed: seeds.append(seed) or
                        [[] for _ in prompts])
    for seed in (0, 32, 64):
        stages.rollouts(tmp_path / f"{seed}.jsonl", None, TOKENIZER, {"copy": (3, 3)}, 70, seed, each=1)
    assert len(seeds) == 9 == len(set(seeds))


# ---- documents that do not fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_documents_that_never_fit_are_an_error(capacity):
    source = packed_source("p", problem_documents({"copy": (20, 20)}, TOKENIZER), 1, capacity, TOKENIZER.pad_id, 0)
    with pytest.raises(ValueError, match=f"capacity must hold the documents of p.*fits into {capacity} tokens"):
        source(0)


def test_documents_without_a_token_are_an_error():
    with pytest.raises(ValueError, match="capacity must hold the documents"):
        packed_source("p", lambda rng: Chat([], [], ()), 1, 9, 0, 0)(0)


def test_some_that_fit_are_enough():
    fits = problem_documents({"copy": (1, 1)}, TOKENIZER)
    never = problem_documents({"copy": (25, 25)}, TOKENIZER)
    source = packed_source("p", lambda rng: (fits if rng.random() < 0.05 else never)(rng), 1, 12, TOKENIZER.pad_id, 0)
    assert 1 <= len(source(0).inputs) <= 2


def test_documents_are_made_of_training_problems_alone():
    """One prompt in ten is held out: what models are measured by is in no document."""
    for seed in range(60):
        number, problem = training_problem("copy", 3, random.Random(seed))
        assert tasks.split(problem) == "train" and problem == tasks.get("copy").generate(number, 3)


def test_a_difficulty_without_a_training_problem_is_an_error(monkeypatch):
    monkeypatch.setattr(tasks, "split", lambda problem: "held_out")
    with pytest.raises(ValueError, match="copy at 2 has no train problem"):
        training_problem("copy", 2, random.Random(0))


def test_documents_are_drawn_from_all_tasks_and_levels(monkeypatch):
    drawn = Counter()
    monkeypatch.setattr(the_sources, "training_problem", lambda name, level, rng: (
        drawn.update([(name, level)]) or (0, tasks.get(name).generate(0, level))))
    draw, rng = problem_documents({"copy": (1, 3), "parity": (2, 2)}, TOKENIZER), random.Random(0)
    for _ in range(600):
        draw(rng)
    wanted = {("parity", 2): 300, **{("copy", level): 100 for level in (1, 2, 3)}}
    assert drawn.keys() == wanted.keys()     # within four standard deviations of these
    assert all(abs(drawn[key] - n) < 4 * (n * (1 - n / 600)) ** 0.5 for key, n in wanted.items())


def test_a_stages_rows_are_its_shares_of_the_tokens(monkeypatch):
    asked = {}
    monkeypatch.setattr(stages, "text_source", lambda tokens, rows, context, seed: asked.update(text=(rows, context)))
    monkeypatch.setattr(stages, "packed_source",
                        lambda name, draw, rows, context, pad, seed: asked.update({name: (rows, context)}))
    mixed = stages.Stage("x", 1, 128, 1e4, {"text": 0.25, "problems": 0.75})
    stages.sources(mixed, TOKENIZER, 0)
    assert asked == {"text": (8, 128), "problems": (24, 128)} and stages.TOKENS_A_STEP == 4096
