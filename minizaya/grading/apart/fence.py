"""What a student's process may not do: read the library's text, write elsewhere, start programs, reach a network.

Four walls, and `raise_walls` says which of them this system has:

    limits     memory, CPU time and the size of files (setrlimit): everywhere but Windows
    files      Landlock, Linux 5.13 and later: what may be read and written, by folder; nobody inside can lift it
    calls      seccomp, Linux on x86-64 and arm64: no sockets, no new processes, no signals to others, and what Landlock
               leaves open: rights and times of other files, memory and queues that outlive us, others' priority
    hook       Python's audit hook, everywhere: the same for whoever stays within Python; machine code can get around it

No name spaces: they need rights that a plain user often has not, and these walls need none.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
READ, ALL = 0b1101, 0b1111111111111     # Landlock: execute, read a file, read a folder; and everything of version 1
FILE = 0b111                            # what a single file can be given: execute, write, read
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/opt")

# Forbidden calls of the kernel: their numbers on x86-64 and arm64, None where there is no such call
CALLS = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "setpgid": (109, 154), "setsid": (112, 157), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "bpf": (321, 280), "io_uring_setup": (425, 425),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "setrlimit": (160, 164),
    "init_module": (175, 105), "finit_module": (313, 273), "reboot": (169, 142), "clock_settime": (227, 112),
    "open_by_handle_at": (304, 265),
    # of any file of the same user: a classmate's notebook, too
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    # stays when the process is gone, and the next student's may read it
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    # of any process of the same user: the judge's, too
    "setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "ioprio_set": (251, 30), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "process_madvise": (440, 440),
}
CLONE, CLONE3, PRLIMIT, CLONE_THREAD = (56, 220), 435, (302, 261), 0x10000
FCNTL, OWNERS = (72, 25), (8, 10, 15)      # who gets the signal of a file, and which: F_SETOWN, F_SETSIG, F_SETOWN_EX
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}      # column above, and the kernel's own name
ALLOW, REFUSE, ABSENT = 0x7FFF0000, 0x00050001, 0x00050026              # EPERM; ENOSYS, so that glibc tries `clone`


def raise_walls(scratch: Path, memory: int, seconds: int) -> list[str]:
    """Closes this process in, for good; only `scratch` may be written. memory: bytes more than it has now; seconds: of
    CPU time. Returns the walls that stand. Never raises: a wall that this system lacks is missing from the list."""
    walls = []
    with contextlib.suppress(OSError, ValueError):
        limit(memory, seconds)
        walls.append("limits")
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux":
        libc.prctl(1, 9, 0, 0, 0)           # PR_SET_PDEATHSIG: die with the judge
        libc.prctl(4, 0, 0, 0, 0)           # PR_SET_DUMPABLE: nobody reads our memory
        libc.prctl(38, 1, 0, 0, 0)          # PR_SET_NO_NEW_PRIVS, which the next two ask for
        if landlock(libc, [*readable(), *DEVICES], scratch):
            walls.append("files")
        if seccomp(libc):
            walls.append("calls")
    sys.addaudithook(hook(scratch))
    return [*walls, "hook"]


def limit(memory: int, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**26, 2**26))
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


# ---- files -----------------------------------------------------------------------------------------------------------


def readable() -> list[Path]:
    """The system, Python and its packages; not our own text, nor the repository, where the answers are."""
    places = {Path(place).resolve() for place in (*SYSTEM, sys.prefix, sys.base_prefix, *filter(None, sys.path))}
    return [part for place in sorted(places) if place.exists() for part in around(place)] + [PACKAGE / "checkpoints"]


def around(place: Path) -> list[Path]:
    """The place; where our package lies in it, or further down: all of it but that."""
    if (place / "minizaya").is_dir():
        repository = (place / "pyproject.toml").is_file()
        return [] if repository else [child for child in place.iterdir() if child.name != "minizaya"]
    if PACKAGE.is_relative_to(place):
        return [part for child in place.iterdir() for part in around(child)]
    return [place]


def landlock(libc: ctypes.CDLL, reading: Iterable[str | Path], scratch: Path) -> bool:
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        return False
    handled = ALL | sum(1 << bit for bit, since in ((13, 2), (14, 3), (15, 5)) if version >= since)
    rules = struct.pack("<QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)   # no TCP, no signals
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(444, rules, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    for path in [*reading, scratch]:
        allowed = handled if path == scratch else FILE if str(path) in DEVICES else READ
        with contextlib.suppress(OSError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed &= handled if os.path.isdir(path) else FILE
            libc.syscall(445, ruleset, 1, struct.pack("<Qi", allowed, place), 0)
            os.close(place)
    done = libc.syscall(446, ruleset, 0)
    os.close(ruleset)
    return done == 0


# ---- calls -----------------------------------------------------------------------------------------------------------


def seccomp(libc: ctypes.CDLL) -> bool:
    """A filter of (code, where to if so, where to if not, number) for the kernel, which then runs it at each call."""
    if platform.machine() not in MACHINES:
        return False
    column, name = MACHINES[platform.machine()]
    load, equal, over, bits, back = 0x20, 0x15, 0x35, 0x45, 0x06
    lines = [(load, 0, 0, 4), (equal, 1, 0, name), (back, 0, 0, REFUSE), (load, 0, 0, 0),
             (over, 0, 1, 0x40000000), (back, 0, 0, REFUSE)]
    for numbers in CALLS.values():
        if numbers[column] is not None:
            lines += [(equal, 0, 1, numbers[column]), (back, 0, 0, REFUSE)]
    lines += [(equal, 0, 1, CLONE3), (back, 0, 0, ABSENT)]
    # a thread may be made, a process may not; limits may be read, not changed
    lines += [(equal, 0, 4, CLONE[column]), (load, 0, 0, 16), (bits, 1, 0, CLONE_THREAD), (back, 0, 0, REFUSE),
              (back, 0, 0, ALLOW)]
    lines += [(equal, 0, 6, PRLIMIT[column]), (load, 0, 0, 32), (equal, 0, 2, 0), (load, 0, 0, 36), (equal, 1, 0, 0),
              (back, 0, 0, REFUSE), (back, 0, 0, ALLOW)]
    lines += [(equal, 0, 6, FCNTL[column]), (load, 0, 0, 24)]
    lines += [(equal, len(OWNERS) - i, 0, command) for i, command in enumerate(OWNERS)]
    lines += [(back, 0, 0, ALLOW), (back, 0, 0, REFUSE)]
    lines += [(back, 0, 0, ALLOW)]
    program = b"".join(struct.pack("<HBBI", *line) for line in lines)
    held = ctypes.create_string_buffer(program)
    whole = struct.pack("<HxxxxxxQ", len(lines), ctypes.addressof(held))
    return libc.prctl(22, 2, whole, 0, 0) == 0


# ---- the hook --------------------------------------------------------------------------------------------------------

REFUSED = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill",
           "os.killpg", "socket.__new__", "socket.connect", "pty.spawn", "os.chmod", "os.chown", "os.utime",
           "os.setxattr", "os.removexattr")


def hook(scratch: Path) -> Callable[[str, tuple], None]:
    hidden, own = (str(PACKAGE), str(PACKAGE.parent / "lessons"), str(PACKAGE.parent / "tests")), str(scratch)
    kept, real, text, refuse = str(PACKAGE / "checkpoints"), os.path.realpath, os.fspath, PermissionError

    def watch(event: str, args: tuple) -> None:
        if event in REFUSED:
            raise refuse(f"not while you are graded: {event}")
        if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
            path = real(os.fsdecode(text(args[0])))
            if path.startswith(hidden) and not path.startswith((kept, own)):
                raise refuse(f"not while you are graded: the library's own text, {path}")

    return watch
