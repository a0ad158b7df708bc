"""Our model equals the released one: `transformers`' ZAYA, over random shapes with every weight random (see peer.py).

In float64 the two agree to a few units of the last place once the released float32 islands are lifted. We ask for 1e-9,
so a test fails for a mistake and not for a new version of torch.
"""

import random
from contextlib import nullcontext
from functools import lru_cache

import pytest
import torch
from transformers import ZayaConfig as PeerConfig
from transformers import ZayaForCausalLM

import minizaya as mz
from minizaya import hub
from minizaya.arch import cca
from peer import (
    SEEDS,
    SMALL,
    VANISHING,
    islands_lifted,
    make_case,
    make_peer,
    ours_from,
    peer_config,
    relative,
    run_peer,
)

BACKENDS = ("fast", "reference")
TIGHT = 1e-9
each_seed = pytest.mark.parametrize("seed", SEEDS)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@lru_cache(maxsize=2)   # the backends come one after the other and share the peer's half of the work
def case_and_peer_output(seed, lifted, dtype, **changes):
    case = make_case(seed, dtype, **changes)
    with torch.no_grad(), islands_lifted(case.peer) if lifted else nullcontext():
        return case, run_peer(case.peer, case.tokens, case.mask)


def both(seed, backend="fast", lifted=True, dtype=torch.float64, **changes):
    """A case, our model, and both outputs without gradients. Cases are shared: change our model, never the peer."""
    case, theirs = case_and_peer_output(seed, lifted, dtype, **changes)
    ours = ours_from(case.peer, backend)
    with torch.no_grad():
        return case, ours, ours(case.tokens, mask=case.our_mask), theirs


def test_the_cases_cover_what_they_claim():
    configs = [peer_config(seed) for seed in SEEDS]
    cases = [make_case(seed) for seed in SEEDS]
    assert len(configs) >= 24 and len(SMALL) >= 6
    assert {c.num_key_value_heads for c in configs} == {1, 2, 3, 4}
    assert {c.num_attention_heads // c.num_key_value_heads for c in configs} == {1, 2, 3}
    assert {c.num_experts for c in configs} == set(range(1, 9))
    assert {(c.cca_time0, c.cca_time1) for c in configs} == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3)}
    assert {tuple(sorted(set(c.layer_types))) for c in configs} == {
        ("hybrid",), ("hybrid_sliding",), ("hybrid", "hybrid_sliding")}
    for switch in ("attention_bias", "lm_head_bias", "tie_word_embeddings"):
        assert {getattr(c, switch) for c in configs} == {False, True}
    assert {case.tokens.shape[0] for case in cases} == {1, 2, 3}
    assert sum(case.tokens.shape[1] % 2 for case in cases) > len(cases) / 2
    assert sum(case.padding > 0 for case in cases) >= 10
    assert any(case.peer.config.pad_token_id in case.tokens[case.mask].tolist() for case in cases)  # as a real token
    routes = [run_peer(case.peer, case.tokens).routes for case in cases]
    skipped = [bool((r == case.peer.config.num_experts).any()) for r, case in zip(routes, cases)]
    assert 5 <= sum(skipped) <= len(cases) - 5
    assert sum(len(r.unique()) > 1 for r in routes) >= len(cases) / 2


# ---- forward ---------------------------------------------------------------------------------------------------------


@each_seed
@each_backend
def test_logits_and_routes_in_float64(seed, backend):
    case, _, out, theirs = both(seed, backend)
    assert torch.equal(out.routes[case.mask], theirs.routes[case.mask])
    assert relative(out.probs.movedim(0, 2), theirs.probs.movedim(0, 2), case.mask) <= TIGHT
    assert relative(out.logits, theirs.logits, case.mask) <= TIGHT


@each_seed
@each_backend
def test_unpatched_the_difference_is_the_peers_float32_rounding(seed, backend):
    """The peer rounds to float32 (6e-8) in two norms, a merge and a table a layer; the logits see a few of those."""
    case, _, out, theirs = both(seed, backend, lifted=False)
    assert torch.equal(out.routes[case.mask], theirs.routes[case.mask])
    assert relative(out.logits, theirs.logits, case.mask) <= 2e-6


@each_seed
@each_backend
def test_float32(seed, backend):
    case, _, out, theirs = both(seed, backend, lifted=False, dtype=torch.float32)
    assert out.logits.dtype == torch.float32
    assert torch.equal(out.routes[case.mask], theirs.routes[case.mask])
    assert relative(out.logits, theirs.logits, case.mask) <= 2e-5


@each_seed
@each_backend
def test_bfloat16_is_as_near_the_truth_as_the_peer(seed, backend):
    """The order of operations is the released one, but fused and packed kernels round in other places.

    One rounding is eps / 2 = 2 ** -8 of a value. Both models differ from the same weights in float64 by several of
    them; ours must not differ by more than the peer does, give or take one step, nor from the peer by over four.
    A choice between two experts may turn only where their scores are that near, and the peer's routes are replayed.
    """
    step = torch.finfo(torch.bfloat16).eps
    case, ours, out, theirs = both(seed, backend, lifted=False, dtype=torch.bfloat16)
    turned = (out.routes != theirs.routes) & case.mask[..., None]
    for row, time, layer in turned.nonzero():
        bias = ours.layers[layer].router.balancing_bias
        scores = theirs.probs[layer, row, time].float() + bias
        a, b = out.routes[row, time, layer], theirs.routes[row, time, layer]
        assert (scores[a] - scores[b]).abs() <= 4 * step
    truth = ours_from(case.peer, backend).double()
    with torch.no_grad():
        logits = ours(case.tokens, mask=case.our_mask, routes=theirs.routes).logits
        exact = truth(case.tokens, mask=case.our_mask, routes=theirs.routes).logits
    assert logits.dtype == torch.float32
    assert relative(logits, theirs.logits, case.mask) <= 4 * step
    assert relative(logits, exact, case.mask) <= relative(theirs.logits, exact, case.mask) + step


# ---- gradients -------------------------------------------------------------------------------------------------------

# trap: where every query of a layer sees one key (one token, or a window of one), the weights are 1 whatever the
# scores, so the gradients of what makes scores are zero in truth. What is left is rounding: about 1e-16 of the model's
# largest gradient.
MAKES_SCORES = ("q_proj", "k_proj", "conv_qk", "qk_norm.temp")


def zero_in_truth(name, case):
    if not any(part in name for part in MAKES_SCORES):
        return False
    config, layer = case.peer.config, int(name.split(".")[2])
    window = config.sliding_window if config.layer_types[layer] == "hybrid_sliding" else case.tokens.shape[1]
    return min(window, int(case.mask.sum(1).max())) == 1


@each_seed
@each_backend
def test_gradients_of_every_parameter(seed, backend):
    case = make_case(seed)
    ours = ours_from(case.peer, backend)
    weight = torch.randn(*case.tokens.shape, case.peer.config.vocab_size, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(seed)) * case.mask[..., None]
    with islands_lifted(case.peer):
        (run_peer(case.peer, case.tokens, case.mask).logits * weight).sum().backward()
    (ours(case.tokens, mask=case.our_mask).logits * weight).sum().backward()

    def gradients(model):   # None is how autograd says that no token came here
        return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}

    mine, theirs = hub.rename(gradients(ours), ours.config), gradients(case.peer)
    assert mine.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        bound = 1e-14 * largest if zero_in_truth(name, case) else TIGHT * float(gradient.abs().max())
        assert float((mine[name] - gradient).abs().max()) <= bound, name


# ---- decoding --------------------------------------------------------------------------------------------------------


def chunked(run, steps, sizes):
    """Calls run(start, end) over consecutive chunks and joins the results along time; the last size repeats."""
    parts, start = [], 0
    while start < steps:
        end = min(start + sizes[min(len(parts), len(sizes) - 1)], steps)
        parts.append(run(start, end))
        start = end
    return torch.cat(parts, dim=1)


def our_decoder(ours, case):
    cache = ours.new_cache(len(case.tokens))
    return lambda start, end: ours(case.tokens[:, start:end], cache=cache,
                                   mask=None if case.our_mask is None else case.mask[:, start:end]).logits


@lru_cache(maxsize=1)
def peer_decoding(seed):
    """A case, and the peer's cached logits twice: token by token, and in uneven chunks. Also the sizes of the chunks.

    trap: the peer's cache needs some help. It takes a chunk of one token for real, so all padding must come with its
    first chunk; and it keeps its last 0 columns, or its last 0 keys, as [-0:], which is all of them, so neither
    convolutions that reach back nowhere nor a window of one token work there. `test_our_cache_needs_no_help`.
    """
    changes, config = {}, peer_config(seed)
    if config.cca_time0 == config.cca_time1 == 1:
        changes["cca_time1"] = 2
    if config.sliding_window == 1:
        changes["sliding_window"] = 2
    case = make_case(seed, **changes)

    def decoder():
        past = None

        def run(start, end):
            nonlocal past
            out = run_peer(case.peer, case.tokens[:, start:end], case.mask[:, :end],
                           past_key_values=past, use_cache=True)
            past = out.cache
            return out.logits

        return run

    draw = random.Random(seed)
    steps = case.tokens.shape[1]
    plans = [[1], [draw.randint(1, 5) for _ in range(steps)]]
    if case.padding:
        plans = [[case.padding + 1, *sizes] for sizes in plans]
    with torch.no_grad(), islands_lifted(case.peer):
        return case, [(sizes, chunked(decoder(), steps, sizes)) for sizes in plans]


@each_seed
@each_backend
def test_cached_decoding(seed, backend):
    """Token by token and in uneven chunks, ours cached, the peer cached and ours at once are one and the same."""
    case, plans = peer_decoding(seed)
    ours = ours_from(case.peer, backend)
    with torch.no_grad():
        at_once = ours(case.tokens, mask=case.our_mask).logits
        for sizes, theirs in plans:
            mine = chunked(our_decoder(ours, case), case.tokens.shape[1], sizes)
            assert relative(mine, theirs, case.mask) <= TIGHT
            assert relative(mine, at_once, case.mask) <= TIGHT


@each_seed
@each_backend
def test_our_cache_needs_no_help(seed, backend):
    """One token at a time from the very first, through the padding, for every configuration."""
    case, ours, out, theirs = both(seed, backend)
    with torch.no_grad():
        mine = chunked(our_decoder(ours, case), case.tokens.shape[1], [1])
    assert relative(mine, out.logits, case.mask) <= TIGHT
    assert relative(mine, theirs.logits, case.mask) <= TIGHT


# ---- weights and configurations --------------------------------------------------------------------------------------


def storages(model):
    return {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}


@each_seed
def test_weights_go_there_and_back_bit_for_bit(seed):
    peer = make_peer(seed, (torch.float64, torch.float32, torch.bfloat16)[seed % 3])
    ours = hub.from_transformers(peer)
    back = hub.to_transformers(ours)
    want, got = peer.state_dict(), back.state_dict()
    assert want.keys() == got.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor), name
    assert not storages(peer) & storages(ours) and not storages(ours) & storages(back)
    assert back.training == ours.training == peer.training
    tied = back.lm_head.weight is back.model.embed_tokens.weight
    assert tied == peer.config.tie_word_embeddings


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_a_model_sent_back_answers_as_before(dtype):
    """Buffers outside the state dict, such as the rotary frequencies, must come back unrounded too."""
    for seed in (12, 23):
        case = make_case(seed, dtype)
        back = hub.to_transformers(hub.from_transformers(case.peer))
        back.set_experts_implementation("eager")
        with torch.no_grad():
            before, after = (run_peer(peer, case.tokens, case.mask).logits for peer in (case.peer, back))
        assert torch.equal(after[case.mask], before[case.mask])


def test_a_copy_does_not_follow_its_source():
    case = make_case(6)
    ours = ours_from(case.peer, "fast")
    with torch.no_grad():
        before = ours(case.tokens, mask=case.our_mask).logits
        for tensor in case.peer.state_dict().values():
            tensor.zero_()
        assert torch.equal(ours(case.tokens, mask=case.our_mask).logits, before)
    for training in (True, False):        # the mode goes along
        assert hub.from_transformers(case.peer.train(training)).training == training
        assert hub.to_transformers(ours.train(training)).training == training
    case.peer.eval()


def test_a_saved_checkpoint_in_bfloat16(tmp_path):
    """What users do: save, load in bfloat16. The loader keeps balancing biases in float32, and so must we."""
    make_peer(12, torch.float32).save_pretrained(tmp_path)
    loaded = ZayaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    ours = hub.from_transformers(loaded)
    gate, router = loaded.model.layers[1].mlp.gate, ours.layers[1].router
    assert gate.balancing_biases.dtype == router.balancing_bias.dtype == torch.float32
    assert torch.equal(gate.balancing_biases, router.balancing_bias)
    assert ours.embed.weight.dtype == torch.bfloat16


@each_seed
def test_configurations_go_there_and_back(seed):
    theirs = peer_config(seed)
    ours = hub.config_from_transformers(theirs)
    assert hub.config_to_transformers(ours).to_dict() == theirs.to_dict()
    assert hub.config_from_transformers(hub.config_to_transformers(ours)) == ours
    assert mz.ZayaConfig(**ours.to_dict()) == ours


def test_the_8b_preset_is_the_released_configuration():
    preset = mz.ZayaConfig.preset("zaya1-8b")
    assert hub.config_from_transformers(PeerConfig()) == preset
    assert hub.config_to_transformers(preset).to_dict() == PeerConfig().to_dict()


def test_the_8b_model_has_8_840_488_784_parameters():
    with torch.device("meta"):
        ours = mz.Zaya(mz.ZayaConfig.preset("zaya1-8b"))
        theirs = ZayaForCausalLM(PeerConfig())
    assert sum(p.numel() for p in theirs.parameters()) == 8_840_488_784
    assert sum(p.numel() for p in ours.parameters()) == 8_840_488_784


@pytest.mark.parametrize("change", (dict(num_convs=1), dict(qk_mean=False), dict(value_shift=False),
                                    dict(router="linear"), dict(eda=False), dict(residual_scaling=False)))
def test_an_ablation_cannot_be_sent_back(change):
    ours = mz.Zaya(mz.ZayaConfig.preset("nano", **change))
    with pytest.raises(ValueError, match=f"{next(iter(change))}="):
        hub.to_transformers(ours)


def test_what_no_released_model_uses_is_refused():
    with pytest.raises(ValueError, match="hidden_act must be 'silu', got 'gelu'"):
        hub.from_transformers(make_peer(0, hidden_act="gelu"))
    rope = {"rope_theta": 1e4, "partial_rotary_factor": 0.5}
    scaled = {"hybrid": rope | {"rope_type": "linear", "factor": 2.0}}
    with pytest.raises(ValueError, match="rope_type must be 'default'.*linear"):
        hub.from_transformers(make_peer(0, rope_parameters=scaled, layer_types=["hybrid"]))
    with pytest.raises(ValueError, match="'model.rotary' is not a tensor of a ZAYA model"):
        hub.unrename({"model.rotary": torch.zeros(1)})


# ---- does the comparison see? ----------------------------------------------------------------------------------------


@torch.no_grad()
def plant(ours, what, monkeypatch):
    """Changes our model a little in one place."""
    layer = ours.layers[-1]
    if what == "temperature":
        layer.attention.temperature[-1] *= 1 + 1e-6
    elif what == "balancing bias":   # a small change may turn no choice; swapping the two ends turns some
        layer.router.balancing_bias.copy_(layer.router.balancing_bias.flip(0))
    elif what == "norm epsilon":
        layer.moe_norm.eps *= 1.01
    elif what == "router epsilon":
        layer.router.mlp.norm.eps *= 1.01
    elif what == "head epsilon":     # a sum instead of a clamp
        def summed(q, k, temperature):
            eps, size = torch.finfo(q.dtype).eps, q.shape[-1] ** 0.5
            unit = [x * (size / (x.norm(dim=-1, keepdim=True) + eps)) for x in (q, k)]
            return unit[0], unit[1] * temperature[:, None]
        monkeypatch.setattr(cca, "qk_norm", summed)
    else:
        parameter = ours.get_parameter(what.replace("LAST", str(len(ours.layers) - 1)))
        parameter.view(-1)[-1] += 1e-4


PLANTS = ("temperature", "balancing bias", "norm epsilon", "router epsilon", "head epsilon", "embed_bias",
          "layers.LAST.attention.conv_depthwise.bias", "layers.LAST.attention.conv_grouped.weight",
          "layers.LAST.router.eda_scale", "layers.LAST.moe_merge.residual_bias")


@each_backend
@pytest.mark.parametrize("what", PLANTS)
def test_a_planted_difference_is_seen(what, backend, monkeypatch):
    seeds = {"head epsilon": VANISHING, "router epsilon": (12, 22, 34), "norm epsilon": (12, 22, 34)}
    caught = []
    for seed in seeds.get(what, (12, 22, 23)):
        case, ours, _, theirs = both(seed, backend)
        plant(ours, what, monkeypatch)
        with torch.no_grad():
            out = ours(case.tokens, mask=case.our_mask)
        caught.append(relative(out.logits, theirs.logits, case.mask) > 10 * TIGHT)
    assert any(caught)


def test_fresh_weights_hide_every_key_bug():
    """trap: the peer starts with zero key temperature. Then wrong keys give the right answer, to the last digit."""
    torch.manual_seed(0)
    peer = ZayaForCausalLM(peer_config(22)).double().eval()
    tokens = torch.randint(0, peer.config.vocab_size, (2, 9))
    ours = mz.hub.from_transformers(peer)

    @torch.no_grad()
    def answer_with_wrong_keys(temperature):
        for layer in ours.layers:
            layer.attention.temperature.fill_(temperature)
        right = ours(tokens).logits
        rows = slice(ours.config.query_size, ours.config.query_size + ours.config.kv_size)
        layer.attention.down_proj.weight[rows] *= -1
        layer.attention.conv_grouped.bias.add_(1.0)
        wrong = ours(tokens).logits
        layer.attention.conv_grouped.bias.sub_(1.0)
        layer.attention.down_proj.weight[rows] *= -1
        return relative(wrong, right)

    assert all(not layer.self_attn.qk_norm.temp.any() for layer in peer.model.layers)
    assert answer_with_wrong_keys(0.0) == 0.0
    assert answer_with_wrong_keys(1.0) > 1e-6
