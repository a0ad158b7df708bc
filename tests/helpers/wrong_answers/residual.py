"""Wrong answers to the exercises of lesson 05."""


def answer(head, body):
    return f"\ndef {head}:\n    {body}\n"


NORM = "my_rms_norm(x, weight, eps)"
MERGE = "my_merge(output, residual, output_scale, output_bias, residual_scale, residual_bias)"
BIAS = "bias_for_the_weights(scale, bias)"
STREAM = "half_model(start, layers)"

WRONG = {
    "rms_norm": {
        "eps outside the root": answer(NORM, "return x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * weight"),
        "eps instead of a sum": answer(
            NORM, "return x / x.square().mean(-1, keepdim=True).clamp_min(eps).sqrt() * weight"),
        "eps squared": answer(NORM, "return x / (x.square().mean(-1, keepdim=True) + eps ** 2).sqrt() * weight"),
        "sum of squares": answer(NORM, "return x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * weight"),
        "over time": answer(NORM, "return x / (x.square().mean(1, keepdim=True) + eps).sqrt() * weight"),
        "over everything": answer(NORM, "return x / (x.square().mean() + eps).sqrt() * weight"),
        "minus the mean": answer(
            NORM, "x = x - x.mean(-1, keepdim=True)\n    "
                  "return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight"),
        "no root": answer(NORM, "return x / (x.square().mean(-1, keepdim=True) + eps) * weight"),
        "no weight": answer(NORM, "return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()"),
        "one plus the weight": answer(
            NORM, "return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * (1 + weight)"),
        "the library's own": answer(NORM, "return rms_norm(x, weight, eps)"),
        "the length is taken for a constant": answer(
            NORM, "return x / (x.detach().square().mean(-1, keepdim=True) + eps).sqrt() * weight"),
    },
    "merge": {
        "scale before bias": answer(
            MERGE, "return output * output_scale + output_bias + residual * residual_scale + residual_bias"),
        "scale before bias on the residual": answer(
            MERGE, "return (output + output_bias) * output_scale + residual * residual_scale + residual_bias"),
        "scale before bias on the output": answer(
            MERGE, "return output * output_scale + output_bias + (residual + residual_bias) * residual_scale"),
        "residual left alone": answer(MERGE, "return (output + output_bias) * output_scale + residual"),
        "streams exchanged": answer(
            MERGE, "return (residual + output_bias) * output_scale + (output + residual_bias) * residual_scale"),
        "biases exchanged": answer(
            MERGE, "return (output + residual_bias) * output_scale + (residual + output_bias) * residual_scale"),
        "one scale for the sum": answer(
            MERGE, "return (output + output_bias + residual + residual_bias) * residual_scale"),
        "minus the bias": answer(
            MERGE, "return (output - output_bias) * output_scale + (residual - residual_bias) * residual_scale"),
        "in place": answer(
            MERGE, "residual += residual_bias\n    residual *= residual_scale\n    "
                   "return (output + output_bias) * output_scale + residual"),
        "the library's own": answer(
            MERGE, "return mz.arch.residual.merge(output, residual, output_scale, output_bias, residual_scale, "
                   "residual_bias)"),
    },
    "forms": {
        "left as it is": answer(BIAS, "return bias.clone()"),
        "the way back": answer(BIAS, "return bias * scale"),
        "upside down": answer(BIAS, "return scale / bias"),
        "wrong sign": answer(BIAS, "return -bias / scale"),
        "size of the scale": answer(BIAS, "return bias / scale.abs()"),
        "near one": answer(BIAS, "return bias * (2 - scale)"),
        "guarded division": answer(BIAS, "return bias / (scale + 1e-3)"),
        "small scales left alone": answer(BIAS, "return torch.where(scale.abs() < 0.01, bias, bias / scale)"),
        "mean of the scale": answer(BIAS, "return bias / scale.mean()"),
    },
    "stream": {
        "bfloat16 stream": answer(
            STREAM, "stream = start\n    for layer in layers:\n        stream = stream + layer(stream)\n    "
                    "return stream"),
        "bfloat16 stream, float32 at the end": answer(
            STREAM, "stream = start\n    for layer in layers:\n        stream = stream + layer(stream)\n    "
                    "return stream.float()"),
        "layers read float32": answer(
            STREAM, "stream = start.float()\n    for layer in layers:\n        stream = stream + layer(stream)\n    "
                    "return stream"),
        "rounded at the end": answer(
            STREAM, "stream = start.float()\n    for layer in layers:\n        "
                    "stream = stream + layer(stream.bfloat16())\n    return stream.bfloat16()"),
        "rounded at the end, float32 by name": answer(
            STREAM, "stream = start.float()\n    for layer in layers:\n        "
                    "stream = stream + layer(stream.bfloat16())\n    return stream.bfloat16().float()"),
        "reads the start": answer(
            STREAM, "stream = start.float()\n    for layer in layers:\n        stream = stream + layer(start)\n    "
                    "return stream"),
        "start forgotten": answer(
            STREAM, "stream, total = start.float(), 0\n    for layer in layers:\n        "
                    "write = layer(stream.bfloat16())\n        stream, total = stream + write, total + write.float()\n"
                    "    return total + 0 * stream"),
        "no residual": answer(
            STREAM, "stream = start\n    for layer in layers:\n        stream = layer(stream)\n    "
                    "return stream.float()"),
        "last layer forgotten": answer(
            STREAM, "stream = start.float()\n    for layer in layers[:-1]:\n        "
                    "stream = stream + layer(stream.bfloat16())\n    return stream"),
        "half as often rounded": answer(
            STREAM, "stream = start.float()\n    for layer in layers:\n        "
                    "stream = (stream.bfloat16() + layer(stream.bfloat16())).float()\n    return stream"),
    },
}
