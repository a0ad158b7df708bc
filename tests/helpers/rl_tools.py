"""What the tests of reinforcement learning share: a small model, prompts, and rollouts by the engine."""

import minizaya as mz
from minizaya.infer.engine import Engine
from minizaya.rl.rollout import Rollout

CONFIG = mz.ZayaConfig.preset("nano", vocab_size=30, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
                              head_dim=8, num_experts=3, moe_intermediate_size=8, router_hidden_size=6, pad_token_id=0,
                              bos_token_id=1, eos_token_id=2)


def answered(model, prompts, room=9, **settings) -> list[Rollout]:
    """Rollouts by the engine, all in one batch."""
    engine = Engine(model, slots=len(prompts), size=64)
    numbers = [engine.submit(prompt, room, record=True, seed=i, **settings) for i, prompt in enumerate(prompts)]
    while engine.busy:
        engine.step()
    found = []
    for number, prompt in zip(numbers, prompts):
        done = engine.take(number)
        found.append(Rollout(list(prompt), done.tokens, done.logprobs, [0] * len(done.tokens), done.routes,
                             {"task": "none", "room": room}, 0.0, done.kept))
    return found


PROMPTS = [[5, 7, 9], [4], [11, 3, 8, 2, 6, 6, 1], [9, 9]]
