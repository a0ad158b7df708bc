"""The trainer: one update of the weights from one batch of answers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..config import check_settings
from ..native.fused.model import logits_at
from ..train.optim import muon
from .advantage import grpo_advantage, maxrl_advantage, mixed
from .loss import policy_loss, token_logprobs
from .mismatch import agreement
from .replay import UNRECORDED
from .reward import length_bonus
from .rollout import Rollout, check_rollout


@dataclass(frozen=True)
class LearnerConfig:
    """How an update is made.

    lr: of Muon without momentum; AdamW moves the rest at `adam_share` of it. delta, directional: of DPPO's mask.
    length: the constant divisor of an answer's token sum. advantage: "maxrl" or "grpo". brevity: scale c of the length
    bonus, 0 is off; it belongs to MaxRL, and is refused with "grpo". replay: pin the recorded routes. clip: largest
    norm of all gradients together. rows: tokens of a micro-batch, at most. Raises ValueError for anything else.
    """

    lr: float = 1e-3
    adam_share: float = 0.1
    delta: float = 0.1
    directional: bool = True
    length: float = 128.0
    advantage: str = "maxrl"
    brevity: float = 0.0
    replay: bool = True
    clip: float = 1.0
    rows: int = 8192

    def __post_init__(self):
        if self.advantage not in ("maxrl", "grpo"):
            raise ValueError(f"advantage must be 'maxrl' or 'grpo', got {self.advantage!r}")
        if self.brevity and self.advantage == "grpo":
            raise ValueError(f"brevity is MaxRL's and would have no effect with 'grpo', got {self.brevity!r}")
        check_settings(vars(self), lr="(0, inf)", length="(0, inf)", clip="(0, inf)", adam_share="[0, inf)",
                       brevity="[0, inf)", delta="[0, 1]", rows=1, directional=bool, replay=bool)


class Learner:
    """A model and its optimizer. `update(rollouts, group)` is one step, computed where the model is; biases stay.
    compiled: as in `train.loop.Trainer`."""

    def __init__(self, model: Zaya, config: LearnerConfig, compiled: bool | None = None):
        self.model, self.config, self.compiled = model, config, compiled
        self.optimizer = muon(model, config.lr, weight_decay=0.0, momentum=0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr if group["muon"] else config.lr * config.adam_share
        self.best_rate: dict[str, float] = {}   # highest pass rate of each task so far, for the length bonus

    @torch.enable_grad()
    def update(self, rollouts: list[Rollout], group: int) -> dict:
        """One step on a batch of groups of `group` answers. Returns the figures of the log.

        Groups whose rewards are all equal are left out (dynamic sampling). A batch without any other changes nothing.
        Raises ValueError, before any weight has moved, for a broken batch or a gradient that is not finite.
        """
        cfg, config = self.config, self.model.config
        if group < 1 or not rollouts or len(rollouts) % group:
            raise ValueError(f"rollouts must be whole groups of {group}, at least one, got {len(rollouts)}")
        for rollout in rollouts:
            check_rollout(rollout, config.num_hidden_layers, config.num_experts, config.vocab_size)
        rewards = torch.tensor([r.reward for r in rollouts], dtype=torch.float64, device="cpu").view(-1, group)
        chosen = mixed(rewards)
        figures = {"reward": float(rewards.mean()), "groups": len(rewards), "mixed": int(chosen.sum()),
                   "length": sum(len(r.tokens) for r in rollouts) / len(rollouts)}
        if not chosen.any():
            return figures
        advantages = self.advantages(rewards, rollouts)[chosen].flatten().float().to(self.model.embed.weight.device)
        used = [r for r, flag in zip(rollouts, chosen.repeat_interleave(group).tolist()) if flag]
        self.model.train()
        total, seen = 0.0, []
        for batch in micro_batches(used, cfg.rows):
            logp, logp_rollout, valid, routes, recorded = self.forward([used[i] for i in batch])
            loss = policy_loss(logp, logp_rollout, advantages[batch], valid, cfg.length, cfg.delta, cfg.directional)
            loss = loss * len(batch) / len(used)  # micro-batches together weigh as one batch
            loss.backward()
            total += loss.item()
            real = (recorded >= 0).all(-1)
            seen.append((logp.detach()[valid], logp_rollout[valid], routes[real], recorded[real]))
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), cfg.clip))
        # trap: a NaN log-probability leaves the gradient finite (clamp passes zero on), so look at the loss as well
        if not (math.isfinite(norm) and math.isfinite(total)):
            self.optimizer.zero_grad(set_to_none=True)
            raise ValueError(f"loss or gradient is not finite: {total}, norm {norm}; lr may be too large, got {cfg.lr}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return figures | {"loss": total, "grad_norm": norm} | agreement(*map(torch.cat, zip(*seen)))

    def advantages(self, rewards: Tensor, rollouts: list[Rollout]) -> Tensor:
        """(groups, G), by the formula of the stage."""
        cfg, group = self.config, rewards.shape[1]
        if not cfg.brevity:
            return (grpo_advantage if cfg.advantage == "grpo" else maxrl_advantage)(rewards)
        bonus = torch.zeros_like(rewards)
        for i, row in enumerate(rewards):
            answers = rollouts[i * group: (i + 1) * group]
            task, lengths = answers[0].problem["task"], torch.tensor([[len(r.tokens) for r in answers]], device="cpu")
            longest, best = max(r.problem["room"] for r in answers), self.best_rate.get(task, 0.0)
            bonus[i] = length_bonus(row[None], lengths, longest, best, scale=cfg.brevity)[0]
            self.best_rate[task] = max(best, float(row.mean()))
        return maxrl_advantage(rewards, bonus)

    def forward(self, rollouts: list[Rollout]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Log-probabilities of the sampled tokens under the present weights, all padded on the right to one length.

        Returns logp, logp_rollout (n, t), valid bool (n, t), routes and recorded (n, t + 1, layers): position i of a
        row predicts token i + 1.
        """
        texts = [r.prompt + r.tokens for r in rollouts]
        n, width, layers = len(texts), max(map(len, texts)), self.model.config.num_hidden_layers
        tokens = torch.tensor([text + text[-1:] * (width - len(text)) for text in texts], device="cpu")
        recorded = torch.full((n, width, layers), UNRECORDED, device="cpu")
        valid = torch.zeros(n, width - 1, dtype=torch.bool, device="cpu")
        rollout_logp = torch.zeros_like(valid, dtype=torch.float32)
        for row, r in enumerate(rollouts):
            first, last = len(r.prompt) - 1, len(texts[row]) - 1
            recorded[row, : last + 1] = r.routes.long()
            valid[row, first:last] = True
            rollout_logp[row, first:last] = torch.tensor(r.logprobs, dtype=torch.float32, device="cpu")
        device = self.model.embed.weight.device
        tokens, rollout_logp, valid, recorded = (x.to(device) for x in (tokens, rollout_logp, valid, recorded))
        kept = None   # an answer that was drawn without a filter kept everything, whatever its neighbours did
        if any(r.kept is not None for r in rollouts):
            whole = torch.ones(width, self.model.config.vocab_size, dtype=torch.bool, device="cpu")
            kept = torch.cat([whole[: len(r.tokens)] if r.kept is None else r.kept for r in rollouts]).to(device)
        places, replayed = torch.nn.functional.pad(valid, (0, 1)), recorded if self.config.replay else None
        logits, routes = logits_at(self.model, tokens, places, replayed, self.compiled)
        logp = token_logprobs(logits, tokens[:, 1:][valid], kept=kept)
        return logp.new_zeros(valid.shape).masked_scatter(valid, logp), rollout_logp, valid, routes, recorded


def micro_batches(rollouts: list[Rollout], most: int, price: int = 300) -> list[list[int]]:
    """Indices of rows of like length, at most `most` padded tokens together (one row may be longer).

    Of all ways to cut the rows, sorted by length, the one with the fewest padded tokens. price: what a batch costs by
    itself, its many small operations, in tokens.
    """
    lengths = [len(r.prompt) + len(r.tokens) for r in rollouts]
    order = sorted(range(len(rollouts)), key=lengths.__getitem__)
    ways: list[tuple[int, int]] = [(0, 0)]   # of the first n rows: what they cost, and where their last batch begins
    for end, last in enumerate(order, start=1):
        starts = [start for start in range(end) if start == end - 1 or lengths[last] * (end - start) <= most]
        ways.append(min((ways[start][0] + lengths[last] * (end - start) + price, start) for start in starts))
    batches, end = [], len(order)
    while end:
        batches.append(order[ways[end][1]: end])
        end = ways[end][1]
    return batches[::-1]
