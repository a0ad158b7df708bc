"""What a call does when a setting is not given: every default of the rooms below, once more.

A default is a part of the interface. Texts name it, records were made with it, and other code counts on it; but most
tests give every setting, so a changed default would go unseen. Whoever changes one changes it here, too, and looks for
the texts that say it. The same holds for the figures at the top of modules: limits, recipes, shares.
"""

import ast
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
FIGURES = """
data.aggregation.TAU: (12, 64)
data.aggregation.LENGTHS: {'sheet': (40, 90)}
data.gyms.MAX_LENGTH: 10000
data.gyms.ATTEMPTS: 8
data.pack.IGNORE: -100
data.tasks.HELD_OUT_ONE_IN: 10
data.tasks.SEARCH_LIMIT: 1000
data.tasks.countdown.MAX_VALUE: 99
data.tasks.countdown.MAX_LENGTH: 80
data.tasks.program.STEP_LIMIT: 1000
data.tasks.rule.EXAMPLES: 3
data.tasks.sheet.PAIRS: 6
data.tasks.sheet.ROOM: 24
data.template.LONGEST: 1048576
data.template.room.STEP: 16
data.template.room.MOST: 4194304
data.template.room.MOST_OF_GIVEN: 64
data.text.HELD_OUT: 0.1
infer.endpoint.answers.ENDED_BY_THE_SERVER: {'content_filter': 400, 'abort': 503, 'error': 503}
infer.endpoint.client.WRONG_REQUEST: (401, 403, 404)
infer.endpoint.client.WORTH_ANOTHER_TRY: (408, 409, 425, 429)
infer.endpoint.client.LARGEST: 67108864
infer.rsa.SETTINGS: {'report': RSAConfig(N=16, C=4, T=2, beta=16384, tau=4096, final_n=None), 'zyphra':
    RSAConfig(N=32, C=4, T=8, beta=32768, tau=4096, final_n=1)}
train.evaluate.LEVELS: {'addition': (2, 6, 10, 16), 'base': (1, 2, 3, 5), 'chain100': (2, 6, 12, 20), 'copy': (4, 10,
    16, 24), 'countdown': (1, 2, 3, 4), 'falsify': (1, 2, 3, 5), 'invert': (1, 2, 3, 5), 'modchain': (3, 8, 14, 22),
    'parity': (3, 8, 14, 20), 'program': (1, 3, 5, 8), 'reverse': (4, 10, 16, 24), 'rule': (1, 2, 3), 'sheet': (1, 3,
    12, 24), 'sorting': (3, 6, 9, 12)}
train.evaluate.ROWS: 256
train.muon.COEFFICIENTS: (3.4445, -4.775, 2.0315)
train.muon.EPS: 1e-07
train.sources.SEARCH_LIMIT: 1000
train.stages.SHORT: {'addition': (1, 8), 'base': (1, 3), 'chain100': (1, 8), 'copy': (1, 12), 'countdown': (1, 3),
    'falsify': (1, 3), 'invert': (1, 3), 'modchain': (1, 12), 'parity': (1, 10), 'program': (1, 5), 'reverse': (1,
    12), 'sorting': (1, 8)}
train.stages.LONG: {'addition': (1, 16), 'base': (1, 5), 'chain100': (1, 20), 'copy': (1, 25), 'countdown': (1, 4),
    'falsify': (1, 5), 'invert': (1, 5), 'modchain': (1, 25), 'parity': (1, 20), 'program': (1, 8), 'reverse': (1,
    25), 'sorting': (1, 12)}
train.stages.AGGREGATED: {'addition': (6, 16), 'chain100': (8, 25), 'countdown': (1, 4), 'falsify': (1, 4),
    'modchain': (10, 25), 'sheet': (1, 24)}
train.stages.TOY: (Stage(name='base-1', tokens=6000000, context=128, rope_theta=1000.0, mixture={'text': 0.1,
    'problems': 0.9}, lr=0.005, final_share=0.4, rollouts=0, focus=None), Stage(name='base-2', tokens=3000000,
    context=128, rope_theta=1000.0, mixture={'text': 0.05, 'problems': 0.95}, lr=0.002, final_share=0.5, rollouts=0,
    focus=None), Stage(name='extension', tokens=2500000, context=256, rope_theta=10000.0, mixture={'text': 0.05,
    'problems': 0.95}, lr=0.002, final_share=0.5, rollouts=0, focus=None), Stage(name='sft', tokens=10000000,
    context=512, rope_theta=50000.0, mixture={'problems': 0.3, 'aggregation': 0.7}, lr=0.003, final_share=0.0,
    rollouts=9000, focus=None))
train.stages.WITH_SHEETS: {'addition': (1, 16), 'base': (1, 5), 'chain100': (1, 20), 'copy': (1, 25), 'countdown': (1,
    4), 'falsify': (1, 5), 'invert': (1, 5), 'modchain': (1, 25), 'parity': (1, 20), 'program': (1, 8), 'reverse': (1,
    25), 'sorting': (1, 12), 'rule': (1, 3), 'sheet': (1, 24)}
train.stages.SHEETS: (Stage(name='sheets', tokens=3000000, context=512, rope_theta=50000.0, mixture={'problems': 1.0},
    lr=0.004, final_share=0.5, rollouts=0, focus='sheet'), Stage(name='parts', tokens=6000000, context=640,
    rope_theta=50000.0, mixture={'problems': 0.25, 'aggregation': 0.75}, lr=0.003, final_share=0.0, rollouts=3000,
    focus='sheet'))
train.stages.REAL: ({'name': 'base-1', 'tokens': 8000000000000.0, 'context': 4096, 'rope_theta': 10000.0, 'mixture':
    None}, {'name': 'base-2', 'tokens': 4000000000000.0, 'context': 4096, 'rope_theta': 10000.0, 'mixture': None},
    {'name': 'extension', 'tokens': 1200000000000.0, 'context': 32768, 'rope_theta': 1000000.0, 'mixture': {'long
    reasoning': 0.861, 'web, synthetic, multilingual': 0.057, 'native long context': 0.008, 'code': 0.03, 'math and
    STEM': 0.03, 'short instructions': 0.014}}, {'name': 'sft', 'tokens': 660000000000.0, 'context': 131072,
    'rope_theta': 5000000.0, 'mixture': {'long reasoning': 0.75, 'web, synthetic, multilingual': 0.098, 'native long
    context': 0.064, 'code': 0.05, 'math and STEM': 0.026, 'short instructions': 0.012}})
train.stages.TOKENS_A_STEP: 4096
train.stages.EXPERTS: {'num_experts': 8, 'moe_intermediate_size': 256}
rl.canary.FLUSH: 4
rl.cascade.TOY: (Stage(name='warm-up', updates=20, tasks=('addition', 'base', 'countdown', 'falsify', 'invert',
    'program', 'sorting'), follow=False, aggregation=0.0, style=False, advantage='maxrl', brevity=0.0, lr=0.001,
    rsa=None), Stage(name='curriculum', updates=60, tasks=('addition', 'base', 'countdown', 'falsify', 'invert',
    'program', 'sorting'), follow=True, aggregation=0.0, style=False, advantage='maxrl', brevity=0.0, lr=0.001,
    rsa=None), Stage(name='ttc', updates=30, tasks=('addition', 'base', 'countdown', 'falsify', 'invert', 'program'),
    follow=True, aggregation=0.4, style=False, advantage='maxrl', brevity=0.2, lr=0.001, rsa=None),
    Stage(name='behaviour', updates=10, tasks=('addition', 'base', 'countdown', 'falsify', 'invert', 'program',
    'sorting'), follow=True, aggregation=0.0, style=True, advantage='grpo', brevity=0.0, lr=0.0003, rsa=None))
rl.cascade.SHEETS: (Stage(name='ttc', updates=48, tasks=('sheet',), follow=False, aggregation=0.85, style=False,
    advantage='maxrl', brevity=0.0, lr=0.0005, rsa=RSAConfig(N=8, C=4, T=1, beta=280, tau=74, final_n=None)),)
rl.cascade.records.PARTS: (6, 12, 18, 24, 24, 24)
rl.cascade.records.TOGETHER: 48
rl.loss.LOG_RATIO_LIMIT: 20.0
rl.pipeline.SYNC: 2
rl.pipeline.TOO_OLD: 8
rl.processes.STALENESS: 2
rl.replay.UNRECORDED: -1
rl.replay.BYTE: 255
hub.config_json.LARGEST: 16777216
hub.config_keys.RELEASED: {'num_convs': 2, 'qk_mean': True, 'value_shift': True, 'router': 'mlp', 'eda': True,
    'residual_scaling': True}
hub.config_keys.FIXED: {'hidden_act': 'silu', 'num_experts_per_tok': 1, 'attention_dropout': 0.0}
hub.config_keys.ROPE_KEYS: {'rope_theta': None, 'partial_rotary_factor': 1.0, 'rope_type': 'default', 'type':
    'default'}
hub.config_keys.ORIGINAL_FIXED: {'activation_func': 'swiglu', 'add_bias_linear': False, 'cca': True, 'clamp_temp':
    False, 'gated_linear_unit': True, 'moe_router_topk': 1, 'normalization': 'RMSNorm', 'residual_in_fp32': True,
    'rope_scaling': False, 'scale_residual_merge': True, 'zaya_use_eda': True, 'zaya_use_mod': True}
hub.config_keys.ALWAYS: {'num_convs': 2, 'qk_mean': True, 'value_shift': True, 'router': 'mlp', 'eda': True,
    'residual_scaling': True, 'hidden_act': 'silu', 'num_experts_per_tok': 1, 'attention_dropout': 0.0, 'cca': True,
    'gated_linear_unit': True, 'residual_in_fp32': True, 'scale_residual_merge': True, 'zaya_use_eda': True,
    'zaya_use_mod': True}
hub.contents.LONGEST_NAME: 255
hub.golden.TOLERANCE: 0.001
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
    assert not (odd := differences(TABLE, found())), f"name: (in TABLE, in the code): {odd}"


def differences(table: str, given: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """name -> what the table says, what the code says; where they are not the same."""
    wanted = dict(line.split(": ", 1) for line in table.strip().replace("\n    ", " ").splitlines())
    return {name: (wanted.get(name), given.get(name)) for name in wanted | given
            if wanted.get(name) != given.get(name)}


def figures() -> dict[str, str]:
    """The constants of the rooms that are numbers, or hold some: "module.NAME" -> how Python writes it.

    What is put together from others alone (`TOY + SHEETS`) is not among them.
    """
    rooms = [importlib.import_module(f"minizaya.{room}") for room in ("arch", "data", "infer", "train", "rl", "hub")]
    modules = [importlib.import_module(each.name) for room in rooms
               for each in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
    made = [(module, name.id) for module in modules for line in ast.parse(inspect.getsource(module)).body
            if isinstance(line, ast.Assign) and any(isinstance(part, ast.Constant) for part in ast.walk(line.value))
            for target in line.targets
            for name in (target.elts if isinstance(target, ast.Tuple) else [target]) if isinstance(name, ast.Name)]
    return {f"{module.__name__.removeprefix('minizaya.')}.{name}": " ".join(repr(vars(module)[name]).split())
            for module, name in made if name.isupper() and has_numbers(vars(module)[name])}


def has_numbers(value: object) -> bool:
    """A number, a setting of numbers (a recipe), or a table with one in it."""
    if isinstance(value, (tuple, dict)):
        return any(map(has_numbers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, (int, float)) or type(value).__name__ in ("Stage", "RSAConfig")


def test_figures_are_those_of_the_list():
    assert not (odd := differences(FIGURES, figures())), f"name: (in FIGURES, in the code): {odd}"
