"""Wrong functions for the laws of kernels: see the head of this folder."""


from minizaya.hip import accesses, ladder, tile


def no_weight():
    """A kernel with the right traffic that forgets the weight."""
    return ladder.rms_norm_text().replace("weight[c] * (x[start + c] * inverse)",
                                          "weight[c] * 0.f + x[start + c] * inverse")


def every_thread_reads_all():
    """A right kernel in which each thread adds up the whole row."""
    text = ladder.rms_norm_text().replace("for (int c = t; c < width; c += 256) squares",
                                          "for (int c = 0; c < width; c++) squares")
    return text.replace("if (t < half) sums[t] += sums[t + half];", "")


WRONG = {
    "kernels.pieces": [
        lambda addresses, size: accesses.pieces(addresses[:32], size),
        lambda addresses, size: len(((addresses + size) // accesses.PIECE).unique()),     # the byte after the last
    ],
    "kernels.fragments": [
        (lambda a, b: tile.rows_of(a), "you gave a Tensor, the law wants two tensors"),
        lambda a, b: (tile.rows_of(a).flip(-1), tile.columns_of(b)),
    ],
    "kernels.tile": [
        lambda acc: tile.collected(acc).T,
    ],
    "kernels.rms_norm": [
        (lambda: "block_sum", "it calls block_sum"),
        (lambda: 3, "the law wants the kernel's text"),
        (lambda: "no kernel", "error"),
        no_weight,
        (every_thread_reads_all, "at most twice as many"),
    ],
}
