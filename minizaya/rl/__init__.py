"""How the model improves: reinforcement learning on problems whose answers a program can check.

In reading order: `advantage` (how much better an answer was than the others to its problem), `loss` (how far a token
may move), `reward`, `canary` (loops compress too well), `curriculum` (which problem next), `replay` (the experts that a
token visited, visited again) and `mismatch` (how far generator and trainer disagree), `rollout`, `generator`, `learner`
and `buffer` (an answer, who makes it, who learns from it, the shelf in between), `processes` and `pipeline` (both at
work), `cascade` (the four stages).
"""

from .advantage import dr_grpo_advantage, grpo_advantage, maxrl_advantage, mixed
from .canary import canary, rare_share, repeats
from .loss import dppo_mask, policy_loss, token_logprobs
from .reward import length_bonus
