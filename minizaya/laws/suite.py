"""Every law that a model can be asked as a black box, in one call: `causal_lm`."""

from collections.abc import Callable
from dataclasses import dataclass

from .core import LAWS, Refused, Verdict
from .judging import judge
from .lm import BlackBox


@dataclass(frozen=True)
class Findings:
    """The verdicts of a suite, true when all passed; left_out: law -> what was missing to ask it."""

    verdicts: tuple[Verdict, ...]
    left_out: dict[str, str]

    def __bool__(self) -> bool:
        return all(self.verdicts)

    def __getitem__(self, name: str) -> Verdict:
        """The verdict of one law. Raises KeyError, with the reason, for one that was not asked."""
        found = {verdict.law: verdict for verdict in self.verdicts}
        if name not in found:
            raise KeyError(f"{name}: {self.left_out.get(name, 'no law of this suite')}")
        return found[name]

    def __str__(self) -> str:
        return "\n".join([*map(str, self.verdicts), *(f"– {name}: {why}" for name, why in self.left_out.items())])

    def _ipython_display_(self) -> None:
        print(self)


def causal_lm(model: BlackBox | Callable, *, examples: int | str | None = None, seed: int | str | None = None,
              tol: float | None = None, **parts) -> Findings:
    """Judges a causal language model, or a layer of one, as a black box, by every law that it can answer.

    model: a `BlackBox`, or its `forward`, tokens int64 (b, t) -> logits (b, t, vocab); then `vocab` (for a layer
    `width`) and what else the model can do are given by name: step, padded, packed, routes, replay, counts, longest,
    dtype, device, see `BlackBox`. examples, seed, tol: as in `judge`. Sums in another order, as other batches and
    chunks have them, are not equal to the last bit: judge in float64, or give the `tol` that you can live with.

        print(laws.causal_lm(my_forward, vocab=1000, step=my_step))

    Raises ValueError as `BlackBox` and `judge` do.
    """
    box = model if isinstance(model, BlackBox) else BlackBox(model, **parts)
    if parts and box is model:
        raise ValueError(f"a BlackBox says all by itself; got {', '.join(parts)}, too")
    verdicts, left_out = [], {}
    for name in [law.name for law in LAWS.values() if law.component == "lm"]:
        try:
            verdicts.append(judge(name, box, examples=examples, seed=seed, tol=tol))
        except Refused as error:
            left_out[name] = str(error).removeprefix(f"{name}: ")
    return Findings(tuple(verdicts), left_out)
