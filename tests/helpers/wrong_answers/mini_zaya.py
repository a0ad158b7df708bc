"""Wrong answers to the exercises of lesson 06."""

LAYER = '''
def one_layer(block, stream, place, below):
    x = {first}
    stream = block.attention_merge({attended})
    x = {second}
    routes, gates, probs, state = block.router({routed}, below)
    stream = block.moe_merge(block.experts(x, routes, {gates}), {merged})
    return stream, routes, probs, {state}
'''


def layer(first="block.attention_norm(stream)", attended="block.attention(x, place), stream",
          second="block.moe_norm(stream)", routed="x", gates="gates", merged="stream", state="state"):
    return LAYER.format(first=first, attended=attended, second=second, routed=routed, gates=gates, merged=merged,
                        state=state)


GREEDY = '''
def greedy(model, prompt, count):
    cache, new = model.new_cache(1), []
    tokens = torch.tensor([prompt])
    while len(new) < count:
        logits = model(tokens, cache=cache).logits
        new.append(int(logits{pick}))
        tokens = {feed}
    return {result}
'''


def decode(pick="[0, -1].argmax()", feed="torch.tensor([[new[-1]]])", result="new"):
    return GREEDY.format(pick=pick, feed=feed, result=result)


WRONG = {
    "block": {
        "no norm before attention": layer(first="stream"),
        "no norm before the experts": layer(second="stream"),
        "the experts read the old norm": layer(second="x"),
        "the norms are swapped": layer(first="block.moe_norm(stream)", second="block.attention_norm(stream)"),
        "output and stream are swapped": layer(attended="stream, block.attention(x, place)"),
        "the normed stream goes on": layer(merged="x"),
        "the router reads the stream": layer(routed="stream"),
        "gates are one": layer(gates="torch.ones_like(gates)"),
        "gates without gradient": layer(gates="gates.detach()"),
        "the state below is handed on": layer(state="below"),
        "both halves read the same stream": '''
def one_layer(block, stream, place, below):
    x = block.moe_norm(stream)
    routes, gates, probs, state = block.router(x, below)
    attended = block.attention_merge(block.attention(block.attention_norm(stream), place), stream)
    return block.moe_merge(block.experts(x, routes, gates), attended), routes, probs, state
''',
        "the library's own": '''
def one_layer(block, stream, place, below):
    return block(stream, place, below)
''',
    },
    "columns": {
        "only the new ones": "def keep_columns(past, z):\n    return z[:, -past.shape[1]:]\n",
        "minus zero keeps all": "def keep_columns(past, z):\n    return torch.cat([past, z], 1)[:, -past.shape[1]:]\n",
        "always two": "def keep_columns(past, z):\n    return torch.cat([past, z], 1)[:, -2:]\n",
        "one late": "def keep_columns(past, z):\n"
                    "    both = torch.cat([past, z], 1)\n"
                    "    return both[:, z.shape[1] - 1: z.shape[1] - 1 + past.shape[1]]\n",
        "the first ones": "def keep_columns(past, z):\n    return torch.cat([past, z], 1)[:, :past.shape[1]]\n",
        "in the wrong order": "def keep_columns(past, z):\n"
                              "    return torch.cat([z, past], 1)[:, z.shape[1]:]\n",
    },
    "greedy": {
        "reads everything again": '''
def greedy(model, prompt, count):
    text = list(prompt)
    for _ in range(count):
        text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(prompt):]
''',
        "feeds the whole text into the cache": decode(feed="torch.tensor([prompt + new])"),
        "forgets the cache": '''
def greedy(model, prompt, count):
    tokens, new = torch.tensor([prompt]), []
    for _ in range(count):
        new.append(int(model(tokens).logits[0, -1].argmax()))
        tokens = torch.tensor([new[-1:]])
    return new
''',
        "writes into the caller's prompt": '''
def greedy(model, prompt, count):
    cache, given = model.new_cache(1), len(prompt)
    tokens = torch.tensor([prompt])
    for _ in range(count):
        prompt.append(int(model(tokens, cache=cache).logits[0, -1].argmax()))
        tokens = torch.tensor([prompt[-1:]])
    return prompt[given:]
''',
        "reads the first position": decode(pick="[0, 0].argmax()"),
        "least likely": decode(pick="[0, -1].argmin()"),
        "gives the prompt back too": decode(result="prompt + new"),
        "one too few": decode(result="new[1:]"),
        "the prompt's last token again": decode(feed="torch.tensor([[(prompt + new)[-2]]])"),
    },
}
