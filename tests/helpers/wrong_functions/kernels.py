"""Wrong functions for the laws of kernels: see the head of this folder."""


from minizaya.hip import tile, trace


def no_weight():
    """A right kernel that forgets the weight."""
    return """__global__ void rms_norm(const float* x, const float* weight, float* y, int width, float eps) {
    float total = 0;
    for (int i = 0; i < width; i++) total += x[blockIdx.x * width + i] * x[blockIdx.x * width + i];
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        y[blockIdx.x * width + i] = x[blockIdx.x * width + i] / sqrtf(total / width + eps);
}"""


WRONG = {
    "kernels.pieces": [
        lambda addresses, size: trace.pieces(addresses[:32], size),
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
    ],
}
