"""What others measured of ZAYA1-8B's decoding on one MI300X, beside what bytes and launches ask for.

    published.rows(config, context)       a row a batch
    published.told(rows)                  the lines that `minizaya plan` prints, reasons included

Three limits in tokens a second: `roofline`, bytes at the sheet's bandwidth; `reached`, at the bandwidth that others
report; `launched`, with the time that starting our kernels takes besides.
"""

from ..config import ZayaConfig
from . import devices

TOKENS_PER_SECOND = {1: 89.5, 16: 947.5, 64: 2792.0}     # batch -> all sequences together; context not stated
SOURCE = "Zyphra/vllm, configs/aiter/README.md"
REACHED = 4.33e12                                        # bytes a second, as `hip.machine.floors.PEAKS` has it
LAUNCH = 5e-6      # seconds from one kernel to the next without a graph (assumed)
LAUNCHES = 10      # of a layer: seven kernels of ours, attention's parts put together, two products by a library


def rows(config: ZayaConfig, context: int) -> list[dict]:
    """A dict for each published batch: batch, published, roofline, reached, launched (tokens a second), and share:
    published over launched. context: tokens in each sequence's cache, bfloat16."""
    found = []
    for batch, published in TOKENS_PER_SECOND.items():
        read, work = devices.decode_seconds(config, batch, context, devices.PEAK["mi300x"])
        reached = max(devices.decode_bytes(config, batch, context) / REACHED, work)
        launched = reached + config.num_hidden_layers * LAUNCHES * LAUNCH
        found.append(dict(batch=batch, published=published, roofline=batch / max(read, work), reached=batch / reached,
                          launched=batch / launched, share=published * launched / batch))
    return found


def told(found: list[dict]) -> list[str]:
    """The rows in words, and why they are apart."""
    lines = ["", f"decoding measured on one MI300X ({SOURCE}), tokens/s, beside what is possible", "",
             f"  {'batch':>5}{'measured':>12}{'sheet':>12}{'4.33 TB/s':>12}{'+ launches':>12}"]
    lines += [f"  {row['batch']:>5}{row['published']:>12,.1f}{row['roofline']:>12,.0f}{row['reached']:>12,.0f}"
              f"{row['launched']:>12,.0f}: {row['share']:.0%} of that" for row in found]
    lines += [f"  launches: {LAUNCHES} a layer at {LAUNCH * 1e6:.0f} us. What is left: more launches between",
              "  the fused ones (CCA alone took Zyphra from 66.9 to 126.2 tokens/s), kernels of one token that wait",
              "  for each load in turn, experts visited unevenly, sampling, the server; and the context, not stated"]
    return lines
