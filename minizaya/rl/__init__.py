"""How the model improves: reinforcement learning on problems whose answers a program can check."""

from .advantage import dr_grpo_advantage, grpo_advantage, maxrl_advantage, mixed
from .canary import canary, rare_share, repeats
from .loss import dppo_mask, policy_loss, token_logprobs
from .reward import length_bonus
