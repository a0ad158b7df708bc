"""Another mixture of experts of `transformers`, Qwen3-MoE, tiny and random, as a black box.

    python examples/transformers_qwen3_moe.py

Whatever the type of the model, its norms and rotations round to float32, and in bfloat16 a batch is summed in another
order than a sequence alone. How far the logits may then be apart is for the user to say: `tol`.
"""

import torch
from torch import nn
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe import modeling_qwen3_moe as theirs

from minizaya import laws
from minizaya.laws import adapt

TOL = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 1e-1}    # rotation, norms: float32 in all of them


@torch.no_grad()
def model(dtype: torch.dtype = torch.float64) -> Qwen3MoeForCausalLM:
    """Two layers, four experts, two of them a token; every weight drawn."""
    made = Qwen3MoeForCausalLM(Qwen3MoeConfig(
        vocab_size=17, hidden_size=12, intermediate_size=8, moe_intermediate_size=6, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=4, num_experts=4, num_experts_per_tok=2,
        norm_topk_prob=True)).to(dtype).eval()
    made.set_experts_implementation("eager")
    generator = torch.Generator().manual_seed(1)
    for value in made.parameters():
        value.copy_(0.5 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return made


def whole(dtype: torch.dtype = torch.float64, tol: float | None = None, examples: int | None = None) -> laws.Findings:
    tol = TOL[dtype] if tol is None else tol
    return laws.causal_lm(adapt.transformers(model(dtype), packed=True), tol=tol, examples=examples)


# ---- part by part ----------------------------------------------------------------------------------------------------


def rope(x, angles):
    """Theirs turns all channels; those that the law leaves without position are put beside."""
    cos, sin = (torch.cat([part, part], -1)[None, :, 0] for part in angles)
    turned, rest = x.split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], -1)
    return torch.cat([theirs.apply_rotary_pos_emb(turned, turned, cos, sin, unsqueeze_dim=2)[0], rest], -1)


def attention(q, k, v, mask=None):
    part = nn.Module().eval()
    part.num_key_value_groups = q.shape[1] // k.shape[1]
    t, s = q.shape[2], k.shape[2]
    seen = torch.ones(t, s, dtype=torch.bool).tril(s - t) if mask is None else mask
    added = torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, float("-inf"))
    return theirs.eager_attention_forward(part, q, k, v, added, q.shape[-1] ** -0.5)[0].transpose(1, 2)


def experts(x, routes, gates, gate_up, down):
    """Theirs know no skip route: a token that skips is sent to expert 0, with a gate of zero."""
    config = Qwen3MoeConfig(hidden_size=x.shape[1], num_experts=len(gate_up), moe_intermediate_size=down.shape[2])
    config._experts_implementation = "eager"
    skips = routes == len(gate_up)
    picks, gates = routes.masked_fill(skips, 0)[:, None], gates.masked_fill(skips, 0)[:, None]
    weights = {"gate_up_proj": gate_up, "down_proj": down}
    return torch.func.functional_call(theirs.Qwen3MoeExperts(config).to(x.dtype), weights, (x, picks, gates))


norm = adapt.module(lambda x, weight, eps: theirs.Qwen3MoeRMSNorm(len(weight), eps), {"weight": 1}, inputs=(0,))
PARTS = {"residual.rms_norm": norm, "residual.rms_epsilon": norm, "residual.rms_half": norm, "cca.rope": rope,
         "cca.rope_length": rope, "cca.attention": adapt.layout(attention, "bhtd"),
         "cca.gqa_contiguous": adapt.layout(attention, "bhtd"), "cca.attention_hidden": adapt.layout(attention, "bhtd"),
         "experts.dispatch": experts, "experts.crowded": experts, "experts.gradients": experts}


def parts(examples: int | None = None) -> dict[str, laws.Verdict]:
    return {name: laws.judge(name, fn, tol=1e-5, examples=examples) for name, fn in PARTS.items()}


if __name__ == "__main__":
    for dtype in TOL:
        print(f"\n{dtype}, allowed {TOL[dtype]:g}\n{whole(dtype)}")
    print(f"\nfloat64 in earnest: allowed 1e-9\n{whole(tol=1e-9)}")
    print("\npart by part", *parts().values(), sep="\n")
