"""A public packing function, the `DataCollatorWithFlattening` of `transformers`, and its sampling filters.

    python examples/transformers_packing.py

The collator lays documents one after the other into one row. Its labels are not shifted (the model does that), and it
pads nothing; a few lines around it give what the laws of packing ask for.
"""

import torch
from transformers import DataCollatorWithFlattening
from transformers.generation import MinPLogitsWarper, TopPLogitsWarper

from minizaya import laws


def lay_out(documents, bins, capacity, loss_masks):
    """Rows by the collator, a call for each: tokens, targets, doc_ids, mask, each (rows, capacity)."""
    flatten, rows = DataCollatorWithFlattening(return_seq_idx=True), []
    for members in bins:
        features = [{"input_ids": documents[i], "labels": documents[i] if loss_masks is None else
                     documents[i].masked_fill(~loss_masks[i], -100)} for i in members]
        row = flatten(features, return_tensors="pt")
        targets = row["labels"][0].roll(-1)          # the label of the next token, and the first is never one
        owners = torch.tensor(members)[row["seq_idx"][0].long()]
        real = torch.ones_like(owners, dtype=torch.bool)
        rows.append([filled(row["input_ids"][0], capacity, 0), filled(targets, capacity, -100),
                     filled(owners, capacity, -1), filled(real, capacity, False)])
    return tuple(torch.stack(column) for column in zip(*rows))


def filled(x, capacity, empty):
    return torch.nn.functional.pad(x, (0, capacity - len(x)), value=empty)


def kept(warper):
    """A filter of logits as a filter of probabilities: True where it keeps a token."""
    def mask(probs, limit):
        return ~warper(limit, filter_value=float("nan"))(None, probs.log()).isnan()
    return mask


CASES = {"pack.rows": lay_out, "pack.targets": lay_out, "decoding.top_p": kept(TopPLogitsWarper),
         "decoding.min_p": kept(MinPLogitsWarper)}


def findings() -> dict[str, laws.Verdict]:
    return {name: laws.judge(name, fn) for name, fn in CASES.items()}


if __name__ == "__main__":
    print(*findings().values(), sep="\n")
