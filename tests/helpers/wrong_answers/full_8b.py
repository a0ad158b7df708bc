"""Wrong answers to the exercises of lesson 16: exercise id -> what is wrong -> source.
Each changes one line of a right one."""

KV = '''
def my_kv_bytes(config, tokens):
    per_layer = 2 * config.num_key_value_heads * config.head_dim
    return 2 * per_layer * config.num_hidden_layers * tokens
'''
BYTES = '''
def my_token_bytes(config):
    parts = dict(account.parameters(config))
    parts["experts"] //= config.num_experts
    if not config.tie_word_embeddings:
        parts["embedding"] = 0
    return 2 * sum(parts.values())
'''
VISITED = '''
def my_visited(experts, tokens):
    nobody = (1 - 1 / experts) ** tokens
    return experts * (1 - nobody)
'''
INT8 = '''
def my_int8(weight):
    scale = weight.abs().amax(-1).clamp_min(1e-30) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale
'''

WRONG = {
    "kv": {
        "keys only": KV.replace("2 * config.num_key_value_heads", "config.num_key_value_heads"),
        "every query head": KV.replace("config.num_key_value_heads", "config.num_attention_heads"),
        "one layer": KV.replace(" * config.num_hidden_layers", ""),
        "numbers, not bytes": KV.replace("return 2 * per_layer", "return per_layer"),
        "four bytes": KV.replace("return 2 * per_layer", "return 4 * per_layer"),
        "the whole width": KV.replace("config.num_key_value_heads * config.head_dim", "config.hidden_size"),
    },
    "bytes": {
        "all experts": BYTES.replace('    parts["experts"] //= config.num_experts\n', ""),
        "no experts": BYTES.replace('parts["experts"] //= config.num_experts', 'parts["experts"] = 0'),
        "the skip route is an expert": BYTES.replace("//= config.num_experts", "//= config.num_experts + 1"),
        "a table of its own counts": BYTES.replace("if not config.tie_word_embeddings", "if False"),
        "a tied table does not count": BYTES.replace("if not config.tie_word_embeddings", "if True"),
        "numbers, not bytes": BYTES.replace("return 2 * sum", "return sum"),
    },
    "visited": {
        "as if nobody chose twice": '''
def my_visited(experts, tokens):
    return float(min(experts, tokens))
''',
        "as many as tokens": VISITED.replace("experts * (1 - nobody)", "min(experts, tokens)"),
        "the skip route counts": VISITED.replace("1 / experts", "1 / (experts + 1)"),
        "at least one of them": VISITED.replace("return experts * (1 - nobody)", "return 1 - nobody"),
        "those not visited": VISITED.replace("(1 - nobody)", "nobody"),
        "one token more": VISITED.replace("** tokens", "** (tokens + 1)"),
    },
    "int8": {
        "one scale for all": INT8.replace("weight.abs().amax(-1)", "weight.abs().amax().expand(len(weight))"),
        "cut, not rounded": INT8.replace(".round()", ""),
        "the largest, not its size": INT8.replace("weight.abs().amax(-1)", "weight.amax(-1)"),
        "a step too long": INT8.replace("/ 127", "/ 63"),
        "a row of zeros divides by zero": INT8.replace(".clamp_min(1e-30)", ""),
        "a faint row is taken for zeros": INT8.replace("1e-30", "1e-8"),
        "over the edge": INT8.replace("/ 127", "/ 128.5"),
    },
}
