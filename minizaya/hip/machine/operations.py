"""What gfx942's instructions compute, as far as our kernels use them: tables from name to function.

Vector operands are arrays of 64 numbers. A signature has a letter an operand and one for the result: u, i, f are 32
bits (unsigned, signed, float), w 32 bits read as 64, W a pair of registers. What only moves bits of data about (`perm`)
and what floats alone depend on (`div_scale`) is done roughly: no branch of ours hangs on it.
"""

from collections.abc import Callable

import numpy as np

LANES = 64
U, I, F, W = np.uint32, np.int32, np.float32, np.uint64

COMPARE = {"lt": np.less, "gt": np.greater, "le": np.less_equal, "ge": np.greater_equal, "eq": np.equal,
           "ne": np.not_equal, "lg": np.not_equal, "nlt": lambda a, b: ~(a < b), "ngt": lambda a, b: ~(a > b),
           "nle": lambda a, b: ~(a <= b), "nge": lambda a, b: ~(a >= b), "neq": np.not_equal,
           "o": lambda a, b: (a == a) & (b == b), "u": lambda a, b: (a != a) | (b != b),
           "class": lambda a, b: np.zeros(LANES, bool)}
# op -> (what the operands are, function); the last type is that of the result
VECTOR: dict[str, tuple[str, Callable]] = {
    "mov_b32": ("uu", lambda a: a), "accvgpr_write_b32": ("uu", lambda a: a), "accvgpr_read_b32": ("uu", lambda a: a),
    "accvgpr_mov_b32": ("uu", lambda a: a),
    "add_u32": ("uuu", lambda a, b: a + b), "sub_u32": ("uuu", lambda a, b: a - b),
    "subrev_u32": ("uuu", lambda a, b: b - a), "add3_u32": ("uuuu", lambda a, b, c: a + b + c),
    "and_b32": ("uuu", lambda a, b: a & b), "or_b32": ("uuu", lambda a, b: a | b), "not_b32": ("uu", lambda a: ~a),
    "xor_b32": ("uuu", lambda a, b: a ^ b), "or3_b32": ("uuuu", lambda a, b, c: a | b | c),
    "and_or_b32": ("uuuu", lambda a, b, c: (a & b) | c), "xad_u32": ("uuuu", lambda a, b, c: (a ^ b) + c),
    "lshlrev_b32": ("uuu", lambda a, b: b << (a & U(31))), "lshrrev_b32": ("uuu", lambda a, b: b >> (a & U(31))),
    "lshlrev_b16": ("uuu", lambda a, b: b << (a & U(15)) & U(65535)),
    "ashrrev_i32": ("iii", lambda a, b: b >> (a & I(31))),
    "lshrrev_b16": ("uuu", lambda a, b: (b & U(65535)) >> (a & U(15))),
    "lshl_add_u32": ("uuuu", lambda a, b, c: (a << b) + c), "lshl_or_b32": ("uuuu", lambda a, b, c: (a << b) | c),
    "add_lshl_u32": ("uuuu", lambda a, b, c: (a + b) << c), "bfi_b32": ("uuuu", lambda a, b, c: (a & b) | (~a & c)),
    "bfe_u32": ("uuuu", lambda a, b, c: (a >> b) & ((U(1) << c) - U(1))),
    "bfe_i32": ("iiii", lambda a, b, c: a << (I(32) - b - c) >> (I(32) - c)),
    "alignbit_b32": ("uuuu", lambda a, b, c: b >> (c & U(31)) | a << ((U(32) - c) & U(31))),
    "perm_b32": ("uuuu", lambda a, b, c: a), "mul_lo_u32": ("uuu", lambda a, b: a * b),
    "mul_hi_u32": ("wwu", lambda a, b: a * b >> W(32)), "mul_u32_u24": ("uuu", lambda a, b: a * b),
    "mul_i32_i24": ("uuu", lambda a, b: a * b), "mad_u32_u24": ("uuuu", lambda a, b, c: a * b + c),
    "mad_i32_i24": ("uuuu", lambda a, b, c: a * b + c),
    "min_i32": ("iii", np.minimum), "max_i32": ("iii", np.maximum), "min_u32": ("uuu", np.minimum),
    "max_u32": ("uuu", np.maximum), "lshl_add_u64": ("WWWW", lambda a, b, c: (a << b) + c),
    "lshlrev_b64": ("WWW", lambda a, b: b << (a & W(63))), "lshrrev_b64": ("WWW", lambda a, b: b >> (a & W(63))),
    "mov_b64": ("WW", lambda a: a), "ffbh_i32": ("uu", lambda a: a), "bfrev_b32": ("uu", lambda a: a),
    "add_f32": ("fff", lambda a, b: a + b), "sub_f32": ("fff", lambda a, b: a - b),
    "subrev_f32": ("fff", lambda a, b: b - a), "mul_f32": ("fff", lambda a, b: a * b), "max_f32": ("fff", np.fmax),
    "min_f32": ("fff", np.fmin), "fma_f32": ("ffff", lambda a, b, c: a * b + c),
    "fmamk_f32": ("ffff", lambda a, k, b: a * k + b), "fmaak_f32": ("ffff", lambda a, b, k: a * b + k),
    "max3_f32": ("ffff", lambda a, b, c: np.fmax(np.fmax(a, b), c)), "rcp_f32": ("ff", lambda a: F(1) / a),
    "rcp_iflag_f32": ("ff", lambda a: F(1) / a), "rsq_f32": ("ff", lambda a: F(1) / np.sqrt(a)),
    "sqrt_f32": ("ff", np.sqrt), "exp_f32": ("ff", np.exp2), "log_f32": ("ff", np.log2), "rndne_f32": ("ff", np.rint),
    "ldexp_f32": ("fif", lambda a, b: np.ldexp(a, b)), "div_scale_f32": ("ffff", lambda a, b, c: a),
    "div_fmas_f32": ("ffff", lambda a, b, c: a * b + c), "div_fixup_f32": ("ffff", lambda q, d, n: n / d),
    "pk_mul_f32": ("fff", lambda a, b: a * b), "pk_add_f32": ("fff", lambda a, b: a + b),
    "pk_fma_f32": ("ffff", lambda a, b, c: a * b + c), "cvt_f32_u32": ("uf", lambda a: a),
    "cvt_f32_i32": ("if", lambda a: a),
    "cvt_u32_f32": ("fu", lambda a: np.clip(a, 0, 4294967040.0)), "cvt_f32_ubyte0": ("uf", lambda a: a & U(255)),
    "cvt_i32_f32": ("fi", lambda a: np.clip(a, -2147483520.0, 2147483520.0)),
}
SCALAR: dict[str, Callable] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "and": lambda a, b: a & b,
    "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "andn2": lambda a, b: a & ~b, "orn2": lambda a, b: a | ~b,
    "min": min, "max": max, "lshl": lambda a, b: a << (b & 63), "lshr": lambda a, b: a >> (b & 63),
    "ashr": lambda a, b: a >> (b & 63), "bfe": lambda a, b: a >> (b & 31) & (1 << (b >> 16 & 63)) - 1,
    "lshl1": lambda a, b: (a << 1) + b, "lshl2": lambda a, b: (a << 2) + b, "lshl3": lambda a, b: (a << 3) + b}
