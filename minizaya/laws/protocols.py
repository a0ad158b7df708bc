"""What a component must look like to be judged: its arguments, a stub to paste, and the laws that apply.

Laws of one call belong together: those that hand over the same arguments to the same function of ours, or whose
signature says "as in" another's. Such a group is a protocol, with a name to say it by: that of our function.

    print(mz.laws.protocol("choose"))        # shapes, types, a stub, the laws
"""

import difflib
import importlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import nn

from .core import LAWS, Law

# our functions whose label does not name what they are
NAMES = {"cca.padding": "padded_convolution", "cca.layer": "cca_layer", "model.definition": "model",
         "balance.uniform_fixed": "balancer", "router.replay": "choose_replayed", "router.skip_limit": "choose_skip",
         "cca.value_shift_resumes": "value_shift_resumed", "cca.value_shift_documents": "value_shift_documents",
         "cca.attention": "attention", "lm.deterministic": "black_box"}
LESSONS = ("exercises", "lesson_")      # modules of small steps that lessons ask for; no component is made of them


@dataclass(frozen=True)
class Protocol:
    """name; arguments: their names in order; signature: shapes and types, in words; laws: those that apply."""

    name: str
    arguments: tuple[str, ...]
    signature: str
    laws: tuple[Law, ...]

    @property
    def stub(self) -> str:
        """A function to paste and fill in."""
        lines = "\n    ".join(self.signature.splitlines())
        return f'def {self.name}({", ".join(self.arguments)}):\n    """{lines}"""\n    raise NotImplementedError\n'

    def __str__(self) -> str:
        width = max(len(law.name) for law in self.laws)
        return "\n".join([self.name, "", self.stub, *(f"{law.name:{width}}  {law.statement}" for law in self.laws)])


def words(law: Law) -> str:
    """The signature of a law, without the indentation of its source."""
    return inspect.cleandoc(law.signature)


def told(law: Law) -> str:
    """The signature of a law; where that says "as in" another law's, both."""
    start = protocol(law.name).laws[0]
    return words(law) if start is law else f"{words(start)}\n{words(law)}"


def arguments_of(law: Law) -> tuple[str, ...]:
    """The names of the arguments by position; `temperature=` is given by name and no position."""
    head = re.match(r"fn\((.*?)\)[:.]", words(law), re.DOTALL)
    names = [] if head is None else re.split(r",\s*(?![^(]*\))", head[1])
    return tuple("_".join(re.findall(r"\w+", name)) for name in names if name.strip() and "=" not in name)


@cache
def protocols() -> dict[str, Protocol]:
    """Every protocol by its name, in the order of the laws."""
    root: dict[str, str] = {}
    first: dict[tuple, str] = {}
    for law in LAWS.values():
        arguments = arguments_of(law)
        above = re.match(r"fn\([^:]*\): as in (\w+\.\w+)(?! ->)", words(law))
        other = LAWS.get(above[1]) if above else None
        key = (arguments, tuple(map(id, law.subjects.values())))
        if other is not None and arguments_of(other) == arguments:
            first.setdefault(key, root[other.name])
        root[law.name] = first.setdefault(key, law.name)
    found: dict[str, Protocol] = {}
    for start in dict.fromkeys(root.values()):
        label = next(iter(LAWS[start].subjects))
        plain = label if re.fullmatch(r"[a-z]\w*", label) else start.split(".")[1]
        name = NAMES.get(start, plain)
        name = name if name not in found else start.replace(".", "_")
        own = tuple(law for law in LAWS.values() if root[law.name] == start)
        found[name] = Protocol(name, arguments_of(LAWS[start]), words(LAWS[start]), own)
    return found


def protocol(name: str) -> Protocol:
    """The protocol called `name`, or that of a law. Raises ValueError, with all names, for another name."""
    if name in LAWS:
        return next(p for p in protocols().values() if LAWS[name] in p.laws)
    if name not in protocols():
        of = [p.name for p in protocols().values() if any(law.component == name for law in p.laws)]
        raise ValueError(f"no protocol is called {name!r}; " + (f"that component has {', '.join(of)}" if of else
                                                                f"there are {', '.join(protocols())}"))
    return protocols()[name]


def applying(spec: str, fn: Callable | None) -> list[Law]:
    """The laws that `spec` means for `fn`: one law, the laws of a protocol, or of a component those that `fn` can take.

    In a component there are functions of several kinds. Which one `fn` is, its arguments tell: by their names, or,
    where it has others, by their number. Raises ValueError for an unknown spec, or where the arguments do not tell.
    """
    if spec in LAWS:
        return [LAWS[spec]]
    components = list(dict.fromkeys(law.component for law in LAWS.values()))
    if spec not in components:
        if spec not in protocols():
            raise ValueError(f"no law, component or protocol is called {spec!r}; components are "
                             f"{', '.join(components)}; protocols are {', '.join(protocols())}")
        return list(protocols()[spec].laws)
    kinds = [p for p in protocols().values() if any(law.component == spec for law in p.laws)
             and not p.laws[0].body.__module__.rpartition(".")[2].startswith(LESSONS)]
    fitting = [p for p in kinds if fits(fn, p.arguments, by_name=True)]
    if not fitting:
        fitting = [p for p in kinds if fits(fn, p.arguments, by_name=False)]
    fitting = kinds if len(kinds) == 1 else fitting
    if not fitting or len(fitting) > 1 and not fits(fn, fitting[0].arguments, by_name=True):
        if spec in protocols():       # a component called like one of its kinds
            return list(protocols()[spec].laws)
        kinds = ", ".join(f"{p.name}({', '.join(p.arguments)})" for p in kinds)
        raise ValueError(f"{spec} has several kinds of functions, and the arguments of yours do not tell which one it "
                         f"is; name one of {kinds}")
    return [law for p in fitting for law in p.laws]


OPTIONS = ("examples", "seed", "tol", "dtype", "where", "against", "shrink")


def holds(*names: str, **options) -> Callable:
    """Decorator for a test suite: each of these laws becomes a test of the function below it, or of what the fixture
    below it gives. The tests are made by `minizaya.pytest_plugin`; the function itself stays as it is.

    names: laws, protocols, and over a function components, too. options: as in `judge`. Raises ValueError for an
    unknown name or option.
    """
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ValueError(f"options must be among {', '.join(OPTIONS)}, got {', '.join(unknown)}")
    if not names:
        raise ValueError("names must be at least one law, protocol or component")

    def mark(below: Callable) -> Callable:
        fixture = type(below).__name__ == "FixtureFunctionDefinition"
        if not (fixture or inspect.isfunction(below)):
            raise ValueError(f"holds must stand over a function or a fixture, got a {type(below).__name__}")
        found = [law.name for name in names for law in applying(name, None if fixture else below)]
        below.minizaya_laws = (list(dict.fromkeys(found)), options)
        return below

    return mark


def fits(fn: Callable, arguments: tuple[str, ...], by_name: bool) -> bool:
    """Can `fn` be called with these arguments? by_name: and are its own called so, as far as it has any?"""
    try:
        own = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
        own.bind(*arguments)
    except (TypeError, ValueError):
        return False
    names = [p.name for p in own.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return not by_name or list(arguments) == names[:len(arguments)]


def load(target: str) -> Callable:
    """The function that "package.module:name" names; of a module class, one made without arguments, in float64.

    Raises ValueError where there is none: with the nearest names, or with what the import raised.
    """
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise ValueError(f"a target is written package.module:function, got {target!r}")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise ValueError(f"importing {module} raised {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=3)
            raise ValueError(f"{module} has no {part!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
        found = getattr(found, part)
    if inspect.isclass(found) and issubclass(found, nn.Module):
        try:
            return found().double().eval()
        except TypeError as error:
            raise ValueError(f"{target} needs arguments ({error}); name a function that makes and calls it") from None
    if not callable(found):
        raise ValueError(f"{target} is a {type(found).__name__}, not a function")
    return found


@cache
def caught() -> dict[str, dict]:
    """Law -> what it was tested to catch: {"bugs": [{"file", "line", "bug", "why"}], "wrong_functions": how many}.

    bugs: changes of one line in this library, each planted by its tests, each seen by this law. wrong_functions: those
    that the tests hand to it. Both were written down from the tests, which say if a claim is no longer true.
    """
    return json.loads(Path(__file__).with_name("caught.json").read_text(encoding="utf-8"))
