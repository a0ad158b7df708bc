"""The pictures behind the lessons' dials. Each draws in well under half a second, from the library's own functions.

`dial(turned.trimmed, budget=(60, 400, 10, 160))` puts a dial on one; a test draws each at the ends of its dials.
"""

from functools import cache

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from ..arch import balance
from ..arch.residual import RMSNorm
from ..arch.router import choose
from ..config import ZayaConfig
from ..data import text
from ..data.chat import encode
from ..data.tokenizer import CharTokenizer
from ..data.trim import cut
from ..infer import sample
from ..infer.rsa import RSAConfig
from ..plan import account, devices
from ..rl import advantage
from ..rl.curriculum import pass_rate
from ..studies import phone_book
from ..train.muon import COEFFICIENTS
from .balance import simulate
from .cca import SENTENCE, attention_map, layer_input, steps
from .reasoning_data import KIND, conversations, kinds_kept
from .style import BLUE, COLOR, GREEN, GREY, ORANGE, RED, WIDTH, styled

STEPS = ("project", "depthwise convolution", "grouped convolution", "q-k mean", "norm and temperature", "rotation")
LETTERS = "etaoinshrdlucmfw"


@styled
def stored_and_used(experts: int = 16, width: int = 2048) -> Figure:
    """Bars: the parameters that ZAYA1-8B would store, and that a token would use, with so many experts so wide."""
    config = ZayaConfig.preset("zaya1-8b", num_experts=experts, moe_intermediate_size=width)
    stored, used = sum(account.parameters(config).values()), account.active_parameters(config)
    figure, axis = plt.subplots(figsize=(WIDTH, 1.7))
    for y, (count, color) in enumerate(((used, ORANGE), (stored, GREY))):
        axis.barh(y, count / 1e9, color=color)
        axis.text(count / 1e9, y, f" {count / 1e9:.2f} billion", va="center")
    axis.set(xlim=(0, 45), xlabel="billion parameters", title=f"a token uses {used / stored:.0%} of what is stored")
    axis.set_yticks((0, 1), ("one token uses", "stored"))
    return figure


@cache
def phone_book_steps() -> dict[str, tuple[Tensor, Tensor]]:
    """Queries and keys of the phone book after each step of CCA; learned here once, in seconds."""
    model = phone_book.learn(seed=0)
    return steps(model.layers[0].attention, layer_input(model, phone_book.encode(SENTENCE)))


@styled
def one_map(step: str = STEPS[0], sharpness: float = 1.0) -> Figure:
    """One head's attention map after one step of CCA, scores times the sharpness; the last row asks for the number."""
    done, words = phone_book_steps(), SENTENCE.split()
    head = int(attention_map(*done["rotation"])[:, -1, words.index(words[-1]) + 1].argmax())
    q, k = done[step]
    figure, axis = plt.subplots(figsize=(4.6, 3.6))
    image = axis.imshow(attention_map(sharpness * q, k)[head].numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(words)), words, rotation=90)
    axis.set_yticks(range(len(words)), words)
    axis.set(title=f"after: {step}", xlabel="key: who is asked", ylabel="query: who asks")
    figure.colorbar(image, label="attention weight")
    return figure


@styled
def biased(bias_of_expert_0: float = 0.0) -> Figure:
    """Left: the share of tokens that each of four experts gets. Right: the gates of expert 0's tokens, never biased."""
    generator = torch.Generator().manual_seed(0)
    probs = (1.5 * torch.randn(2000, 4, generator=generator)).softmax(-1)
    routes, gates = choose(probs, torch.tensor([bias_of_expert_0, 0.0, 0.0, 0.0]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.4))
    left.bar(range(4), (torch.bincount(routes, minlength=4) / len(routes)).tolist(), color=[ORANGE, GREY, GREY, GREY])
    left.set(ylim=(0, 1), xlabel="expert", ylabel="share of tokens", xticks=range(4), title="who is chosen")
    mine = routes == 0
    right.scatter(probs[mine, 0].tolist(), gates[mine].tolist(), s=6, color=ORANGE)
    right.set(xlim=(0, 1), ylim=(0, 1), xlabel="its probability", ylabel="its gate", title="how much expert 0 counts")
    return figure


@styled
def gains(kp: float = 0.5, ki: float = 0.1, kd: float = 0.0, delay: int = 0) -> Figure:
    """Load entropy over 120 steps under a PID balancer that sees loads late; the data shift halfway."""
    loads = simulate({"PID": balance.PIDBalancer(16, kp, ki, kd)}, 120, 60, delay=delay, tokens=512, bar=False)
    figure, axis = plt.subplots(figsize=(WIDTH, 2.5))
    axis.plot(balance.entropy(loads["PID"]).tolist(), color=BLUE)
    axis.axhline(0.99, color=GREY, linestyle="--", linewidth=1)
    axis.axvline(60, color=GREY, linewidth=1)
    axis.set(ylim=(0.5, 1.02), xlabel="step", ylabel="load entropy", title="1 is an even load; the data shift at 60")
    return figure


@styled
def deep(residual_scale: float = 1.0, output_scale: float = 1.0, layers: int = 80) -> Figure:
    """Norm of the residual stream over the layers, when random layers write into it and both parts are scaled."""
    generator = torch.Generator().manual_seed(0)
    width, stream, norms, norm = 64, torch.randn(64, generator=generator), [], RMSNorm(64, 1e-5)
    with torch.no_grad():
        for _ in range(layers):
            matrix = torch.randn(width, width, generator=generator) / width**0.5
            stream = residual_scale * stream + output_scale * matrix @ norm(stream)
            norms.append(float(stream.norm()))
    figure, axis = plt.subplots(figsize=(WIDTH, 2.5))
    axis.plot(range(1, layers + 1), norms, color=COLOR["residual"])
    axis.set(yscale="log", xlabel="layer", ylabel="norm of the stream", title=f"after {layers} layers: {norms[-1]:.3g}")
    return figure


@styled
def trimmed(budget: int = 160) -> Figure:
    """Five conversations as bars of tokens, trimmed to the budget: prompts and answers stay, reasoning is cut."""
    tokenizer = CharTokenizer(text.ALPHABET)
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6))
    for y, conversation in enumerate(conversations()):
        chat = encode(conversation, tokenizer)
        kept = cut(chat, budget)
        kinds = kinds_kept(chat, kept and kept.tokens)
        for kind, start, length in kinds:
            axis.barh(y, length, left=start, color=KIND[kind])
        axis.text(sum(length for *_, length in kinds) + 4, y, kept.action.replace("_", " ") if kept else "dropped",
                  va="center", in_layout=False)
    axis.axvline(budget, color="black", linestyle="--", linewidth=1)
    axis.set(xlim=(0, 420), xlabel="tokens", yticks=[], ylabel="conversation", title=f"budget {budget}")
    axis.legend(handles=[Patch(color=color, label=kind) for kind, color in KIND.items()])
    return figure


@styled
def polynomial(iterations: int = 5) -> Figure:
    """What becomes of a singular value s between 0 and 1 after some iterations of Newton-Schulz."""
    a, b, c = COEFFICIENTS
    start = torch.linspace(0, 1, 400)
    s = start.clone()
    for _ in range(iterations):
        s = a * s + b * s**3 + c * s**5
    figure, axis = plt.subplots(figsize=(WIDTH, 2.5))
    axis.axhspan(0.68, 1.21, color=GREEN, alpha=0.15)
    axis.plot(start.tolist(), s.tolist(), color=BLUE)
    axis.set(xlim=(0, 1), ylim=(0, 1.3), xlabel="singular value before", ylabel="after",
             title=f"{iterations} iterations: {float((s > 0.68).float().mean()):.0%} of the line is near one")
    return figure


@styled
def filters(temperature: float = 1.0, top_p: float = 0.9, min_p: float = 0.05) -> Figure:
    """Sixteen tokens by probability at this temperature; those that top-p and min-p both keep are orange."""
    logits = torch.tensor([[4.0 - 0.55 * i - 0.02 * i**2 for i in range(16)]])
    probs = sample.probabilities(logits, temperature)
    kept = sample.keep_mask(probs, top_p, min_p)[0]
    figure, axis = plt.subplots(figsize=(WIDTH, 2.5))
    axis.bar(range(16), probs[0].tolist(), color=[ORANGE if keep else GREY for keep in kept])
    axis.set(ylim=(0, 1), ylabel="probability", title=f"{int(kept.sum())} of 16 tokens may be sampled, "
             f"with {float(probs[0, kept].sum()):.1%} of the mass")
    axis.set_xticks(range(16), LETTERS)
    return figure


@styled
def budget_of_rsa(N: int = 16, C: int = 4, T: int = 2, beta: int = 512, tau: int = 128) -> Figure:
    """Bars: all tokens that Markovian RSA writes, of its longest context, and of one chain that thinks as long."""
    rsa = RSAConfig(N, min(C, N), T, beta, min(tau, beta))
    written, longest, chain = N * (T + 1) * beta, rsa.C * rsa.tau + beta, (T + 1) * beta
    figure, axis = plt.subplots(figsize=(WIDTH, 2.0))
    rows = (("longest context", longest, BLUE), ("one chain as long", chain, GREY), ("written in all", written, ORANGE))
    for y, (_, count, color) in enumerate(rows):
        axis.barh(y, count, color=color)
        axis.text(count, y, f" {count:,}", va="center")
    axis.set(xscale="log", xlim=(10, 10**6), xlabel="tokens, without the question")
    axis.set_yticks(range(3), [name for name, *_ in rows])
    return figure


@styled
def what_an_answer_counts(right: int = 2, of: int = 16) -> Figure:
    """Bars: the advantage of a right and of a wrong answer under three rules, when some of a group are right."""
    rewards = torch.tensor([[1.0] * min(right, of) + [0.0] * (of - min(right, of))])
    rules = {"MaxRL": advantage.maxrl_advantage, "GRPO": advantage.grpo_advantage,
             "Dr-GRPO": advantage.dr_grpo_advantage}
    figure, axis = plt.subplots(figsize=(WIDTH, 2.5))
    for x, rule in enumerate(rules.values()):
        found = rule(rewards)[0]
        for shift, answer, color in ((-0.2, rewards[0] == 1, GREEN), (0.2, rewards[0] == 0, RED)):
            if answer.any():
                value = float(found[answer][0])
                axis.bar(x + shift, value, 0.38, color=color)
                axis.text(x + shift, value, f"{value:+.2f}", ha="center", va="bottom" if value >= 0 else "top")
    axis.axhline(0, color="black", linewidth=1)
    axis.margins(y=0.18)
    axis.set(title=f"pass rate {min(right, of)} of {of}: a right answer is green, a wrong one red", ylabel="advantage")
    axis.set_xticks(range(3), list(rules))
    return figure


@styled
def rate_by_difficulty(boundary: float = 5.0, slope: float = 1.0, asked_at: int = 5) -> Figure:
    """The pass rate that a belief (boundary, slope) expects at each difficulty, and what an answer there would tell."""
    levels = torch.arange(1, 11)
    rates = torch.tensor([pass_rate(float(level), boundary, slope) for level in levels])
    here = float(rates[asked_at - 1])
    figure, axis = plt.subplots(figsize=(WIDTH, 2.5))
    axis.plot(levels.tolist(), rates.tolist(), "o-", color=BLUE, label="expected pass rate")
    axis.plot(levels.tolist(), (4 * rates * (1 - rates)).tolist(), "--", color=GREY,
              label="4 p (1 - p): what an answer tells")
    axis.plot(asked_at, here, "o", color=ORANGE, markersize=11)
    axis.set(ylim=(-0.05, 1.1), xlabel="difficulty", title=f"asked at {asked_at}: {here:.0%} are expected to be right")
    axis.legend(loc="upper right")
    return figure


@styled
def lanes(stride: int = 1, bytes_a_lane: int = 4) -> Figure:
    """Which of 64-byte pieces of memory the 64 lanes of a wave touch, with this stride between lanes."""
    addresses = torch.arange(64) * stride * bytes_a_lane
    pieces = addresses // 64
    touched = len(pieces.unique())
    figure, axis = plt.subplots(figsize=(WIDTH, 2.4))
    axis.scatter(addresses.tolist(), range(64), s=8, color=BLUE)
    axis.set(xlim=(-50, 64 * 16 * 8), xlabel="byte", ylabel="lane",
             title=f"{touched} pieces travel for {64 * bytes_a_lane} bytes: {bytes_a_lane / touched:.0%} used")
    return figure


@styled
def decoding_speed(batch: int = 1, context: int = 4096, device: str = "mi300x") -> Figure:
    """Bars: the time that a decoding step of ZAYA1-8B needs for bytes, and for arithmetic; the longer one decides."""
    config = ZayaConfig.preset("zaya1-8b")
    on = devices.device(device)
    seconds = devices.decode_seconds(config, batch, context, on)
    figure, axis = plt.subplots(figsize=(WIDTH, 1.7))
    for y, (time, color) in enumerate(zip(seconds, (BLUE, ORANGE))):
        axis.barh(y, 1e3 * time, color=color)
        axis.text(1e3 * time, y, f" {1e3 * time:.3g} ms", va="center")
    axis.set(xscale="log", xlim=(1e-3, 1e5), xlabel="milliseconds a step",
             title=f"{batch} sequences: at most {batch / max(seconds):,.0f} tokens a second")
    axis.minorticks_off()     # a hundred of them would cost a tenth of a second
    axis.set_yticks((0, 1), ("reading bytes", "arithmetic"))
    return figure
