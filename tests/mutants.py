"""One-line bugs, planted one at a time into a copy of the package: at least one law must fall over each.

    python tests/mutants.py [word]     plants all, or those whose file or reason holds the word; prints the killers

Each row: file under minizaya/, the line as it is (it must occur exactly once), the line with the bug, why it matters,
and the laws to try, in this order.
"""

import importlib
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "minizaya"

CCA, ATTENTION, CACHE = "arch/cca.py", "arch/attention.py", "arch/cache.py"
ROUTER, RESIDUAL, EXPERTS = "arch/router.py", "arch/residual.py", "arch/experts.py"
BLOCK, MODEL, BALANCE = "arch/block.py", "arch/model.py", "arch/balance.py"
GENERATE, SAMPLE = "infer/generate.py", "infer/sample.py"
CHAT, TRIM = "data/chat.py", "data/trim.py"

MUTANTS = [
    # ---- CCA: convolutions
    (CCA, "for conv in (depthwise, grouped):", "for conv in (grouped, depthwise):",
     "the depthwise convolution comes first", ["cca.convolve"]),
    (CCA, "past = past * starts_before(past, tap)", "past = past * starts_before(past, tap + 1)",
     "a document's second token may see its first", ["cca.convolve_documents"]),
    (CCA, "return (own >= tap)[..., None]", "return (own > tap)[..., None]",
     "off by one at the start of a document", ["cca.convolve_documents"]),
    (CCA, "past = torch.where(starts_before(past, tap), past, empty)", "past = past * starts_before(past, tap)",
     "before a document the second convolution sees the first one's bias, not zero", ["cca.convolve_documents"]),
    (CCA, "u = torch.addcmul(u, past, taps[back - tap])", "u = torch.addcmul(u, past, taps[tap])",
     "taps in the wrong order", ["cca.convolve"]),
    (CCA, "+ grouped.bias", "+ grouped.bias.detach()",
     "the bias of the grouped convolution never learns", ["cca.convolve_documents"]),
    (CCA, "z = z if conv is None else conv(z)", "z = z if conv is None else F.gelu(conv(z))",
     "no activation between the convolutions", ["cca.convolve"]),
    # ---- CCA: mean path, value shift, norm
    (CCA, 'mean_q = (q + repeat(k, "b t j d -> b t (j g) d", g=group)) / 2',
     'mean_q = (q + repeat(k, "b t j d -> b t (g j) d", g=group)) / 2', "query heads of a group are neighbours",
     ["cca.qk_mean"]),
    (CCA, '"mean", g=group)', '"sum", g=group)', "a key takes the mean of its queries, not their sum", ["cca.qk_mean"]),
    (CCA, "late = torch.cat([before, then[:, :-1]], dim=1)", "late = torch.cat([then[:, :-1], before], dim=1)",
     "the empty place comes first", ["cca.value_shift"]),
    (CCA, "before = torch.zeros_like(then[:, :1]) if before is None", "before = then[:, :1] if before is None",
     "the first token has nothing before it", ["cca.value_shift"]),
    (CCA, "late = torch.where((position > 0)[..., None], late, before)",
     "late = torch.where((position >= 0)[..., None], late, before)", "values leak over a document border",
     ["cca.value_shift_documents"]),
    (CCA, "return torch.cat([now, late], dim=-1)", "return torch.cat([late, now], dim=-1)",
     "the present half comes first", ["cca.value_shift"]),
    (CCA, "return x * (x.shape[-1] ** 0.5 / norm)", "return x / norm", "sqrt(d) forgotten", ["cca.qk_norm"]),
    (CCA, ".clamp_min(torch.finfo(x.dtype).eps)", ".clamp_min(1e-3)",
     "an epsilon large enough to shrink small vectors", ["cca.qk_norm_tiny"]),
    (CCA, ".clamp_min(torch.finfo(x.dtype).eps)", "", "a zero vector becomes NaN", ["cca.qk_norm_tiny"]),
    (CCA, "return unit(q), unit(k) * temperature[:, None]", "return unit(q) * temperature.repeat_interleave("
     "q.shape[2] // k.shape[2])[:, None], unit(k)", "the temperature belongs to the keys", ["cca.temperature_linear"]),
    (CCA, "unit(k) * temperature[:, None]", "unit(k) * temperature.exp()[:, None]",
     "the temperature is linear, not an exponent", ["cca.temperature_linear"]),
    # ---- CCA: the layer
    (CCA, "mean_q, mean_k = qk_mean(q0, k0)", "mean_q, mean_k = qk_mean(q, k)",
     "the mean path reads the values before the convolutions", ["cca.layer"]),
    (CCA, "place.masks[self.sliding]", "place.masks[next(iter(place.masks))]",
     "sliding and full layers have masks of their own", ["model.definition"]),
    (CCA, "x = x * place.valid[..., None]", "x = x", "padding leaks through the convolutions", ["model.padding"]),
    (CCA, "rope(k, place.angles[self.sliding])", "k", "keys are rotated too", ["cca.layer"]),
    (CCA, "q, k = qk_norm(q, k, self.temperature)", "q, k = qk_norm(q, k, self.temperature.detach())",
     "the temperature never learns", ["model.gradients"]),
    # ---- rotation and masks
    (ATTENTION, "first * cos - second * sin, second * cos + first * sin",
     "first * cos + second * sin, second * cos - first * sin", "RoPE turned the other way", ["cca.rope"]),
    (ATTENTION, "first, second, still = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)",
     "first, second, still = x[..., 0: 2 * half: 2], x[..., 1: 2 * half: 2], x[..., 2 * half:]",
     "halves are turned together, not neighbours", ["cca.rope"]),
    (ATTENTION, "torch.cat([first * cos - second * sin, second * cos + first * sin, still], dim=-1)",
     "torch.cat([still, first * cos - second * sin, second * cos + first * sin], dim=-1)",
     "the unturned channels come last", ["cca.rope"]),
    (ATTENTION, "device=device) / rotary_dim)", "device=device) / (rotary_dim + 2))",
     "frequencies of another width", ["cca.rope_frequencies"]),
    (ATTENTION, "theta = config.rope_theta_sliding if sliding else config.rope_theta", "theta = config.rope_theta",
     "sliding layers have their own RoPE base", ["cca.layer", "model.definition"]),
    (ATTENTION, "* q.shape[-1] ** -0.5", "* q.shape[-1] ** -1.0", "scores are divided by sqrt(d)", ["cca.attention"]),
    (ATTENTION, 'k, v = (repeat(x, "b s j d -> b s (j g) d", g=group)',
     'k, v = (repeat(x, "b s j d -> b s (g j) d", g=group)', "query heads of a group are neighbours",
     ["cca.gqa_contiguous"]),
    (ATTENTION, ".softmax(-1)", ".softmax(-2)", "weights sum to one over the keys", ["cca.attention"]),
    (ATTENTION, "(ahead >= 0) & (ahead < window)", "(ahead >= 0) & (ahead <= window)",
     "the window counts the token itself", ["cca.sliding_window"]),
    (ATTENTION, "if window else ahead >= 0", "if window else ahead > 0", "a token sees itself", ["cca.sliding_window"]),
    (ATTENTION, "fresh[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]", "fresh[:, 1:] = doc_ids[:, 1:] > doc_ids[:, :-1]",
     "a smaller id is a new document too", ["cca.document_starts"]),
    (ATTENTION, "return fresh.cumsum(dim=1), index - start", "return fresh.cumsum(dim=1), index",
     "positions start anew in each document", ["cca.document_starts"]),
    (ATTENTION, "return fresh.cumsum(dim=1), index - start", "return fresh.cumsum(dim=0), index - start",
     "documents are counted along the row", ["cca.document_starts"]),
    (ATTENTION, "crops = window is not None and window < past + steps", "crops = window is not None and window < steps",
     "the window crops cached keys too", ["decoding.chunks"]),
    (ATTENTION, "or (past and steps > 1)", "", "several new tokens after a past need a causal mask",
     ["decoding.chunks"]),
    (ATTENTION, "queries = keys[past:]", "queries = keys[:steps]", "new tokens stand after the past",
     ["decoding.chunks"]),
    (ATTENTION, "seen = seen & (document[:, None, :, None] == document[:, None, None, :])", "pass",
     "attention crosses a document border", ["model.documents"]),
    (ATTENTION, "seen = seen & (valid[:, None, None, :] | (queries[:, None] == keys))", "pass",
     "padding is attended to", ["model.padding"]),
    (ATTENTION, "(valid[:, None, None, :] | (queries[:, None] == keys))", "valid[:, None, None, :]",
     "a padded query that sees nothing is NaN", ["model.padding"]),
    (ATTENTION, "None if valid is None else valid[:, past:])", "None if valid is None else valid[:, :steps])",
     "the last of the flags are those of the new tokens", ["decoding.padded_chunks"]),
    # ---- the cache
    (CACHE, "torch.cat([past, z], dim=1)[:, z.shape[1]:]", "torch.cat([past, z], dim=1)[:, :past.shape[1]]",
     "the cache keeps the last columns, not the first", ["decoding.chunks"]),
    (CACHE, "self.delayed[layer] = then[:, -1]", "self.delayed[layer] = then[:, 0]",
     "the delayed value is the last token's", ["decoding.chunks"]),
    (CACHE, "bigger[:, :, : self.length] = room[:, :, : self.length]", "pass", "growing loses what was held",
     ["decoding.long"]),
    (CACHE, "room[1, :, self.length: end] = v", "room[1, :, self.length: end] = k", "values are not keys",
     ["decoding.chunks"]),
    (CACHE, "return room[0, :, :end], room[1, :, :end]", "return room[0], room[1]",
     "the empty room behind the end is not content", ["decoding.chunks"]),
    (CACHE, "return torch.cat([old, new], dim=1)", "return torch.cat([new, old], dim=1)",
     "old flags come before new ones", ["decoding.padded_chunks"]),
    (CACHE, "self.columns = [columns[rows] for columns in self.columns]",
     "self.columns = [columns[:len(rows)] for columns in self.columns]", "the columns of the kept rows stay",
     ["decoding.select"]),
    (CACHE, "[None if late is None else late[rows] for late in self.delayed]",
     "[None if late is None else late[:len(rows)] for late in self.delayed]",
     "the delayed values of the kept rows stay",
     ["decoding.select"]),
    (CACHE, "self.valid = None if self.valid is None else self.valid[rows]", "self.valid = None",
     "padding of the kept rows stays padding", ["decoding.select"]),
    (CACHE, "2 * kv.shape[3] * kv.shape[4]", "kv.shape[3] * kv.shape[4]", "keys and values are two",
     ["decoding.kv_bytes"]),
    # ---- the router
    (ROUTER, "return state if below is None else state + scale * below",
     "return state if below is None else scale * state + below", "the scale belongs to the state below",
     ["router.depth_average"]),
    (ROUTER, "torch.argmax(probs.detach().float() + bias, dim=-1)", "torch.argmax(probs.detach().float(), dim=-1)",
     "the bias moves choices", ["router.biased_choice"]),
    (ROUTER, "torch.argmax(probs.detach().float() + bias, dim=-1)",
     "torch.argmax((probs.detach().float() + bias)[..., :-1], dim=-1)", "the skip route can be chosen",
     ["router.skip_threshold"]),
    (ROUTER, "torch.argmax(probs.detach().float() + bias, dim=-1)",
     "torch.argmax(probs.detach().float() * (1 + bias), dim=-1)", "the bias is added", ["router.biased_choice"]),
    (ROUTER, "routes = torch.where(pinned < 0, routes, pinned.long())",
     "routes = torch.where(pinned <= 0, routes, pinned.long())", "route 0 can be recorded", ["router.replay"]),
    (ROUTER, "gates = probs.gather(", "gates = (probs + bias).gather(", "the bias never weighs",
     ["router.unbiased_gate"]),
    (ROUTER, "gates = probs.gather(", "gates = probs.detach().gather(", "the gate teaches the router",
     ["router.replay_gradient"]),
    (ROUTER, "gates = probs.gather(", "gates = (probs / probs[..., :-1].sum(-1, keepdim=True)).gather(",
     "the gate is a share of all routes, skip included", ["router.unbiased_gate"]),
    (ROUTER, "hidden = F.gelu(self.fc1(self.norm(state)))", "hidden = F.relu(self.fc1(self.norm(state)))",
     "GELU, not ReLU", ["router.scores"]),
    (ROUTER, "hidden = F.gelu(self.fc2(hidden))", "hidden = F.gelu(self.fc2(hidden), approximate='tanh')",
     "the exact GELU, not its tanh approximation", ["router.scores"]),
    (ROUTER, "hidden = F.gelu(self.fc1(self.norm(state)))", "hidden = F.gelu(self.fc1(state))",
     "the router norms its state", ["router.scores"]),
    (ROUTER, "return self.mlp(state).softmax(-1), state", "return self.mlp(state).sigmoid(), state",
     "probabilities sum to one", ["router.scores"]),
    (ROUTER, "return self.mlp(state).softmax(-1), state", "return self.mlp(state).softmax(-1), self.down_proj(x)",
     "what is handed up is the averaged state", ["router.scores"]),
    (ROUTER, "self.balancing_bias[config.skip_route] = -1.0", "self.balancing_bias[config.skip_route] = 0.0",
     "the skip bias starts at -1", ["model.fresh_never_skips"]),
    (ROUTER, "if self.balancing_bias.dtype.itemsize < 4:", "if self.balancing_bias.dtype.itemsize < 2:",
     "the bias stays float32 in a bfloat16 model", ["model.float32"]),
    # ---- the residual stream
    (RESIDUAL, "wide.square().mean(-1, keepdim=True) + eps)", "wide.square().mean(-1, keepdim=True).clamp_min(eps))",
     "eps is added to the mean square", ["residual.rms_norm"]),
    (RESIDUAL, "wide.square().mean(-1, keepdim=True) + eps)", "wide.square().sum(-1, keepdim=True) + eps)",
     "the mean of squares, not their sum", ["residual.rms_norm"]),
    (RESIDUAL, "torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)",
     "(1 / (wide.square().mean(-1, keepdim=True).sqrt() + eps))", "eps stands inside the root",
     ["residual.rms_epsilon"]),
    (RESIDUAL, "torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)",
     "torch.rsqrt((wide - wide.mean(-1, keepdim=True)).square().mean(-1, keepdim=True) + eps)",
     "RMSNorm does not subtract the mean", ["residual.rms_norm"]),
    (RESIDUAL, "wide = x.to(at_least_float32(x.dtype))", "wide = x", "the mean of squares is taken in float32",
     ["residual.rms_half"]),
    (RESIDUAL, "return (output + output_bias) * output_scale + (residual + residual_bias) * residual_scale",
     "return output * output_scale + output_bias + (residual + residual_bias) * residual_scale",
     "the bias is added before the scale", ["residual.bias_first"]),
    (RESIDUAL, "+ (residual + residual_bias) * residual_scale", "+ residual", "the residual stream is scaled too",
     ["residual.merge"]),
    # ---- experts
    (EXPERTS, "gate, up = F.linear(x, gate_up).chunk(2, dim=-1)", "up, gate = F.linear(x, gate_up).chunk(2, dim=-1)",
     "the gate rows stand above the up rows", ["experts.swiglu"]),
    (EXPERTS, "F.silu(gate) * up", "F.gelu(gate) * up", "SiLU, not GELU", ["experts.swiglu"]),
    (EXPERTS, "out = torch.zeros_like(x)", "out = x.clone()", "a skipped token contributes zero",
     ["experts.skip_zero"]),
    (EXPERTS, "* gates[mine, None]", "", "the gate weighs the expert's output", ["experts.dispatch"]),
    (EXPERTS, "for expert in range(len(gate_up)):", "for expert in range(len(gate_up) - 1):",
     "the last expert works too", ["experts.crowded"]),
    # ---- block and model
    (BLOCK, "self.router(x, below, pinned)", "self.router(x, below)", "routes are replayed", ["model.replay"]),
    (BLOCK, "self.router(x, below, pinned)", "self.router(x, None, pinned)", "the router hears the layer below",
     ["model.definition"]),
    (BLOCK, "stream = self.moe_merge(self.experts(x, routes, gates), stream)",
     "stream = self.moe_merge(self.experts(x, routes, gates.detach()), stream)", "the router learns from the gate",
     ["model.gradients"]),
    (BLOCK, "x = self.moe_norm(stream)", "x = stream.to(self.moe_norm.weight.dtype)",
     "experts read a normalised stream",
     ["model.definition"]),
    (MODEL, "x = (self.embed(tokens) + self.embed_bias) * self.embed_scale",
     "x = self.embed(tokens) * self.embed_scale + self.embed_bias", "the bias is added before the scale",
     ["model.definition"]),
    (MODEL, "stream = x.to(at_least_float32(x.dtype))", "stream = x", "the residual stream is float32",
     ["model.half_stream"]),
    (MODEL, "pinned = None if routes is None else routes[..., layer]",
     "pinned = None if routes is None else routes[..., 0]", "each layer has its own recorded routes", ["model.replay"]),
    (MODEL, "stream = stream[:, -1:]", "stream = stream[:, :1]", "the last position, not the first",
     ["decoding.last_only"]),
    (MODEL, "logits = self.head(self.norm(stream))", "logits = self.head(stream.to(self.norm.weight.dtype))",
     "the stream is normalised before the head", ["model.definition"]),
    (MODEL, "return ZayaOutput(logits.to(at_least_float32(logits.dtype))", "return ZayaOutput(logits",
     "logits are at least float32", ["model.float32"]),
    (MODEL, "cache.length, cache.valid = past + steps, valid", "cache.length = past + steps",
     "the cache remembers what was padding", ["decoding.padded_chunks"]),
    (MODEL, "self.head.weight = self.embed.weight", "self.head.weight.data = self.embed.weight.data.clone()",
     "head and embedding are one tensor", ["model.tied"]),
    # ---- balancers
    (BALANCE, "self.move(load - 1 / load.shape[-1])", "self.move(1 / load.shape[-1] - load)",
     "the bias moves against the error", ["balance.against_error"]),
    (BALANCE, "self.bias -= self.lr * error.sign()", "self.bias -= self.lr * error", "the sign, not the size",
     ["balance.sign"]),
    (BALANCE, "self.integral = self.integral + error", "self.integral = error", "the integral sums all errors",
     ["balance.pid"]),
    (BALANCE, "change = error - self.last_error", "change = error + self.last_error", "the derivative is a difference",
     ["balance.pid"]),
    (BALANCE, "self.last_error = error", "pass", "the derivative needs the last error", ["balance.pid"]),
    (BALANCE, "mean = self.mean / (1 - beta1 ** int(self.steps))", "mean = self.mean",
     "AdamW corrects the pull of its first zeros", ["balance.adamw"]),
    (BALANCE, "(square.sqrt() + self.eps)", "(square + self.eps).sqrt()", "eps stands outside AdamW's root",
     ["balance.adamw_is_sign", "balance.adamw"]),
    (BALANCE, "weight_decay: float = 0.0,", "weight_decay: float = 0.1,",
     "decay would pull biases to zero for no load's sake",
     ["balance.adamw"]),
    (BALANCE, "if mask is None else routes[mask]", "if mask is None else routes.flatten(0, 1)",
     "padding is not counted",
     ["balance.counts"]),
    (BALANCE, "return tokens[:, :num_experts] / tokens.sum(-1, keepdim=True).clamp_min(1)",
     "return tokens[:, :num_experts] / tokens[:, :num_experts].sum(-1, keepdim=True).clamp_min(1)",
     "skipped tokens count in the whole", ["balance.load"]),
    (BALANCE, "/ math.log(load.shape[-1])", "/ math.log(2)", "entropy is measured in its maximum", ["balance.entropy"]),
    (BALANCE, "return load.amax(-1) / load.mean(-1) - 1", "return load.amax(-1) / load.mean(-1)",
     "a perfect balance has no violation", ["balance.max_violation"]),
    # ---- answering
    (GENERATE, "* (longest - len(prompt)) + prompt for prompt", "* (longest - len(prompt) - 1) + prompt for prompt",
     "padding fills up to the longest prompt", ["decoding.greedy"]),
    (GENERATE, ">= starts[:, None]", "> starts[:, None]", "the first real token is real", ["decoding.greedy"]),
    (GENERATE, "cache.select(rows)", "cache.select(rows.flip(0))", "the cache's rows are the batch's rows",
     ["decoding.stop"]),
    (GENERATE, "alive = [alive[row] for row in going]", "alive = alive[: len(going)]",
     "an answer belongs to its own prompt", ["decoding.stop"]),
    (SAMPLE, "scatter(-1, order, mass_before < top_p)", "scatter(-1, order, mass_before + ranked < top_p)",
     "the token that reaches p stays", ["decoding.top_p"]),
    (SAMPLE, "return probs >= min_p * probs.amax(-1, keepdim=True)", "return probs >= min_p",
     "min-p is relative to the best token", ["decoding.min_p"]),
    (SAMPLE, "/ temperature).softmax(-1)", "* temperature).softmax(-1)", "temperature divides",
     ["decoding.temperature"]),
    (SAMPLE, "return (cdf > uniforms[:, None] * total)", "return (cdf >= uniforms[:, None] * total)",
     "a uniform of zero never picks a weight of zero",
     ["decoding.inverse_cdf"]),
    (SAMPLE, "{seed}/{copies[text]}/{text}", "{seed}/{text}", "copies of a prompt draw different numbers",
     ["decoding.batch_mates"]),
    # ---- trimming
    (TRIM, "return _without(chat, [(last.end - excess, last.end)], \"tail\")",
     "return _without(chat, [(last.start, last.start + excess)], \"tail\")",
     "the head of the reasoning stays, not its tail", ["trim.prefix"]),
    (TRIM, "return _without(chat, [(last.end - excess, last.end)], \"tail\")",
     "middle = (last.start + last.end - excess) // 2; return _without(chat, [(middle, middle + excess)], \"tail\")",
     "the tail is cut, not the middle", ["trim.prefix"]),
    (TRIM, "[*gaps, (last.end - excess, last.end)]", "[*gaps, (last.start, last.start + excess)]",
     "also after dropping earlier blocks the head stays", ["trim.prefix"]),
    (TRIM, "return _without(chat, [(last.end - excess, last.end)], \"tail\")",
     "return _without(chat, [(last.end - excess, last.end), (last.end + 1, last.end + 2)], \"tail\")",
     "an answer loses its first token", ["trim.answers"]),
    (TRIM, "if excess <= last.end - last.start:", "if excess <= last.end - last.start + 1:",
     "the cut stops at the block's beginning", ["trim.answers", "trim.prefix", "trim.dropped", "trim.earlier"]),
    (TRIM, "if excess <= last.end - last.start:", "if excess < last.end - last.start:",
     "an emptied last block is enough", ["trim.earlier"]),
    (TRIM, "if excess <= last.end - last.start:", "if excess <= 0:",
     "earlier blocks stay while the last one can be cut", ["trim.earlier"]),
    (TRIM, "if excess <= 0:", "if excess < 0:", "what fits exactly is kept", ["trim.kept"]),
    (TRIM, "if excess <= 0:", "if excess <= 1:", "one token over is over", ["trim.fits"]),
    (TRIM, "excess = len(chat.tokens) - budget", "excess = len(chat.tokens) - budget + 1",
     "the budget is used to the last token", ["trim.exact", "trim.kept"]),
    (TRIM, "(block.start - 1, block.end + 1) for block in earlier", "(block.start, block.end) for block in earlier",
     "a dropped block goes with its tags", ["trim.earlier", "trim.prefix"]),
    (TRIM, "for block in earlier]", "for block in earlier[:1]]", "all earlier blocks go at once",
     ["trim.earlier", "trim.prefix"]),
    (TRIM, "excess = max(0, excess - sum(end - start for start, end in gaps))", "excess = last.end - last.start",
     "after the earlier blocks are gone only the rest is cut", ["trim.exact"]),
    (TRIM, "    if excess > last.end - last.start:\n        return None",
     "    excess = min(excess, last.end - last.start)", "what cannot fit is dropped", ["trim.fits", "trim.dropped"]),
    (TRIM, "    if excess > last.end - last.start:\n        return None",
     "    if excess >= last.end - last.start:\n        return None", "an empty last block is no reason to drop",
     ["trim.dropped"]),
    (TRIM, "loss_mask += chat.loss_mask[at:]", "loss_mask = chat.loss_mask[:len(tokens)]",
     "the mask is cut where the tokens are", ["trim.loss_mask"]),
    (TRIM, "return Trimmed(list(chat.tokens), list(chat.loss_mask), \"kept\")",
     "return Trimmed(list(chat.tokens), list(chat.loss_mask), \"tail\")",
     "an action says what was done", ["trim.kept"]),
    (CHAT, "add(\"template\", turn, [im_end], role == \"assistant\")", "add(\"template\", turn, [im_end], False)",
     "the assistant learns to end its turn", ["trim.loss_mask"]),
    (CHAT, "[im_start, *tokenizer.encode(role + \"\\n\")], False)",
     "[im_start, *tokenizer.encode(role + \"\\n\")], role == \"assistant\")",
     "the assistant does not write its own role", ["trim.loss_mask"]),
    (CHAT, "add(\"prompt\", turn, tokenizer.encode(content), False)",
     "add(\"prompt\", turn, tokenizer.encode(content, allow_special=True), False)",
     "what a user types is never a special token", ["trim.answers", "trim.kept"]),
    (CHAT, "add(\"template\", turn, [unthink], True)", "add(\"template\", turn, [unthink], False)",
     "the assistant learns to end its reasoning", ["trim.loss_mask"]),
]


def plant(mutant, folder: Path) -> None:
    """A copy of the package's Python files in `folder`, with one mutation."""
    file, old, new, *_ = mutant
    for source in PACKAGE.rglob("*.py"):
        target = folder / "minizaya" / source.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    path = folder / "minizaya" / file
    path.write_text(path.read_text().replace(old, new))


def kill(mutant) -> tuple[str, str]:
    """The first law that the planted bug breaks, and what it says; ("", "") if the bug survives."""
    file, _, _, _, names = mutant
    with tempfile.TemporaryDirectory() as folder:
        plant(mutant, Path(folder))
        for name in [name for name in sys.modules if re.match(r"minizaya(\.|$)", name)]:
            del sys.modules[name]
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            laws = importlib.import_module("minizaya.laws")
            for name in names:
                for label in laws.get(name).subjects:
                    verdict = laws.judge(name, label=label, shrink=False)
                    if not verdict.passed:
                        return name, verdict.message
        finally:
            sys.path.remove(folder)
    return "", ""


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for i, mutant in enumerate(MUTANTS):
        if word in mutant[0] + mutant[3]:
            print(json.dumps([i, *kill(mutant)]), flush=True)
