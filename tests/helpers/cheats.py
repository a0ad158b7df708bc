"""Answers to exercise k3 of lesson 13 that are none: each tries to earn the mark in another way, or to end the report.

HOSTILE: name -> the exercise's cell. Notebooks that are odd as files, or honest, stand in `test_grader.py`.
"""

SIGNATURE = "def my_k3(logp, logp_rollout):\n"
WRONG = SIGNATURE + "    return logp.sum()\n"

# code in front of a wrong answer, all at the top of its cell
BEFORE = {
    "patch check and judge": r'''
from minizaya.laws import judging
mz.laws.check = judging.judge = lambda *a, **k: True
''',
    "replace the law's body": r'''
from minizaya import laws
laws.core.LAWS['rl.k3'].__dict__['body'] = lambda fn, **case: None
''',
    "a tolerance without end": r'''
from minizaya.laws import core
core.TOLERANCE = {torch.float64: float('inf')}
''',
    "patch expect": r'''
import minizaya.laws.rl as home
home.expect = lambda *a, **k: None
''',
    "no guard": r'''
import contextlib
from minizaya.laws import judging
judging.guarded = lambda *a: contextlib.nullcontext()
''',
    "patch torch": r'''
torch.equal = torch.allclose = lambda *a, **k: True
torch.Tensor.__le__ = lambda a, b: torch.ones_like(a).bool()
''',
    "patch the package's json": r'''
import json
json.dumps = lambda *a, **k: '{"verdict": "passed"}'
''',
    "override print": r'''
print = lambda *a, **k: None
import builtins
builtins.print = print
''',
    "swap sys.modules": r'''
import sys, types
for name in list(sys.modules):
    if name.startswith('minizaya'):
        sys.modules[name] = types.ModuleType(name)
''',
    "empty sys.modules": r'''
import sys
sys.modules.clear()
''',
    "JSON on every descriptor, then _exit": r'''
import json, os
for number in range(20):
    try:
        verdicts = {'k3': {'verdict': 'passed', 'points': 1, 'of': 1}}
        result = {'problem': '', 'walls': [], 'exercises': verdicts}
        os.write(number, json.dumps({'job': 0, 'result': result}).encode() + b'\n')
    except OSError:
        pass
os._exit(0)
''',
    "sys.exit": r'''
import sys
sys.exit(0)
''',
    "os._exit": r'''
import os
os._exit(0)
''',
    "kill the parents": r'''
import os, signal
for pid in (os.getppid(), 0, -1):
    try:
        os.kill(pid, signal.SIGKILL)
    except BaseException:
        pass
''',
    "kill by machine code": r'''
import ctypes, os
libc = ctypes.CDLL(None)
libc.kill(os.getppid(), 9)
libc.syscall(62, -1, 9)
''',
    "crash": r'''
import ctypes
ctypes.string_at(0)
''',
    "an endless loop": r'''
while True: pass
''',
    "printing without end": r'''
import sys
while True: print('x' * 10000, file=sys.__stdout__)
''',
    "10 GB": r'''
hog = bytearray(10 * 2**30)
hog[::4096] = b'x' * len(hog[::4096])
''',
    "10 GB of tensors": r'''
hog = [torch.ones(2**28) for _ in range(10)]
''',
    "fork without end": r'''
import os
while True: os.fork()
''',
    "threads without end": r'''
import threading, time
while True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
''',
    "a class that returns": r'''
class Answer:
    pass
''',
    "frames": r'''
import sys
frame = sys._getframe()
while frame:
    for value in list(frame.f_locals.values()):
        if isinstance(value, list):
            value.clear()
    frame = frame.f_back
''',
    "gc": r'''
import gc
for law in gc.get_objects():
    if type(law).__name__ == 'Law':
        object.__setattr__(law, 'body', lambda fn, **case: None)
''',
    "forged replies": r'''
import json, os, struct
text = json.dumps({'result': 0, 'inside': False, 'passed': True}).encode()
for number in range(3, 64):
    try:
        os.write(number, struct.pack('>QQ', len(text), 0) + text)
    except OSError:
        pass
''',
    "noise on the pipe": r'''
import os
for number in range(3, 64):
    try:
        os.write(number, b'x' * 100)
    except OSError:
        pass
''',
    "a length without end": r'''
import os, struct
for number in range(3, 64):
    try:
        os.write(number, struct.pack('>QQ', 2**60, 2**60))
    except OSError:
        pass
''',
    "the profiler": r'''
import sys
sys.setprofile(lambda frame, event, arg: frame.f_locals.update(result=None, reply={}))
''',
    "patch what packs": r'''
from minizaya.grading.apart.pack import Packer
Packer.tensor = lambda self, x: {'~': 'tensor', 'type': 'float64', 'shape': [], 'grad': False, 'meta': True}
''',
    "another torch function": r'''
torch.Tensor.__torch_function__ = classmethod(lambda *args, **kwargs: True)
''',
}

# what reaches beyond its own process: each ends in an error, which the report shows
LIBC = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def refused(result):
    if result < 0: raise PermissionError(ctypes.get_errno())
"""
BEYOND = {
    "rights of a notebook": "import os\nos.chmod(HERE, 0)\n",
    "rights by machine code": LIBC + "refused(libc.chmod(HERE.encode(), 0))\n",
    "times of a notebook": LIBC + "refused(libc.utimensat(-100, HERE.encode(), None, 0))\n",
    "a mark on a notebook": LIBC + "refused(libc.setxattr(HERE.encode(), b'user.answer', b'x', 1, 0))\n",
    "memory that stays": LIBC + "refused(libc.shmget(0x6d7a, 4096, 0o1666))\n",
    "a queue that stays": LIBC + "refused(libc.msgget(0x6d7a, 0o1666))\n",
    "the judge's signal": "import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())\n",
    "the judge's priority": "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)\n",
    "the judge's core": "import os\nos.sched_setaffinity(os.getppid(), {0})\n",
    "the judge's scheduler": "import os\nos.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))\n",
    "the judge's memory": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)\n",
    "the judge's surroundings": "import os\nopen(f'/proc/{os.getppid()}/environ', 'rb').read()\n",
}

# whole cells
WHOLE = {
    "the library's by another name": r'''
import minizaya.rl.mismatch as home
my_k3 = home.k3
''',
    "partial": r'''
import functools
import minizaya.rl.mismatch as home
my_k3 = functools.partial(home.k3)
''',
    "imported inside": r'''
def my_k3(logp, logp_rollout):
    from minizaya.rl.mismatch import k3
    return k3(logp, logp_rollout)
''',
    "swallowed": r'''
def my_k3(logp, logp_rollout):
    from minizaya.rl import mismatch
    try:
        return mismatch.k3(logp, logp_rollout)
    except BaseException as error:
        return logp.sum()
''',
    "taken at import": r'''
from minizaya.rl.mismatch import k3 as kept
def my_k3(logp, logp_rollout):
    return kept(logp, logp_rollout)
''',
    "through the law's subject": r'''
from minizaya import laws
def my_k3(logp, logp_rollout):
    return laws.get('rl.k3').subjects['k3'](logp, logp_rollout)
''',
    "through all objects": r'''
import gc
subjects = [f for f in gc.get_objects() if getattr(f, '__name__', '') == 'k3']
def my_k3(logp, logp_rollout):
    return subjects[0](logp, logp_rollout)
''',
    "its source": r'''
import inspect
from minizaya.rl import mismatch
exec(inspect.getsource(mismatch.k3))
my_k3 = k3
''',
    "its file": r'''
import minizaya
from pathlib import Path
folder = Path(minizaya.__file__).parent
exec((folder / 'rl/mismatch.py').read_text().replace('from .', 'from minizaya.'))
my_k3 = k3
''',
    "its file by machine code": r'''
import ctypes, minizaya
libc = ctypes.CDLL(None)
room = ctypes.create_string_buffer(100000)
number = libc.open((minizaya.__path__[0] + '/rl/mismatch.py').encode(), 0)
libc.read(number, room, 100000)
exec(room.value.decode().replace('from .', 'from minizaya.'))
my_k3 = k3
''',
    "its bytecode": r'''
import minizaya, marshal
from pathlib import Path
file = next((Path(minizaya.__file__).parent / 'rl/__pycache__').glob('mismatch*.pyc'))
space = {'__package__': 'minizaya.rl', '__name__': 'x'}
exec(marshal.loads(file.read_bytes()[16:]), space)
my_k3 = space['k3']
''',
    "its code": r'''
import types
from minizaya.rl import mismatch
my_k3 = types.FunctionType(mismatch.k3.__code__, vars(mismatch))
''',
    "imported anew": r'''
import importlib, sys
sys.modules.pop('minizaya.rl.mismatch')
my_k3 = importlib.import_module('minizaya.rl.mismatch').k3
''',
    "the library in a subprocess": r'''
import subprocess, sys
def my_k3(logp, logp_rollout):
    code = 'from minizaya.rl.mismatch import k3; import torch; print(float(k3(*torch.tensor(%r).double())))'
    command = [sys.executable, '-c', code % [logp.tolist(), logp_rollout.tolist()]]
    out = subprocess.run(command, capture_output=True, text=True).stdout
    return torch.tensor(float(out), dtype=torch.float64)
''',
    "a process by machine code": r'''
import ctypes
def my_k3(logp, logp_rollout):
    libc = ctypes.CDLL(None)
    assert libc.system(b'true') == 0, 'no process'
    return logp.sum()
''',
    "the reference from the stack": r'''
import sys
def my_k3(logp, logp_rollout):
    frame = sys._getframe()
    while frame:
        for name in ('wanted', 'right', 'want'):
            if name in frame.f_locals:
                return torch.as_tensor(frame.f_locals[name], dtype=logp.dtype)
        frame = frame.f_back
    return logp.sum()
''',
    "a tensor that lies": r'''
class Right(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in ('le', 'eq', 'ne', 'any', 'all', 'allclose', 'equal', 'sub', 'abs'):
            if func.__name__ in ('sub', 'abs'):
                return torch.zeros(())
            return torch.tensor(func.__name__ not in ('ne', 'any'))
        return super().__torch_function__(func, types, args, kwargs or {})
def my_k3(logp, logp_rollout):
    return logp.sum().as_subclass(Right)
''',
    "an object that equals all": r'''
class Yes:
    dtype = torch.float64
    shape = torch.Size([])
    __eq__ = __le__ = lambda self, other: True
    __bool__ = lambda self: True
def my_k3(logp, logp_rollout):
    return Yes()
''',
    "a number that equals all": r'''
class Near(float):
    __eq__ = __le__ = __ge__ = __lt__ = lambda self, other: True
    __sub__ = __rsub__ = lambda self, other: 0.0
def my_k3(logp, logp_rollout):
    return Near(3.0)
''',
    "calls the judge back": r'''
import gc
from minizaya.grading.apart import wire
def my_k3(logp, logp_rollout):
    (pipe, *_) = [thing for thing in gc.get_objects() if type(thing).__name__ == 'socket']
    wire.send(pipe, {'callback': 0, 'args': [], 'kwargs': {}})
    return wire.receive(pipe)
''',
    "reject": r'''
def my_k3(logp, logp_rollout):
    import hypothesis
    hypothesis.reject()
''',
    "assume": r'''
def my_k3(logp, logp_rollout):
    import hypothesis
    hypothesis.assume(False)
''',
    "raise the judge's own": r'''
def my_k3(logp, logp_rollout):
    from minizaya.laws.core import NotAttempted
    raise NotAttempted
''',
    "raise what no one catches": r'''
def my_k3(logp, logp_rollout):
    class NotImplementedError(BaseException): pass
    raise SystemExit(0)
''',
    "exit when called": r'''
def my_k3(logp, logp_rollout):
    import os
    os._exit(0)
''',
    "hang when called": r'''
def my_k3(logp, logp_rollout):
    while True: pass
''',
    "print when called": r'''
def my_k3(logp, logp_rollout):
    import sys
    while True: sys.__stderr__.write('x' * 100000)
''',
    "a result of 2 GB": r'''
def my_k3(logp, logp_rollout):
    return torch.ones(2**27, dtype=torch.float64)
''',
    "lists in lists": r'''
def my_k3(logp, logp_rollout):
    found = []
    for _ in range(100000): found = [found]
    return found
''',
    "a number of 10,000 digits": r'''
def my_k3(logp, logp_rollout):
    return 10 ** 10000
''',
    "a name that deceives": r'''
class my_k3:
    def __new__(cls, *args): return True
''',
    "a module": r'''
import math as my_k3
''',
    "ask the answer of a file": r'''
exec(open('13_router_replay.ipynb').read())
''',
    "the answer from the notebook": r'''
import glob, json, re
for path in glob.glob('*.ipynb') + glob.glob('../*.ipynb') + [HERE]:
    try:
        text = ''.join(''.join(c['source']) for c in json.load(open(path))['cells'])
        exec(re.search(r'```python\n(def my_k3.*?)```', text, re.S)[1])
    except OSError:
        pass
''',
}

HOSTILE = {name: f"{code}{WRONG}" for name, code in (BEFORE | BEYOND).items()} | WHOLE
HANG = ("an endless loop", "printing without end", "threads without end", "hang when called", "print when called")
assert set(HANG) <= set(HOSTILE)
