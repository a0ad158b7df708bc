"""A part of `bench`: the losses of 50 steps from the same weights, ours and the peer's, on the same tokens."""

import copy

import torch
import torch.nn.functional as F

from ...arch.model import Zaya
from ...native.fused.model import summed_loss

STEPS, BATCH, LENGTH, KINDS = 50, 2, 128, 4   # four batches in turn, so that there is something to learn


def curves(model: Zaya, peer: torch.nn.Module, seed: int = 0, steps: int = STEPS) -> dict:
    """Both learn, as copies, with AdamW. -> {"steps", "ours", "peer": losses in nats, "gap": the largest difference of
    two losses, relative to the peer's}.

    trap: with Adam's usual eps of 1e-8 a gradient that is nothing but rounding becomes a whole step, and two right
    programs part.
    """
    ours, theirs = copy.deepcopy(model), copy.deepcopy(peer).train()
    device, draw = model.embed.weight.device, torch.Generator().manual_seed(seed)
    batches = torch.randint(3, model.config.vocab_size, (KINDS, BATCH, LENGTH + 1), generator=draw).to(device)
    optimizers = [torch.optim.AdamW(net.parameters(), lr=1e-3, eps=1e-4) for net in (ours, theirs)]
    found = [], []
    for step in range(steps):
        tokens = batches[step % KINDS]
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        losses = (summed_loss(ours, inputs, targets)[0] / targets.numel(),
                  F.cross_entropy(theirs(inputs).logits.flatten(0, 1).float(), targets.flatten()))
        for loss, optimizer, so_far in zip(losses, optimizers, found):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            so_far.append(loss.item())
    gap = max(abs(a - b) / b for a, b in zip(*found))
    return {"steps": steps, "ours": found[0], "peer": found[1], "gap": gap}
