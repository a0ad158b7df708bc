"""`python -m minizaya plan PRESET`: what a model is, needs and costs, before a single weight exists.

    python -m minizaya plan zaya1-8b                                  on one MI300X: all figures
    python -m minizaya plan zaya1-8b --dp 128 --ep 8 --batch 1 --json  trained on a layout, for a program to read
    python -m minizaya plan zaya1-8b --device laptop --figures plans   run from disk; and drawn

The figures come from `account` (the model), `memory` (training and paging), `devices` (decoding, sizes) and `schedule`
(time and cost).
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ..config import ZayaConfig
from ..parallel.layout import ONE_RANK, Layout
from ..plan import account, devices, memory, published, schedule

BATCHES = (1, 8, 64, 512, 4096)


def plan(preset: str, context: int = 4096, dtype: str = "bfloat16", device: str | None = None,
         layout: Layout = ONE_RANK, batch: int = 1, optimizer: str = "adamw", efficiency: float | None = None,
         price: float = 2.0, answer_tokens: int | None = None) -> dict:
    """`account.plan`, and with a device "memory", "sizing", "decode" and "schedule", as plain JSON values.

    batch: sequences of `context` tokens a device in a training step. dtype: of weights and cache; of a paged model: of
    activations and cache, since its weights stay as they are on disk. Raises ValueError as the modules do.
    """
    figures = account.plan(preset, context, dtype)
    if device is None:
        if (layout, batch, optimizer, efficiency, price, answer_tokens) != (ONE_RANK, 1, "adamw", None, 2.0, None):
            raise ValueError("device must be named, got None: without one, only preset, context and dtype count")
        return figures
    config, on = ZayaConfig.preset(preset), devices.device(device)
    training = {name: memory.training_memory(config, batch, context, dtype, optimizer, name == "recomputed", layout)
                for name in ("kept", "recomputed")}
    efficiency = schedule.implied_efficiency() if efficiency is None else efficiency
    at = {}
    for many in BATCHES:
        read, work = devices.decode_seconds(config, many, context, on, dtype)
        at[many] = {"memory_seconds": read, "arithmetic_seconds": work, "tokens_per_second": many / max(read, work)}
    measured = published.rows(config, context) if (preset, device) == ("zaya1-8b", "mi300x") else []
    return figures | {
        "device": {"name": device, "ridge": on.ridge, **asdict(on)},
        "layout": asdict(layout) | {"devices": layout.ranks},
        "memory": {"optimizer": optimizer, "batch": batch, "training": training,
                   "fits": {name: held["sum"] <= on.memory for name, held in training.items()},
                   "paged": memory.paged_memory(config, context, dtype),
                   "paged_int8": memory.paged_memory(config, context, dtype, int8=True)},
        "sizing": devices.findings(config, layout, batch * context // layout.cp),
        "decode": {"batches": at, "published": measured, "ridge_batch": devices.ridge_batch(config, context, on, dtype),
                   "longest_context_with_a_ridge": devices.room_for_context(config, on, dtype)},
        "schedule": {"devices": layout.ranks, "price": price, "efficiency": efficiency,
                     "stages": schedule.schedule(config, layout.ranks, device, efficiency, price, answer_tokens)},
    }


def table(figures: dict) -> str:
    """All of it for people."""
    lines = [account.table(figures)]
    if "device" not in figures:
        return lines[0]
    device, layout, held, decode = (figures[name] for name in ("device", "layout", "memory", "decode"))
    training = held["training"]
    lines += ["", f"training on {layout['devices']} x {device['name']} "
              f"(dp {layout['dp']}, ep {layout['ep']}, cp {layout['cp']}), "
              f"{held['batch']} x {figures['context']:,} tokens each, {held['optimizer']}", "",
              f"{'bytes on one device':30}{'all kept':>20}{'':13}{'recomputed':>20}"]
    for part in training["kept"]:
        one, two = training["kept"][part], training["recomputed"][part]
        lines.append(f"  {part:28}{one:>20,}{account.readable(one)}{two:>20,}{account.readable(two)}")
    verdicts = (f"{name}: {'fits' if fits else 'does not fit'}" for name, fits in held["fits"].items())
    lines.append(f"  {'; '.join(verdicts)} in {device['memory'] / 1e9:.0f} GB")
    lines += ["", f"paged from disk, one sequence of {figures['context']:,}, "
              f"activations and cache in {figures['dtype']}", ""]
    for name, label in (("paged", "as stored"), ("paged_int8", "experts int8")):
        own, scratch, least, most = (size / 1e9 for size in held[name].values())
        lines.append(f"  {label:14}own {own:5.2f} GB, {scratch:5.2f} more while the prompt is read; "
                     f"pages {least:5.2f} GB for a token, {most:5.2f} at most")
    fewer = "" if figures["dtype"] == "bfloat16" or device["name"] == "laptop" else " (bfloat16; fewer in wider types)"
    lines += ["", f"decoding at context {figures['context']:,}: "
              f"the device does {device['ridge']:,.0f} FLOPs{fewer} in the time of a byte", ""]
    for many, at in decode["batches"].items():
        slow = "memory" if at["memory_seconds"] > at["arithmetic_seconds"] else "arithmetic"
        lines.append(f"  batch {many:>5}{at['tokens_per_second']:>14,.0f} tokens/s at most, bound by {slow}")
    ridge, longest = decode["ridge_batch"], decode["longest_context_with_a_ridge"]
    lines.append(f"  arithmetic takes over at batch {ridge:,}" if ridge else
                 f"  arithmetic never takes over: beyond a context of {longest:,} the caches alone keep memory busier")
    lines += published.told(decode["published"]) if decode["published"] else []
    lines += ["", "sizes that MI300X and the layout like (x: not met)", ""]
    lines += [f"  {' ' if f['ok'] else 'x'} {f['rule']:20.20} {f['what']:22}{f['said']}" for f in figures["sizing"]]
    costs = figures["schedule"]
    lines += ["", f"the report's stages at {costs['efficiency']:.1%} of peak FLOPs, "
              f"{costs['price']:g} a device-hour", "",
              f"  {'stage':18}{'tokens':>12}{'context':>10}{'days':>15}{'device-hours':>16}{'cost':>16}"]
    for row in costs["stages"]:
        lines.append(f"  {row['stage']:18}{row['tokens']:>12.3g}{row['context']:>10,}{row['hours'] / 24:>15,.1f}"
                     f"{row['device_hours']:>16,.0f}{row['cost']:>16,.0f}")
    return "\n".join(lines)


def draw(figures: dict, folder: Path) -> list[str]:
    """Writes the pictures of a plan with a device into `folder`, made if it is not there. Returns the files' names."""
    from ..plots import full_8b  # matplotlib is for those who want pictures

    folder.mkdir(parents=True, exist_ok=True)
    files = {str(folder / f"{name}.png"): figure for name, figure in full_8b.of_plan(figures).items()}
    for file, figure in files.items():
        figure.savefig(file)
    return list(files)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", help="nano, micro, mini, ablation-1.8b or zaya1-8b")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="tokens in a sequence (default 4096)")
    parser.add_argument("--dtype", choices=list(account.BYTES), default="bfloat16",
                        help="of weights and cache; for a paged model, of activations and cache (default bfloat16)")
    parser.add_argument("--device", choices=list(devices.PEAK), default="mi300x",
                        help="to train and decode on (default mi300x)")
    for name, about in (("dp", "devices that share the states of weights"), ("ep", "devices that divide the experts"),
                        ("cp", "devices that divide a sequence")):
        parser.add_argument(f"--{name}", type=int, default=1, metavar="N", help=f"{about} (default 1)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="sequences a device in a step (default 1)")
    parser.add_argument("--optimizer", choices=memory.OPTIMIZERS, default="adamw", help="(default adamw)")
    parser.add_argument("--efficiency", type=float, metavar="SHARE",
                        help="of peak FLOPs that training gets (default: what the report's step time implies)")
    parser.add_argument("--price", type=float, default=2.0, help="of a device-hour (default 2, an assumption)")
    parser.add_argument("--answer-tokens", type=int, metavar="N", help="plan RL, too, with answers of this mean length")
    parser.add_argument("--figures", type=Path, metavar="DIR",
                        help="draw it, too: parameters.png, memory.png and decoding.png in DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints the plan. Returns 0."""
    figures = plan(args.preset, args.context, args.dtype, args.device, Layout(args.dp, args.ep, args.cp), args.batch,
                   args.optimizer, args.efficiency, args.price, args.answer_tokens)
    if args.figures:
        figures["pictures"] = draw(figures, args.figures)
    print(json.dumps(figures, indent=2) if args.json else table(figures))
    return 0
