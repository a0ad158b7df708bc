"""The room in which a checkpoint's chat template runs: Jinja's sandbox, furnished as in `transformers`, with a meter.

The sandbox keeps a template from files, modules and attributes that begin with an underscore. The meter keeps it from
filling the memory and from running for ever. It counts and looks at no clock, so a template is refused on every machine
or on none: each turn of a loop, call and filter costs `STEP`, and what they make or look at its length. What can
multiply (a product, a width, a text that is put in many times) is measured before it is made.

A template may spend `MOST`, and `MOST_OF_GIVEN` times the characters that it is given.
"""

import functools
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import datetime

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

STEP, MOST, MOST_OF_GIVEN = 16, 2**22, 64
LEFT = ContextVar("LEFT")                           # [what the template under way may still spend, and all of it]
FORMATS = {"format", "format_map"}                  # what may make much of little
GROWING = {"replace", "join", "indent", "center", "ljust", "rjust", "zfill", "expandtabs", "to_bytes", "translate",
           "batch", "slice", "round", "tojson"}
HOLDING = {"attr", "batch", "count", "counted", "d", "default", "dictsort", "first", "groupby", "items", "last",
           "length", "list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "select", "selectattr",
           "slice", "sort", "turn", "unique"}       # write nothing out: many values of a list are as long as it is
NOT_ASCII = re.compile("[^\x00-\x7e\U000f0000-\U000f0002]")    # but the letters of `marks`
LEFT_OUT = {"urlize", "striptags", "wordwrap"}      # for web pages; they may take longer than a text is long


class Room(ImmutableSandboxedEnvironment):
    """The environment. `metered` renders in it; nothing else can."""

    intercepted_binops = frozenset(("+", "*", "**", "%", "/", "//"))

    def __init__(self):
        # as in transformers: a line that holds only a block leaves no trace. Not optimized: that computes beforehand
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=shown,
                         extensions=["jinja2.ext.loopcontrols", Generation])
        filters = self.filters | {"tojson": tojson, "counted": lambda value: value, "turn": lambda text: text * 0}
        self.filters = {name: paid(name, each) for name, each in filters.items() if name not in LEFT_OUT}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": raise_exception,
                         "strftime_now": lambda form: datetime.now().strftime(form)}

    def _generate(self, source: nodes.Template, *args, **kwargs) -> str:
        return super()._generate(Counting().visit(source), *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        if isinstance(left, int) and isinstance(right, int):      # long ones take long
            long = left.bit_length()
            spend((long * abs(right)) ** 2 // 2**12 if operator == "**" else long * right.bit_length() // 2**12)
        elif operator == "%":
            fits(grown("format", left, list(right) if isinstance(right, tuple) else [right]))
        elif operator == "*":
            spend(grown("", right, [left]) if isinstance(left, int) else grown("", left, [right]))
        elif operator == "+":
            spend(size(left) + size(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: object, *args, **kwargs) -> object:
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, (str, bytes, int, list, tuple)):
            fits(grown(__obj.__name__, owner, [*args, *kwargs.values()]))
        spend(STEP)
        return counted(super().call(__context, __obj, *args, **kwargs))


class Counting(NodeTransformer):
    """Puts a price on what a template does without a call: turns, texts put together, parts, comparisons, names."""

    def visit_turn(self, node: nodes.Node) -> nodes.Node:
        self.generic_visit(node)
        text = "".join(data.data for data in node.find_all(nodes.TemplateData))
        node.body.insert(0, nodes.Output([priced(nodes.Const(text), "turn")]))
        return node

    visit_Macro = visit_CallBlock = visit_turn

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.visit_turn(node)
        node.iter = priced(node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:
        self.generic_visit(node)
        node.nodes = [priced(part) for part in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = priced(node.expr)
        for operand in node.ops:
            operand.expr = priced(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return priced(node) if isinstance(node.arg, nodes.Slice) else node


def priced(node: nodes.Expr, name: str = "counted") -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno or 1, environment=node.environment)


# ---- prices ----------------------------------------------------------------------------------------------------------


def spend(amount: int) -> None:
    LEFT.get()[0] -= amount
    fits(0)


def fits(amount: int) -> None:
    """Raises TemplateError for more than is left."""
    if amount > LEFT.get()[0]:
        raise jinja2.TemplateError(f"it would take more than {LEFT.get()[1]} steps and characters")


def size(value: object) -> int:
    """The length of a text or list, the bits of a number in words, 1 for anything else."""
    if isinstance(value, int):
        return value.bit_length() // 64 + 1
    return len(value) if hasattr(value, "__len__") else 1


def written(value: object) -> int:
    """About what it takes to write this out, with all that it holds; not looked at further where it is too much."""
    total, waiting = 0, [value]
    while waiting and total <= LEFT.get()[0]:
        value = waiting.pop()
        total += 1 + (size(value) if isinstance(value, (str, bytes, int)) else 0)
        if isinstance(value, (list, tuple, set, dict)):
            waiting += [*value, *(value.values() if isinstance(value, dict) else ())]
    return total


def grown(name: str, value: object, given: list) -> int:
    """The most that the filter, method or product ("") of this name makes of `value`."""
    amount = size(value) if name in HOLDING else written(value)
    if name in FORMATS:
        text = str(value)
        widths = map(int, re.findall(r"\d+", text))    # they stand in the text, or in what is given
        asks = re.search(r"\*|\{[^{}]*\{", text)
        widest = max([0, *widths, *(abs(each) for each in given if isinstance(each, int) and asks)])
        return amount + (text.count("%") + text.count("{")) * (widest + sum(map(written, given)))
    for each in given if not name or name in GROWING else ():
        amount *= 1 + (abs(each) if isinstance(each, int) else written(each))
    return amount


def counted(value: object) -> object:
    """The same value, paid for; of a stream each entry when it comes."""
    if isinstance(value, Iterator) and not hasattr(value, "__len__"):
        return map(counted, value)
    spend(size(value))
    return value


def paid(name: str, function: Callable) -> Callable:
    """A filter that measures what it would make, and counts what it makes."""
    @functools.wraps(function)
    def filter(*args, **kwargs) -> object:
        place = int(hasattr(function, "jinja_pass_arg"))
        value = counted(args[place]) if isinstance(args[place], Iterator) else args[place]
        fits(grown(name, value, [*args[place + 1:], *kwargs.values()]))
        if name == "sum":    # of lists: each sum is a new one
            fits(written(value) * size(value))
        spend(STEP + (size(value) if name == "turn" else 0))
        return counted(function(*args[:place], value, *args[place + 1:], **kwargs))

    return filter


@jinja2.pass_context    # so that nothing is shown beforehand
def shown(context: Context, value: object) -> object:
    fits(written(value))
    return counted(value)


def metered(compiled: jinja2.Template, given: dict) -> str:
    """The text that a template of a `Room` makes of these variables. Raises whatever it raises, and TemplateError."""
    LEFT.set([sys.maxsize])
    most = MOST + MOST_OF_GIVEN * written(given)
    LEFT.set([most, most])
    return compiled.render(given)


# ---- what a template may call ----------------------------------------------------------------------------------------


class Generation(Extension):
    """{% generation %} ... {% endgeneration %}: what an assistant wrote, marked for training. Here: what it holds."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration", ), drop_needle=True), lineno=line)


def raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


# Jinja's own writes < as \u003c, for web pages
def tojson(value: object, ensure_ascii: bool = False, indent: int | str | None = None,
           separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    # marks stay marks: what is private is not escaped
    return NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text) if ensure_ascii else text
