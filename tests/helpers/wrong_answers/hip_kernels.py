"""Wrong answers to the exercises of lesson 14: exercise id -> what is wrong -> source.
Each changes one line of a right one."""

PIECES = '''
def my_pieces(addresses, size):
    return len((addresses // 64).unique())
'''
FRAGMENTS = '''
def my_fragments(a, b):
    lane = torch.arange(64)[:, None]
    inner = 4 * (lane // 32) + torch.arange(4)
    return a[lane % 32, inner], b[inner, lane % 32]
'''
TILE = '''
def my_tile(acc):
    lane, r = torch.arange(64)[:, None], torch.arange(16)
    d = torch.empty(32, 32, dtype=acc.dtype)
    d[8 * (r // 4) + 4 * (lane // 32) + r % 4, lane % 32] = acc
    return d
'''
KERNEL = '''
def my_kernel():
    return """
extern "C" __global__ void rms_norm(const float* x, const float* weight, float* y, int width, float eps) {
  __shared__ float sums[256];
  int t = threadIdx.x;
  size_t start = (size_t)blockIdx.x * width;
  float squares = 0.f;
  for (int c = t; c < width; c += 256) squares += x[start + c] * x[start + c];
  sums[t] = squares;
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (t < half) sums[t] += sums[t + half];
    __syncthreads();
  }
  float inverse = rsqrtf(sums[0] / width + eps);
  for (int c = t; c < width; c += 256) y[start + c] = weight[c] * (x[start + c] * inverse);
}
"""
'''

TREE = '''  sums[t] = squares;
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (t < half) sums[t] += sums[t + half];
    __syncthreads();
  }
'''
# the same by shuffles, right for waves of 64 and 32
ACROSS = '''  for (int mask = WAVE / 2; mask > 0; mask /= 2) squares += __shfl_xor(squares, mask);
  if (t % WAVE == 0) sums[t / WAVE] = squares;
  __syncthreads();
  float all = 0.f;
  for (int i = 0; i < 256 / WAVE; i++) all += sums[i];
  __syncthreads();
  if (t == 0) sums[0] = all;
  __syncthreads();
'''

WRONG = {
    "pieces": {
        "pieces of 32 bytes": '''
def my_pieces(addresses, size):
    return len((addresses // 32).unique())
''',
        "bytes asked, in pieces": '''
def my_pieces(addresses, size):
    return -(-64 * size // 64)
''',
        "bytes asked over 64": PIECES.replace("len((addresses // 64).unique())", "64 * size // 64"),
        "pieces of 128": PIECES.replace("// 64", "// 128"),
        "the byte after": PIECES.replace("addresses //", "(addresses + size) //"),
        "neighbours only": PIECES.replace("unique()", "unique_consecutive()"),
        "one a lane": PIECES.replace("(addresses // 64).unique()", "addresses"),
        "from first to last": PIECES.replace("len((addresses // 64).unique())",
                                             "int(addresses.max() // 64 - addresses.min() // 64) + 1"),
    },
    "fragments": {
        "every second lane": '''
def my_fragments(a, b):
    lane = torch.arange(64)[:, None]
    inner = 4 * (lane % 2) + torch.arange(4)
    return a[lane // 2, inner], b[inner, lane // 2]
''',
        "lanes in order of the row": '''
def my_fragments(a, b):
    return a.reshape(64, 4), b.T.reshape(64, 4)
''',
        "halves exchanged": '''
def my_fragments(a, b):
    lane = torch.arange(64)[:, None]
    inner = 4 * (1 - lane // 32) + torch.arange(4)
    return a[lane % 32, inner], b[inner, lane % 32]
''',
        "every second channel": FRAGMENTS.replace("4 * (lane // 32) + torch.arange(4)",
                                                  "lane // 32 + 2 * torch.arange(4)"),
        "halves swapped": FRAGMENTS.replace("4 * (lane // 32)", "4 * (1 - lane // 32)"),
        "rows in pairs of lanes": FRAGMENTS.replace("a[lane % 32, inner]", "a[lane // 2, inner]"),
        "B by rows": FRAGMENTS.replace("b[inner, lane % 32]", "b.reshape(32, 8)[lane % 32, inner]"),
    },
    "tile": {
        "lane and register exchanged": '''
def my_tile(acc):
    return acc.reshape(32, 32)
''',
        "blocks of 16 rows": '''
def my_tile(acc):
    return torch.cat([acc[:32].T, acc[32:].T])
''',
        "transposed": '''
def my_tile(acc):
    lane, r = torch.arange(64)[:, None], torch.arange(16)
    d = torch.empty(32, 32, dtype=acc.dtype)
    d[lane % 32, 8 * (r // 4) + 4 * (lane // 32) + r % 4] = acc
    return d
''',
        "registers are rows": '''
def my_tile(acc):
    lane, r = torch.arange(64)[:, None], torch.arange(16)
    d = torch.empty(32, 32, dtype=acc.dtype)
    d[16 * (lane // 32) + r, lane % 32] = acc
    return d
''',
        "turned over": TILE.replace("    return d\n", "    return d.T\n"),
        "16 rows in a run": TILE.replace("8 * (r // 4) + 4 * (lane // 32) + r % 4", "16 * (lane // 32) + r"),
        "halves swapped": TILE.replace("4 * (lane // 32)", "4 * (1 - lane // 32)"),
        "as it lies": TILE.replace("    return d\n", "    return acc.reshape(32, 32)\n"),
    },
    "kernel": {
        "no barrier in the tree": KERNEL.replace("sums[t + half];\n    __syncthreads();", "sums[t + half];"),
        "no barrier before the tree": KERNEL.replace("sums[t] = squares;\n  __syncthreads();", "sums[t] = squares;"),
        "sum of squares, not mean": KERNEL.replace("sums[0] / width", "sums[0]"),
        "eps outside": KERNEL.replace("rsqrtf(sums[0] / width + eps)", "1.f / (sqrtf(sums[0] / width) + eps)"),
        "reads past the row": KERNEL.replace("for (int c = t; c < width; c += 256) squares",
                                             "for (int c = t; c <= width; c += 256) squares"),
        "rows of 256 only": KERNEL.replace("for (int c = t; c < width; c += 256) y", "if (int c = t; c < width) y"),
        "rows of 2048 at most": KERNEL.replace("for (int c = t; c < width; c += 256) y",
                                               "for (int c = t; c < width && c < 2048; c += 256) y"),
        "sums 4096 channels at most": KERNEL.replace("for (int c = t; c < width; c += 256) squares",
                                                     "for (int c = t; c < width && c < 4096; c += 256) squares"),
        "a barrier for half of the threads": KERNEL.replace(
            "    if (t < half) sums[t] += sums[t + half];\n    __syncthreads();",
            "    if (t < half) { sums[t] += sums[t + half]; __syncthreads(); }"),
        "not C++": KERNEL.replace("float squares = 0.f;", "squares = 0.f"),
        "shuffles of 64": KERNEL.replace(TREE, ACROSS.replace("WAVE", "64")),
        "one wave's sum": KERNEL.replace(TREE, ACROSS.replace("i < 256 / WAVE", "i < 1")),
        "the first row only": KERNEL.replace("(size_t)blockIdx.x * width", "0"),
        "over 256": KERNEL.replace("sums[0] / width", "sums[0] / 256"),
        "no weight": KERNEL.replace("weight[c] * ", ""),
    },
}
