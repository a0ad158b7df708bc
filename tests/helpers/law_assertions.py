"""Which assertion of a law speaks, and whether another would speak in its place: for test_assertions.py.

An assertion is a statement that may raise Broken: a call of `expect`, `require`, ... or a `raise Broken(...)`, in the
body of a law or in a helper of the laws. Inside `switchable()` each of them can be left out, one at a time, as if its
line were deleted.
"""

import ast
import importlib
import inspect
from contextlib import contextmanager
from functools import cache

from minizaya import laws
from minizaya.laws import core, judging

WORDS = {"expect", "require", "finite", "parts", "expect_trainable", "shaped", "moves", "same", "alive", "same_slopes",
         "expect_either", "whole"}
WHOLE = ("model.", "decoding.")   # whole models are slow
EXAMPLES = (10, 4)
MORE = {"decoding.padded_chunks": 12, "decoding.select": 10, "model.batch": 10, "model.padding": 10, "model.causal": 8,
        "cca.attention_hidden": 40, "balance.adamw": 3, "rl.length_bonus": 80, "parallel.by_expert": 20, "pack.few": 40,
        "model.ablations": 20}
MORE |= {law.name: 40 for law in laws.all() if law.name.startswith("trim.")}
SPOKE: list[str] = []     # the assertions that raised in the last judging, the innermost first
LEFT_OUT: set[str] = set()


def is_assertion(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return isinstance(statement.value.func, ast.Name) and statement.value.func.id in WORDS
    raised = statement.exc if isinstance(statement, ast.Raise) else None
    return isinstance(raised, ast.Call) and isinstance(raised.func, ast.Name) and raised.func.id == "Broken"


class Switches(ast.NodeTransformer):
    """Puts every assertion into `if _stays(name): try: ... except Broken: _spoke(name); raise`."""

    def __init__(self, module: str):
        self.module, self.function, self.names = module, "", []

    def visit_FunctionDef(self, node):
        outer, self.function = self.function, self.function or node.name
        self.generic_visit(node)
        self.function = outer
        return node

    def visit_statement(self, node):
        if not is_assertion(node):
            return node
        text = ast.unparse(node)
        name = f"{self.module}.{self.function}: {text}"
        name += f" (no. {self.names.count(name) + 1})" if name in self.names else ""
        self.names.append(name)
        (guard,) = ast.parse(f"if _stays({name!r}):\n try: pass\n except _Broken:\n  _spoke({name!r})\n  raise").body
        guard.body[0].body = [node]
        for part in ast.walk(guard):
            if part is not node and hasattr(part, "lineno") and part not in ast.walk(node):
                ast.copy_location(part, node)
        return guard

    visit_Expr = visit_Raise = visit_statement


def modules():
    found = sorted({law.body.__module__ for law in laws.all()})
    return [importlib.import_module(name) for name in found]


@cache
def switched():
    """(function, its code with switches) of all functions of the laws, and the names of all assertions."""
    found, names = [], []
    for module in modules():
        switches = Switches(module.__name__.rsplit(".", 1)[1])
        tree = ast.fix_missing_locations(switches.visit(ast.parse(inspect.getsource(module))))
        names += switches.names
        made = {(code.co_name, code.co_firstlineno): code
                for code in compile(tree, module.__file__, "exec").co_consts if inspect.iscode(code)}
        bodies = [law.body for law in laws.all()]
        for function in {inspect.unwrap(f) for f in [*vars(module).values(), *bodies] if inspect.isfunction(f)}:
            code = made.get((function.__code__.co_name, function.__code__.co_firstlineno))
            if function.__module__ == module.__name__ and code is not None:
                found.append((function, code))
    return found, names


@contextmanager
def switchable():
    """While this is open, all functions of the laws have switches; yields the names of all assertions."""
    found, names = switched()
    saved = [(function, function.__code__) for function, _ in found]
    for function, code in found:
        function.__code__ = code
    for module in modules():
        vars(module).update(_stays=lambda name: name not in LEFT_OUT, _spoke=SPOKE.append, _Broken=core.Broken)
    try:
        yield names
    finally:
        for function, code in saved:
            function.__code__ = code
        for module in modules():
            for name in ("_stays", "_spoke", "_Broken"):
                vars(module).pop(name, None)


def judged(law: str, fn, left_out: str | None = None):
    """The verdict, and the assertions that raised, with one of them left out."""
    SPOKE.clear()
    LEFT_OUT.clear()
    LEFT_OUT.update({left_out} if left_out else ())
    try:
        few = MORE.get(law, EXAMPLES[law.startswith(WHOLE)])
        verdict = judging.judge(law, fn, shrink=False, examples=min(laws.get(law).examples, few))
    finally:
        LEFT_OUT.clear()
    return verdict, list(dict.fromkeys(SPOKE))


def needed(law: str, fn, words: str = "") -> set[str]:
    """The assertions without which this wrong function would pass, or would not be told `words`."""
    verdict, spoke = judged(law, fn)
    if verdict.passed or not verdict.attempted or words not in verdict.message:
        raise AssertionError(f"{law} says {verdict}, the words wanted are {words!r}")
    found = set()
    for name in spoke:
        without, _ = judged(law, fn, name)
        if without.passed or not without.attempted or words and words not in without.message:
            found.add(name)
    return found
