"""`minizaya evaluate`: layouts of questions, answers and how they are compared, runs that are killed, scores."""

import io
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minizaya.__main__ as cli
from minizaya import zoo
from minizaya.data import tasks
from minizaya.infer.rsa import SETTINGS, RSAConfig
from minizaya.plots import evaluation
from minizaya.studies.evaluation import answers, asking, math_judge, published, questions, scores
from minizaya.studies.evaluation.answers import Judge, answer_of
from minizaya.studies.evaluation.questions import Question

ASKED = Question("?", "\\frac{1}{2}", "answer")


# ---- questions -------------------------------------------------------------------------------------------------------


def written(folder, *lines, name="q.jsonl"):
    path = folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("line, begins, answer, kind", [
    ({"question": "1+1?", "answer": 2}, "1+1?", "2", "answer"),
    ({"ID": "2024-I-1", "Problem": "Find x.", "Solution": "..", "Answer": 70}, "Find x.", "70", "answer"),
    ({"problem_idx": 1, "problem": "Find y.", "answer": "\\frac{3}{2}"}, "Find y.", "\\frac{3}{2}", "answer"),
    ({"problem": "Find z.", "expected_answer": "4"}, "Find z.", "4", "answer"),
    ({"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2}, "Which?\n\nA. a\nB. b\nC. c", "C", "choice"),
    ({"question": "Which?", "options": ["x", "y"], "answer": "B", "answer_index": 1}, "Which?\n\nA. x", "B", "choice"),
    ({"question": "Which?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}, "Which?", "B",
     "choice"),
    ({"question": "Which?", "choices": ["7", "1"], "answer": "7"}, "Which?", "A", "choice"),
], ids=str)
def test_layouts(tmp_path, line, begins, answer, kind):
    asked, = questions.read(str(written(tmp_path, line)), None, 1, raw=False)[0]
    assert asked.prompt.startswith(begins) and "\\boxed{}" in asked.prompt
    assert (asked.answer, asked.kind) == (answer, kind)
    raw, = questions.read(str(written(tmp_path, line)), None, 1, raw=True)[0]
    assert asked.prompt.startswith(raw.prompt) and "boxed" not in raw.prompt


def test_gpqas_choices_are_shuffled_and_the_right_one_is_found():
    letters = Counter()
    for i in range(40):
        line = {"Question": f"q{i}", "Correct Answer": "yes"} | {f"Incorrect Answer {j}": f"no{j}" for j in (1, 2, 3)}
        asked = questions.question_of(line, raw=True)
        assert f"{asked.answer}. yes" in asked.prompt and asked == questions.question_of(line, raw=True)
        letters[asked.answer] += 1
    assert set(letters) == set("ABCD")


@pytest.mark.parametrize("line, says", [
    ("{", "line 2: "), ("[1]", "line 2: must be an object"), ({"answer": 1}, "line 2: needs a field question"),
    ({"question": "q"}, "line 2: needs a field answer"), ({"question": "q", "answer": ""}, "line 2: answer must"),
    ({"question": ["q"], "answer": "1"}, "line 2: question must"), ({"question": "q", "answer": True}, "answer must"),
    ({"question": "q", "choices": ["a"], "answer": 0}, "line 2: choices must"),
    ({"question": "q", "options": ["a", "b"], "answer": "E"}, "line 2: answer must be a letter"),
    ({"question": "q", "choices": {"text": "ab"}, "answer": "A"}, "line 2: choices must"),
    ({"key": 1, "prompt": "p", "instruction_id_list": ["x"]}, "line 2: instruction_id_list: .*lm-eval"),
    ("[" * 100_000, "line 2: "),
], ids=lambda value: str(value)[:40])
def test_wrong_files_are_refused_by_line_and_field(tmp_path, line, says):
    path = written(tmp_path, {"question": "q", "answer": "1"}, line)
    with pytest.raises(ValueError, match=f"(?s)questions: .*q.jsonl, {says}" if says.startswith("line") else says):
        questions.read(str(path), None, 1, raw=False)


def test_a_file_is_there_and_holds_something(tmp_path):
    with pytest.raises(ValueError, match="must be a file of JSON lines, .*tight.*, got 'nowhere.jsonl'"):
        questions.read("nowhere.jsonl", None, 1, raw=False)
    with pytest.raises(ValueError, match="holds none"):
        questions.read(str(written(tmp_path, "", "")), None, 1, raw=False)


def test_any_task_is_a_file_of_questions():
    asked, rsa, room = questions.read("task:copy:3", 30, 7, raw=False)
    problems = tasks.problems("copy", "held_out", 3, 30, 7)
    assert [question.problem for question in asked] == problems and rsa is None
    assert room > max(len(problem.completion) for problem in problems)
    prompts = [question.prompt for question in asked]
    assert [question.copy for question in asked] == [prompts[:i].count(prompts[i]) for i in range(30)]
    with Judge() as judge:
        assert judge.right(asked[0], problems[0].completion) and not judge.right(asked[0], "")
    _, rsa, room = questions.read("tight", 2, 1, raw=False)
    assert room == rsa.beta
    exam, rsa, room = questions.read("exam", 7, 1, raw=False)
    assert [question.problem.difficulty for question in exam] == [1, 24, 2, 24, 3, 24, 1] and room == rsa.beta
    for wrong in ("task:copy", "task:copy:x", "task:none:3", "task:copy:99"):
        with pytest.raises(ValueError, match="must be"):
            questions.read(wrong, 2, 1, raw=False)


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, answer", [
    ("so \\boxed{1} or \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"), ("\\boxed{a\\}b}", "a\\}b"), ("\\boxed{1", None),
    ("The answer is 12.\n", "12"), ("**Answer:** 7", "7"), ("answer: 3. No, the answer is 4", "4"), ("", None),
    ("<think>\\boxed{1}", None), ("<think>\\boxed{1}</think>\\boxed{2}", "2"), ("<think>a</think>none", None),
    ("a1b2#132$", "132"), ("{" * 10**5 + "\\boxed{" * 10**5, None)], ids=lambda value: str(value)[:30])
def test_where_an_answer_stands(text, answer):
    assert answer_of(ASKED, text) == answer


@pytest.mark.parametrize("text, letter", [("\\boxed{B}", "B"), ("\\boxed{\\text{(C)}}", "C"), ("Answer: D. seven", "D"),
                                          ("\\boxed{seven}", None), ("The answer is A", "A")])
def test_a_choice_is_a_letter(text, letter):
    assert answer_of(Question("?", "B", "choice"), text) == letter


@pytest.mark.parametrize("gold, answer, same", [
    ("70", "070", True), ("1000", "1,000", True), ("1000", "$1000$", True), ("(1, 2)", "(1,2)", True),
    ("-3", "3", False), ("+3", "3", True), ("1,2", "12", False), ("0.5", "1/2", False), ("7" * 5000, "7" * 5000, True)],
    ids=lambda value: str(value)[:10])
def test_exactly(gold, answer, same):
    with Judge(exact=True) as judge:
        assert judge.same(ASKED, gold, answer) is same and judge.name == "exactly" and judge.process is None


def test_a_vote_counts_equal_answers_and_takes_the_first_of_equals():
    with Judge(exact=True) as judge:
        for said, vote in ((["1", "2", "2", "1"], "1"), (["2", "1", "01", "2"], "2"), (["3", "1", "01"], "1"),
                           (["", ""], None), ([], None), (["", "5"], "5")):
            texts = [f"\\boxed{{{answer}}}" if answer else "no idea" for answer in said]
            assert judge.vote(ASKED, texts) == vote
        problem = tasks.problems("countdown", "held_out", 2, 1, 1)[0]
        own = questions.of_task(problem)
        assert judge.voted(own, [problem.completion, "#1$", problem.completion])
        assert not judge.voted(own, ["#1$", "#1$", problem.completion]) and not judge.voted(own, [])


EQUAL = [("\\frac{1}{2}", "0.5"), ("\\sqrt{8}", "2\\sqrt2"), ("x^2-1", "(x-1)(x+1)"), ("-4<x<2", "(-4,2)"),
         ("\\{1,2\\}", "\\{2,1\\}"), ("70", "70^\\circ"), ("1-\\frac{2}{\\pi}", "\\frac{\\pi-2}{\\pi}")]
UNEQUAL = [("60", "61.0"), ("\\frac{\\sqrt3}{2}", "0.866"), ("1", "__import__('os')"), ("3", "9**9**9"),
           ("1", "{" * 100), ("2", "\\")]


def test_latex_is_compared_by_math_verify_and_what_is_hostile_costs_a_bounded_time(monkeypatch):
    """One process for all, for it takes seconds to start: its time limit is a minute where nothing is to be stopped."""
    pytest.importorskip("math_verify")
    monkeypatch.setattr(answers, "SECONDS", 60)
    with Judge() as judge:
        assert judge.name.startswith("math-verify 0.")
        assert not judge.same(ASKED, "60", "61") and judge.process is None          # integers need no library
        assert [pair for pair in EQUAL if not judge.same(ASKED, *pair)] == []
        assert [pair for pair in UNEQUAL if judge.same(ASKED, *pair)] == []
        assert not judge.same(ASKED, "2", "x" * 100_000) and judge.stopped == 0     # too long to be looked at
        monkeypatch.setattr(answers, "SECONDS", 0.5)
        assert not judge.same(ASKED, "3", "9^{9^9}")
        assert judge.stopped == 1 and judge.process is None
        assert not judge.same(ASKED, "3", "9^{9^9}") and judge.stopped == 1          # known by now


def test_nothing_but_numerals_is_evaluated():
    assert math_judge.numeral("Integer (20 )") == 20 and math_judge.numeral("Float ('0.5' )") == 0.5
    for code in ("Integer (2 )**9", "__import__('os')", "Integer (Integer (2 ))", "Symbol ('x' )", "Float ('1'*9 )",
                 compile("1", "", "eval")):
        with pytest.raises(ValueError, match="nothing but a numeral"):
            math_judge.numeral(code)


def test_a_process_that_dies_or_hangs_counts_as_no(monkeypatch, tmp_path):
    """The next comparison has a new one."""
    script = tmp_path / "math_judge.py"
    script.write_text("import sys, time\nprint('ready', flush=True)\nfor line in sys.stdin:\n"
                      "    time.sleep(60 * ('slow' in line)); 'dies' in line and sys.exit()\n"
                      "    print('yes', flush=True)\n")
    monkeypatch.setattr(answers, "__file__", str(tmp_path / "answers.py"))
    monkeypatch.setattr(answers, "SECONDS", 0.2)
    with Judge() as judge:
        judge.name = "math-verify"
        assert not judge.same(ASKED, "1", "slow") and not judge.same(ASKED, "1", "dies") and judge.stopped == 2
        monkeypatch.setattr(answers, "SECONDS", 60)
        assert judge.same(ASKED, "1", "x")


# ---- scores ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_all_draws_that_hold_a_right_one(right, data):
    k = data.draw(st.integers(1, len(right)))
    draws = [any(draw) for draw in combinations(right, k)]
    assert scores.pass_at_k(len(right), sum(right), k) == pytest.approx(sum(draws) / len(draws))


def test_scores_by_hand():
    """Two questions, four answers each; one of the second's was lost."""
    asked = [Question("a", "1", "answer"), Question("b", "2", "answer")]
    told = [asking.Told(["\\boxed{1}", "\\boxed{1}", "\\boxed{3}", "?"], 40), asking.Told(["\\boxed{3}"] * 3, 20, 1)]
    with Judge(exact=True) as judge:
        found = scores.score(asked, told, judge, single=True)
        last = scores.score(asked, [*told[:1], asking.Told([], None, 4)], judge, single=False)
    assert list(found) == ["avg@4", "pass@1", "pass@2", "pass@4", "maj@4", "failed", "unanswered", "tokens"]
    assert found["avg@4"] == {"accuracy": 0.25, "stderr": 0.25}
    assert [found[name]["accuracy"] for name in ("pass@1", "pass@2", "pass@4", "maj@4")] == [0.25, 0.4167, 0.5, 0.5]
    assert (found["failed"], found["unanswered"], found["tokens"]) == (1, 0, 30.0)
    assert (last["failed"], last["unanswered"], last["tokens"]) == (4, 1, None) and last["best"]["accuracy"] == 0.5


# ---- runs ------------------------------------------------------------------------------------------------------------


class Patient(ThreadingHTTPServer):
    request_queue_size = 128  # with the usual 5 a burst waits for TCP to try again


@contextmanager
def counting(answer):
    """A server that keeps what it is asked; answer(request) -> (status, text)."""
    asked, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked.append(request)
            status, text = answer(request)
            choice = {"finish_reason": "stop"}
            choice |= {"text": text} if "prompt" in request else {"message": {"content": text}}
            body = json.dumps({"choices": [choice]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = Patient(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01, ), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def evaluate(capsys, url, *flags, name="m"):
    who = ["--endpoint", url, "--model-name", name, "--yes", "--json", "--exact"]
    code = cli.main(["evaluate", *who, *map(str, flags)])
    out, err = capsys.readouterr()
    return json.loads(out) if code == 0 else (code, err)


def keys(asked):
    return Counter(json.dumps(request, sort_keys=True) for request in asked)


LINES = [{"question": f"What is {i}?", "answer": i} for i in range(4)]


def right_at_even_seeds(request):
    number = request["messages"][0]["content"].split()[2].rstrip("?")
    return 200, f"\\boxed{{{number if request['seed'] % 2 else 'none'}}}"


def test_a_killed_run_resumes_and_asks_nothing_twice(tmp_path, capsys, monkeypatch):
    path, out = written(tmp_path, *LINES), tmp_path / "run.jsonl"
    flags = ["--questions", path, "--samples", 3, "--out", out, "--concurrency", 2]
    with counting(right_at_even_seeds) as (url, asked):
        post = asking.Asker.post

        def killed(self, request):
            if len(asked) >= 5:
                raise KeyboardInterrupt
            return post(self, request)

        with monkeypatch.context() as patch:
            patch.setattr(asking.Asker, "post", killed)
            assert evaluate(capsys, url, *flags)[0] == 130
        before = len(asked)
        assert 0 < before < 12
        code, said = evaluate(capsys, url, *flags)
        assert code == 2 and "--resume" in said and len(asked) == before
        found = evaluate(capsys, url, *flags, "--resume")
        again = evaluate(capsys, url, *flags, "--resume")
    assert len(asked) == 12 and set(keys(asked).values()) == {1}
    assert (found["asked"], found["reused"], again["asked"], again["reused"]) == (12 - before, before, 0, 12)
    share = round(sum(request["seed"] % 2 for request in asked) / 12, 4)
    assert found["single"]["avg@3"]["accuracy"] == again["single"]["avg@3"]["accuracy"] == share
    assert found["compared"] == "exactly" and found["cost"]["requests"] == 12


def test_a_failed_request_costs_one_sample_and_is_said(tmp_path, capsys):
    path, lost = written(tmp_path, *LINES, *LINES[:1]), []   # a question that stands twice has chances of its own

    def one_lost(request):
        lost.append(request["seed"])
        return (400, "") if len(lost) == 3 else right_at_even_seeds(request)

    with counting(one_lost) as (url, asked):
        flags = ["--endpoint", url, "--model-name", "m", "--questions", str(path), "--samples", "4", "--yes", "--exact"]
        assert cli.main(["evaluate", *flags, "--concurrency", "1"]) == 0
    shown = capsys.readouterr()
    assert len(asked) == 20 and set(keys(asked).values()) == {1}
    assert "1 requests failed, 0 questions without an answer" in shown.out and "avg@4" in shown.out
    assert "5 questions, 20 requests, at most 819,200 generated tokens" in shown.err


def test_an_answer_that_the_tokenizer_cannot_read_is_an_answer():
    """Its tokens are not counted; it is judged as any other."""
    from minizaya.data.tokenizer import ByteTokenizer
    assert asking.count(ByteTokenizer(), ["ab", "c"]) == 3 and asking.count(None, ["ab"]) is None
    assert asking.count(ByteTokenizer(), ["ab", "\ud800"]) is None
    with Judge() as judge:
        assert not judge.right(Question("q", "4", "answer"), "the answer is \ud800")


def test_markovian_rsa_by_name_and_by_numbers(tmp_path, capsys, monkeypatch):
    """Prompts, budgets and sampling as the setting says; a trace's end is handed on; nothing is asked again."""
    path, out = written(tmp_path, *LINES[:2]), tmp_path / "run.jsonl"
    flags = ["--questions", path, "--method", "markovian_rsa", "--out", out, "--tokenizer", "nano-reasoner", "--rsa"]
    with counting(right_at_even_seeds) as (url, asked):
        found = evaluate(capsys, url, *flags, "N=4,C=2,T=1,beta=40,tau=9")
        assert len(asked) == found["cost"]["requests"] == found["asked"] == 2 * 8
        assert sum("end of attempt 2" in request["messages"][0]["content"] for request in asked) == 8
        assert all(request["max_tokens"] == 40 and request["temperature"] == 1 for request in asked)
        again = evaluate(capsys, url, *flags, "N=4,C=2,T=1,beta=40,tau=9", "--resume")
        assert len(asked) == 16 and again["markovian_rsa"] == found["markovian_rsa"]
        monkeypatch.setitem(SETTINGS, "zyphra", RSAConfig(N=3, C=2, T=2, beta=50, tau=9, final_n=1))  # of its form
        found = evaluate(capsys, url, *flags, "zyphra", "--resume", "--problems", 1)
    last = [request for request in asked if "top_k" in request]
    assert len(asked) == 16 + 3 * 2 + 1 and found["settings"]["rsa"]["final_n"] == 1
    assert [(r["temperature"], r["top_p"], r["top_k"], r["max_tokens"]) for r in last] == [(0.6, 0.95, 40, 50)]


def test_a_question_whose_traces_all_fail_counts_as_wrong(tmp_path, capsys):
    def second_fails(request):
        return (400, "") if "What is 1?" in request["messages"][0]["content"] else (200, "\\boxed{0}")

    with counting(second_fails) as (url, _):
        found = evaluate(capsys, url, "--questions", written(tmp_path, *LINES[:2]), "--method", "both", "--samples", 2,
                         "--rsa", "N=2,C=1,T=1,beta=20,tau=9", "--tokenizer", "nano-reasoner")
    assert found["markovian_rsa"]["mean"] == {"accuracy": 0.5, "stderr": 0.5} == found["single"]["avg@2"]
    assert found["markovian_rsa"]["unanswered"] == 1 and found["markovian_rsa"]["failed"] == 2 and found["errors"]


def test_a_model_here_answers_as_through_a_server(tmp_path, capsys):
    pytest.importorskip("tornado")
    from minizaya.serve.formats import TaskFormat
    from minizaya.serve.server import Server
    from minizaya.serve.service import Service

    flags = ["--questions", "task:addition:6", "--problems", "6", "--samples", "2", "--method", "both",
             "--rsa", "N=2,C=2,T=1,beta=50,tau=12"]
    model, tokenizer = zoo.load("nano-reasoner")
    with Server(Service(model, tokenizer, slots=16, size=200), TaskFormat(tokenizer), "nano-reasoner") as server:
        there = evaluate(capsys, server.url, *flags, "--out", tmp_path / "there", name="nano-reasoner")
    assert cli.main(["evaluate", "--model", "nano-reasoner", "--device", "cpu", "--yes", "--json", *flags]) == 0
    here = json.loads(capsys.readouterr().out)
    assert here["single"] == there["single"] and here["markovian_rsa"] == there["markovian_rsa"]
    assert here["compared"] == "by each task's own verify" and here["single"]["pass@1"]["accuracy"] > 0.5


def test_an_estimate_by_hand():
    report = SETTINGS["report"]
    assert asking.estimate(30, 16, 40_960, report, 1000) == {
        "requests": 30 * (16 + 48), "tokens": 30 * (16 * 40_960 + 48 * 16_384), "read": 30 * 32 * 4 * 4096,
        "seconds": 30 * (16 * 40_960 + 48 * 16_384) / 1000}
    assert asking.traces(SETTINGS["zyphra"]) == 8 * 32 + 1


@pytest.mark.parametrize("flags, says", [
    ([], "one of --endpoint and --model"), (["--endpoint", "http://x/v1"], "model-name is needed"),
    (["--model", "nano-reasoner", "--raw"], "raw has no effect"),
    (["--model", "nano-reasoner", "--rsa", "N=2"], "rsa has no effect"),
    (["--model", "nano-reasoner", "--method", "both", "--rsa", "Q=2"], "rsa must be report, zyphra, or .*got 'Q=2'"),
    (["--model", "nano-reasoner", "--method", "both", "--rsa", "N=-2"], "rsa must be"),
    (["--model", "nano-reasoner", "--method", "both", "--rsa", "N=2"], "C must be at most N"),
    (["--model", "nano-reasoner", "--samples", "0"], "samples must be at least 1"),
    (["--model", "nano-reasoner", "--resume"], "resume has no effect"),
    (["--model", "nano-reasoner", "--figure", "f.png", "--benchmark", "X"], "benchmark must be one of AIME'25"),
    (["--endpoint", "http://x/v1", "--model-name", "m", "--key-from", "NO_SUCH_VARIABLE"], "is not set"),
    (["--model", "nano-reasoner"], "nobody can be asked here"),
], ids=str)
def test_bad_flags_are_named(flags, says, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert cli.main(["evaluate", "--questions", "task:copy:3", *flags]) == 2
    assert re.search(says, capsys.readouterr().err)


# ---- the report's figures --------------------------------------------------------------------------------------------


def test_the_reports_figures_have_their_places():
    rows = published.rows()
    assert {"AIME'25", "HMMT'25", "LiveCodeBench-v6", "IFEval", "tau2", "BFCL-v4"} <= set(published.benchmarks())
    for row in rows:
        assert row["method"] in ("single", "markovian_rsa") and 0 < row["accuracy"] < 100 and row["checkpoint"]
        assert "Table" in row["source"] or "card" in row["source"]
    assert {row["benchmark"] for row in rows if row["method"] == "markovian_rsa"} == {
        "AIME'25", "HMMT'25", "LiveCodeBench-v6", "APEX-shortlist"}  # no other figure with it is printed


def test_the_picture_shows_ours_beside_them():
    own = {"questions": "runs/mine.jsonl", "single": {"avg@4": {"accuracy": 0.5, "stderr": None}},
           "markovian_rsa": {"mean": {"accuracy": 0.75, "stderr": 0.1}}}
    for benchmark, groups in ((None, 7), ("AIME'25", 6)):
        axis, = evaluation.beside_the_report(own, benchmark).axes
        heights = sorted(bar.get_height() for bar in axis.patches)
        assert len(axis.get_xticks()) == groups and {50.0, 75.0, 91.9, 85.58} <= set(heights)


# ---- the field's harness ---------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]


def test_lm_evals_questions_are_held_out_problems():
    lines = [json.loads(line) for line in (ROOT / "examples/lm_eval/addition.jsonl").read_text().splitlines()]
    problems = tasks.problems("addition", "held_out", 4, 10, 1)
    assert lines == [{"question": problem.prompt, "answer": problem.answer} for problem in problems]


def test_lm_eval_works_against_the_server(tmp_path):
    """Runs where lm-eval is installed; it is no requirement of ours."""
    pytest.importorskip("lm_eval")
    pytest.importorskip("tenacity")   # of lm-eval[api]
    pytest.importorskip("tornado")
    from minizaya.serve.formats import TaskFormat
    from minizaya.serve.server import Server
    from minizaya.serve.service import Service

    model, tokenizer = zoo.load("nano-reasoner")
    with Server(Service(model, tokenizer, slots=8, size=200), TaskFormat(tokenizer), "nano-reasoner") as server:
        where = f"model=nano-reasoner,base_url={server.url}/chat/completions,num_concurrent=4,tokenized_requests=False"
        done = subprocess.run([sys.executable, "-m", "lm_eval", "run", "--model", "local-chat-completions",
                               "--model_args", where, "--tasks", "minizaya_addition", "--apply_chat_template",
                               "--include_path", "examples/lm_eval", "--output_path", str(tmp_path)],
                              env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}, cwd=ROOT,
                              capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(tmp_path.rglob("results_*.json")).read_text())
    assert found["results"]["minizaya_addition"]["exact_match,none"] > 0.5
