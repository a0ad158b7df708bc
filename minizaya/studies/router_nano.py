"""Linear router, MLP, MLP with depth averaging (EDA), on real text at nano size: lesson 03. And one that cannot choose.

Four models in every seed read the same windows for the same number of steps. What two kinds of router have in common
starts from the same weights, everything else of the model too. Under "random routes" a die pins the routes from
outside; the gates are still computed and learned.

The report compares routers at 1.8B parameters. This is the same question at a million: what shows here need not hold
there, nor the other way round.
"""

import hashlib
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..arch import balance
from ..arch.model import Zaya
from ..config import ZayaConfig
from ..data import text
from ..data.tokenizer import CharTokenizer
from ..train.evaluate import held_out_loss
from ..train.loop import Recipe, Trainer
from ..train.sources import mixture, text_source
from .overlap import expert_overlap, off_diagonal

# switches of the config
VARIANTS = {"linear": dict(router="linear"), "MLP": dict(eda=False), "MLP + EDA": {}, "random routes": {}}
SETTING = dict(preset="nano", initializer_range=0.08, steps=200, rows=8, seq=64, lr=5e-3, warmup=20, held_out=8192,
               window=128, directions=8, passage=[3289, 240])   # directions: d of the overlap; passage: start, length
TOKENIZER = CharTokenizer(text.ALPHABET, unknown="unk")
SEEDS = (0, 1, 2)
CLASSES = {
    "space": " ", "newline": "\n", "vowel": "aeiou", "consonant": "bcdfghjklmnpqrstvwxyz",
    "capital": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "digit": "0123456789", "bracket, quote": "()[]{}<>\"'`“”‘’",
    "other sign": "!#$%&*+,-./:;=?@\\^_|~°–—…",
}


def runs() -> list[dict]:
    """Seed by seed, so that a study that is stopped early still holds whole comparisons."""
    return [dict(variant=variant, seed=seed) for seed in SEEDS for variant in VARIANTS]


def one(variant: str, seed: int) -> dict:
    """Trains one model, then watches it read text that it has not seen."""
    trainer, held_out = prepare(variant, seed)
    before = overlaps(trainer.model)
    trainer.train(bar=False)
    model = trainer.model
    result = {"held_out": round(held_out_loss(model, held_out, SETTING["window"]), 5), **watch(model, held_out),
              "overlap": overlaps(model), "overlap_at_start": before,
              "losses": [round(record["loss"], 4) for record in trainer.records],
              "top_bias": rounded(balance.get_biases(model).amax(-1)), "text": fingerprint()}
    if hasattr(model.layers[1].router, "eda_scale"):
        result["eda_scale"] = [rounded(block.router.eda_scale) for block in list(model.layers)[1:]]
    return result


def prepare(variant: str, seed: int) -> tuple[Trainer, Tensor]:
    """The trainer of one run at step 0, and the tokens of the held-out text."""
    train, held_out = (torch.tensor(TOKENIZER.encode(part)) for part in text.split(text.english()))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        whole = Zaya(ZayaConfig.preset(SETTING["preset"], initializer_range=SETTING["initializer_range"]))
        model = Zaya(replace(whole.config, **VARIANTS[variant]))
    mine = {name: value.shape for name, value in model.state_dict().items()}
    shared = {name: value for name, value in whole.state_dict().items() if mine.get(name) == value.shape}
    model.load_state_dict(shared, strict=False)
    if variant == "random routes":
        throw_a_die(model, seed)
    recipe = Recipe(steps=SETTING["steps"], lr=SETTING["lr"], warmup=SETTING["warmup"], seed=seed)
    batches = mixture(text_source(train, SETTING["rows"], SETTING["seq"], seed))
    return Trainer(model, recipe, batches), held_out[: SETTING["held_out"]]


def throw_a_die(model: Zaya, seed: int) -> None:
    """From now on every forward pass replays routes that a die threw."""
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def pin(module: nn.Module, args: tuple, kwargs: dict):
        shape = (*args[0].shape, config.num_hidden_layers)
        return args, kwargs | {"routes": torch.randint(config.num_experts, shape, generator=generator)}

    model.register_forward_pre_hook(pin, with_kwargs=True)


# ---- watching --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def watch(model: Zaya, tokens: Tensor) -> dict:
    """What the routers do on `tokens`, int64 (n,); lists have one entry a layer.

    gate: mean gate. skip: mean probability of the skip route. doubt: entropy of the router's softmax over ln(E + 1),
    1 = no idea, 0 = certain; doubt_experts: the same of the experts' probabilities, rescaled to sum to one, over ln E.
    load_entropy: H(load) / ln E. by_character: `known_from`. visits: tokens of each class of characters per expert,
    (layers, classes, E + 1). routes: of the passage, a string of digits a layer.
    """
    experts, window = model.config.num_experts, SETTING["window"]
    inputs = tokens[: len(tokens) // window * window].view(-1, window)
    out = model(inputs)
    routes = out.routes.flatten(0, 1)                                      # (n, layers)
    gates = out.probs.gather(-1, out.routes.movedim(-1, 0)[..., None])     # (layers, b, t, 1)
    classes = classify(inputs.flatten())
    visits = [contingency(classes, layer, len(CLASSES) + 1, experts + 1) for layer in routes.unbind(-1)]
    passage = passage_tokens()[None]
    return {
        "gate": rounded(gates.mean((1, 2, 3))), "skip": rounded(out.probs[..., -1].mean((1, 2))),
        "doubt": rounded(balance.entropy(out.probs).mean((1, 2))),
        "doubt_experts": rounded(balance.entropy(out.probs[..., :-1]).mean((1, 2))),
        "load_entropy": rounded(balance.entropy(balance.load(out.routes, experts))),
        "by_character": [round(known_from(inputs.flatten(), layer, model.config.vocab_size, experts + 1), 4)
                         for layer in routes.unbind(-1)],
        "visits": [table[:-1].int().tolist() for table in visits],
        "routes": ["".join(map(str, layer.tolist())) for layer in model(passage).routes[0].unbind(-1)],
        "passage": TOKENIZER.decode(passage[0].tolist()),
    }


def contingency(first: Tensor, second: Tensor, rows: int, columns: int) -> Tensor:
    """How often each pair occurs: int (n,) and int (n,) -> float64 (rows, columns)."""
    return torch.bincount(first * columns + second, minlength=rows * columns).view(rows, columns).double()


def known_from(tokens: Tensor, routes: Tensor, vocab: int, num_routes: int) -> float:
    """I(token; route) / H(route): the share of a route that the token alone decides. 1: always the same expert for the
    same token; 0: the token says nothing, or there is one route only. tokens, routes: int (n,)."""
    joint = contingency(tokens, routes, vocab, num_routes) / len(tokens)
    alone = joint.sum(0)
    uncertain = -torch.xlogy(alone, alone).sum()                            # H(route)
    left = torch.xlogy(joint.sum(1), joint.sum(1)).sum() - torch.xlogy(joint, joint).sum()   # H(route | token)
    return float(1 - left / uncertain) if uncertain > 0 else 0.0


def classify(tokens: Tensor) -> Tensor:
    """The class of each character, a row of CLASSES; len(CLASSES) for none of them. int (n,) -> int64 (n,)."""
    table = torch.full((TOKENIZER.vocab_size,), len(CLASSES))
    for row, characters in enumerate(CLASSES.values()):
        table[torch.tensor(TOKENIZER.encode(characters))] = row
    return table[tokens]


def overlaps(model: Zaya) -> dict:
    """Mean overlap of two experts of a layer, one figure a layer."""
    maps = [expert_overlap(block.experts, SETTING["directions"]) for block in model.layers]
    return {side: [round(float(off_diagonal(layer[side])), 4) for layer in maps] for side in ("input", "output")}


def passage_tokens() -> Tensor:
    """The passage of held-out text that the pictures show, int64 (n,)."""
    start, length = SETTING["passage"]
    return torch.tensor(TOKENIZER.encode(text.split(text.english())[1][start: start + length]))


def fingerprint() -> str:
    """Of the text: it differs a little between versions of Python, and then so do the figures."""
    return hashlib.sha256(text.english().encode()).hexdigest()[:16]


def rounded(values: Tensor) -> list[float]:
    return [round(float(value), 4) for value in values]


# ---- reading the record ----------------------------------------------------------------------------------------------


def figure_of(run: dict, name: str) -> float:
    """A run's figure as one number: the mean over layers if there is one a layer. "overlap input" goes one deeper."""
    value = run
    for part in name.split():
        value = value[part]
    return sum(value) / len(value) if isinstance(value, list) else value


def mean_and_error(results: list[dict], variant: str, name: str) -> tuple[float, float]:
    """Mean over seeds and its standard error."""
    values = torch.tensor([figure_of(run, name) for run in results if run["variant"] == variant], dtype=torch.float64)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def paired(results: list[dict], name: str, first: str, second: str) -> list[float]:
    """second - first, one figure a seed that did both: what the seed changes in both drops out."""
    found = {(run["variant"], run["seed"]): figure_of(run, name) for run in results}
    seeds = sorted({seed for _, seed in found if {(first, seed), (second, seed)} <= found.keys()})
    return [found[second, seed] - found[first, seed] for seed in seeds]
