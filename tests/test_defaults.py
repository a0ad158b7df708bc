"""What a call does when a setting is not given: every default of the rooms below, once more.

A default is a part of the interface. Texts name it, records were made with it, and other code counts on it; but most
tests give every setting, so a changed default would go unseen. Whoever changes one changes it here, too, and looks for
the texts that say it.
"""

import dataclasses
import importlib
import inspect
import pkgutil

ROOMS = ("config", "arch", "data", "native", "infer", "train", "rl", "parallel", "hub", "plan", "serve")
TABLE = """
config.ZayaConfig: vocab_size=262272, hidden_size=2048, num_hidden_layers=40, rms_norm_eps=1e-05,
    tie_word_embeddings=True, lm_head_bias=False, initializer_range=0.02, num_attention_heads=8,
    num_key_value_heads=2, head_dim=128, cca_time0=2, cca_time1=2, attention_bias=False, partial_rotary_factor=0.5,
    rope_theta=5000000.0, rope_theta_sliding=10000.0, num_experts=16, moe_intermediate_size=2048,
    router_hidden_size=256, pad_token_id=0, bos_token_id=2, eos_token_id=106, num_convs=2, qk_mean=True,
    value_shift=True, router='mlp', eda=True, residual_scaling=True
arch.attention.Place: regular=False
arch.balance.SignBalancer: lr=0.001
arch.balance.PIDBalancer: kp=0.5, ki=0.1, kd=0.0
arch.balance.AdamWBalancer: lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0
arch.block.Block: fast=True
arch.cca.CCA: fast=True
arch.experts.Experts: fast=True
arch.model.Zaya: backend='fast'
arch.model.Zaya.forward: last_only=False
data.aggregation.continuation: overlap=2
data.aggregation.aggregation_documents: most=4, lengths=(12, 64)
data.aggregation.spoiled_tails: lengths=(12, 64)
data.chat.encode: reply=False, strict=True
data.gyms.rlve: max_difficulty=10
data.ngram.WittenBell: max_order=6
data.ngram.witten_bell: max_order=6
data.tasks.arithmetic.ModChain: modulus=10
data.tasks.program.run: limit=1000
data.template.Template: bos='<bos>', eos='<eos>'
data.template.Template.render: tools=()
data.template.Template.encode: tools=()
data.template.Template.around: tools=()
data.template.Template.shows: tools=()
data.template.marks.Marks: source=''
data.template.marks.Marks.put: spared=()
data.template.room.priced: name='counted'
data.template.room.tojson: ensure_ascii=False, sort_keys=False
data.tokenizer.ByteTokenizer: specials=('<pad>', '<bos>', '<eos>', '<unk>', '<|im_start|>', '<|im_end|>', '<think>',
    '</think>')
data.tokenizer.CharTokenizer: specials=('<pad>', '<bos>', '<eos>', '<unk>', '<|im_start|>', '<|im_end|>', '<think>',
    '</think>'), unknown='error'
data.tokenizer_base.Tokenizer.encode: allow_special=False
data.tokenizer_base.Tokenizer.decode: keep_special=True
native.compiler.kept: beside=()
native.fused.model.forward: last_only=False
native.fused.model.hidden: last_only=False
native.layout.Layout: rounds=False
native.step.in_large_pages: limit=1073741824
native.step.pasts: steps=1
native.step.taken_in: steps=1
native.step.Step.read: last_only=False
infer.calls.value_of: parameter=''
infer.endpoint.client.Endpoint: temperature=1.0, top_p=1.0, seed=0, concurrency=16, timeout=1800.0, retries=6,
    pause=1.0, raw=False, end=''
infer.engine.Request: tokens=[], logprobs=[], routes=[], kept=[]
infer.engine.Engine: slots=64, size=1024, joining=16
infer.engine.engine_generate: temperature=1.0, top_p=1.0, min_p=0.0, stop=(), seed=0
infer.engine.Engine.submit: temperature=1.0, top_p=1.0, min_p=0.0, stop=(), seed=0, record=False
infer.engine.Engine.queue: record=False
infer.engine.Engine.read: again=False
infer.generate.generate: temperature=1.0, top_p=1.0, min_p=0.0, stop=(), seed=0, progress=False
infer.generate.generate_reference: temperature=1.0, top_p=1.0, min_p=0.0, stop=(), seed=0
infer.parse.Reply: reasoning='', content='', calls=[], malformed=[]
infer.parse.parse: thinking=True
infer.parse.Reader: thinking=True
infer.rsa.RSAConfig: N=16, C=4, T=2, beta=512, tau=128
infer.rsa.RSAResult: failed=0
infer.rsa.markovian_rsa: seed=0
infer.rsa.markovian_rsa_many: seed=0
infer.sample.keep_mask: top_p=1.0, min_p=0.0
infer.sample.filtered: top_p=1.0, min_p=0.0
infer.sample.choose: top_p=1.0, min_p=0.0
train.checkpoint.read_info: written_as='minizaya-run-1'
train.evaluate.held_out_loss: window=128, batch=16
train.evaluate.answers: rows=256, bar=True
train.evaluate.accuracies: temperature=1.0, seed=1
train.loop.Recipe: lr=0.005, warmup=50, weight_decay=0.1, beta1=0.9, beta2=0.95, clip=1.0, balance_lr=0.004, seed=0,
    optimizer='adamw', momentum=0.95, final_share=0.0
train.loop.Trainer: resume=False
train.loop.Trainer.train: eval_every=0, save_every=0, bar=True
train.muon.newton_schulz: steps=5
train.muon.Muon: momentum=0.95, betas=(0.9, 0.95), eps=1e-08
train.optim.learning_rate: final_share=0.0
train.optim.adamw: weight_decay=0.1, betas=(0.9, 0.95)
train.optim.muon: weight_decay=0.1, betas=(0.9, 0.95), momentum=0.95
train.run_lock.try_lock: shared=False
train.stages.Stage: levels=train.stages.LONG, lr=0.002, final_share=0.5, rollouts=0
train.stages.train: table=train.stages.TOY, share=1.0, seed=0, resume=False, sizes=train.stages.EXPERTS, bar=True,
    device='cpu'
train.stages.rollouts: each=8
rl.advantage.check_rewards: name='rewards'
rl.advantage.grpo_advantage: eps=0.0001
rl.buffer.Shelf: capacity=3
rl.canary.canary: chunk=64
rl.canary.repeats: threshold=0.05, chunk=64
rl.canary.calibrated: chunk=64, share=0.5
rl.canary.rare_share: top=0.05
rl.cascade.Stage: tasks=rl.cascade.BOUNDARY, follow=True, aggregation=0.0, style=False, advantage='maxrl',
    brevity=0.0, lr=0.001
rl.cascade.calibrate: seed=0
rl.cascade.train: table=rl.cascade.TOY, seed=0, processes=1, share=1.0, bar=True
rl.cascade.Fixed: up=0.7, drawn={}
rl.curriculum.Calibrator: seed=0, particles=256, target=0.5, spread=0.25
rl.curriculum.Scheduler: up=0.7, drawn={}
rl.generator.Generator: group=16, slots=256, size=512, min_p=0.0, threshold=0.02
rl.learner.LearnerConfig: lr=0.001, adam_share=0.1, delta=0.1, directional=True, length=128.0, advantage='maxrl',
    brevity=0.0, replay=True, clip=1.0, rows=8192
rl.learner.micro_batches: price=300
rl.loss.token_logprobs: temperature=1.0
rl.loss.dppo_mask: delta=0.1, directional=True
rl.loss.policy_loss: delta=0.1, directional=True
rl.mismatch.low_precision: kind='bfloat16', float32_ops=False
rl.pipeline.run: processes=1, bar=True
rl.processes.Job: groups=12, group=16, aggregation=0.0, judge=verified, min_p=0.0, threshold=0.02, slots=256,
    size=768, seed=0
rl.processes.GeneratorProcess: device='cpu'
rl.processes.GeneratorSide.make: in_flight=False
rl.replay.check_routes: name='routes'
rl.reward.length_bonus: best_rate=0.0, slack=0.0, rate_slack=0.1, scale=1.0
rl.reward.style_score: cue='#', end='$'
rl.rollout.Rollout: reward=0.0, flags=()
parallel.expert_parallel.ExpertParallel: compiled=False
parallel.grid.parallelize: compiled=False
parallel.launch.run_job: limit=300.0, timeout=20.0, foreground=False
parallel.launch.join: timeout=20.0
parallel.layout.Layout: dp=1, ep=1, cp=1
parallel.trainer.ParallelTrainer: resume=False
parallel.trainer.ParallelTrainer.train_step: stop=False
parallel.trainer.ParallelTrainer.train: save_every=0, bar=True
hub.contents.read_contents: verify=False
hub.contents.same_bytes: step=16777216
hub.golden.record: corner=3
hub.golden.examine: golden=hub.golden.RELEASED, dtype=torch.bfloat16, sums=True
hub.names.Piece: expert=False
hub.paging.PagedZaya: dtype=torch.float32, int8=False
hub.paging.PagedZaya.forward: last_only=False
hub.shards.save: layout='minizaya', shard_bytes=2147483648
hub.shards.write_folder: layout='minizaya', shard_bytes=2147483648, progress=<lambda>
hub.shards.load: verify=True
hub.weights.open_weights: dtype='float32', int8=False
hub.weights.StandIn.decode: keep_special=True
plan.account.kv_bytes_per_token: dtype='bfloat16'
plan.account.state_bytes_per_sequence: dtype='bfloat16'
plan.account.flops: past=0, causal=False
plan.account.plan: context=4096, dtype='bfloat16'
plan.attention_cost.ccgqa: conv=0
plan.attention_cost.conv_weights: k_seq=2, k_ch=2
plan.attention_cost.conv_weights_as_printed: k_seq=2, k_ch=2
plan.devices.decode_bytes: dtype='bfloat16'
plan.devices.decode_seconds: dtype='bfloat16'
plan.devices.ridge_batch: dtype='bfloat16'
plan.devices.room_for_context: dtype='bfloat16'
plan.devices.findings: layout=Layout(dp=1, ep=1, cp=1), tokens=4096
plan.memory.layer_activations: dtype='float32'
plan.memory.activations: dtype='float32', recompute=False
plan.memory.context_activations: dtype='float32'
plan.memory.optimizer_state: optimizer='adamw', layout=Layout(dp=1, ep=1, cp=1)
plan.memory.training_memory: dtype='bfloat16', optimizer='adamw', recompute=False, layout=Layout(dp=1, ep=1, cp=1)
plan.memory.paged_memory: dtype='float32', int8=False
plan.schedule.schedule: on='mi300x', price=2.0
serve.checks.Wrong: status=400
serve.formats.ChatFormat: ends=()
serve.formats.read_text: thinking=True, tools=()
serve.formats.ChatFormat.check: tools=()
serve.formats.ChatFormat.prompt: tools=()
serve.formats.ChatFormat.reader: thinking=True, tools=()
serve.formats.ChatFormat.aggregator: tools=()
serve.formats.TaskFormat.prompt: tools=()
serve.formats.TaskFormat.reader: thinking=True, tools=()
serve.formats.TaskFormat.aggregator: tools=()
serve.messages.only: param='messages'
serve.protocol.Request: n=1, stream=False, usage=False, settings={}, seed=0, stop=(), thinking=True, tools=[]
serve.server.Server.initialize: host='127.0.0.1', port=0
serve.service.Service: slots=64, size=1024, waiting=256
serve.service.Answer.read: watch=<lambda>
serve.telling.Telling: watch=<lambda>
"""


def found() -> dict[str, str]:
    """"room.module.name" -> its defaults as text, of all public functions, classes and methods; None is left out."""
    lines = {}
    for room in ROOMS:
        above = importlib.import_module(f"minizaya.{room}")
        below = pkgutil.walk_packages(getattr(above, "__path__", []), f"{above.__name__}.")
        for module in [above, *(importlib.import_module(each.name) for each in below if "__main__" not in each.name)]:
            own = {name: thing for name, thing in vars(module).items() if not name.startswith("_")
                   and inspect.isfunction(inspect.unwrap(thing)) | inspect.isclass(thing)
                   and getattr(thing, "__module__", "") == module.__name__}
            methods = {f"{name}.{key}": getattr(thing, key) for name, thing in own.items() if inspect.isclass(thing)
                       for key, value in vars(thing).items() if not key.startswith("_")
                       and inspect.isfunction(inspect.unwrap(getattr(value, "__func__", value)))}
            for name, thing in {**own, **methods}.items():
                if text := defaults(thing):
                    lines[f"{module.__name__.removeprefix('minizaya.')}.{name}"] = text
    return lines


def defaults(thing: object) -> str:
    """`a=1, b=None`: a field that is made anew by what its factory makes, a function or a table by its name."""
    if dataclasses.is_dataclass(thing):
        given = {field.name: field.default_factory() if field.default is dataclasses.MISSING else field.default
                 for field in dataclasses.fields(thing)
                 if (field.default, field.default_factory) != (dataclasses.MISSING,) * 2}
    elif inspect.isclass(thing) and "__init__" not in vars(thing):
        given = {}
    else:
        parameters = inspect.signature(thing).parameters.values()
        given = {each.name: each.default for each in parameters if each.default is not each.empty}
    return ", ".join(f"{name}={shown(value)}" for name, value in given.items() if value is not None)


def shown(value: object) -> str:
    if callable(value):
        return value.__name__
    names = [f"{module}.{name}" for module in ("train.stages", "rl.cascade", "hub.golden")
             for name, other in vars(importlib.import_module(f"minizaya.{module}")).items() if other is value]
    return names[0] if names and isinstance(value, (tuple, dict)) | dataclasses.is_dataclass(value) else repr(value)


def test_defaults_are_those_of_the_table():
    wanted = dict(line.split(": ", 1) for line in TABLE.strip().replace("\n    ", " ").splitlines())
    given = found()
    odd = {name: (wanted.get(name), given.get(name)) for name in wanted | given
           if wanted.get(name) != given.get(name)}
    assert not odd, f"name: (in TABLE, in the code): {odd}"
