"""One process a run folder: two would write into each other's log, and remove each other's checkpoints.

The lock is the system's, on the file run.lock. It ends with its owner, however that ends, so none is ever stale; the
file itself stays, and says nothing. It is filelock's, which knows every system's way.
"""

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout


def try_lock(path: Path, shared: bool = False) -> BaseFileLock | None:
    """The lock on the file `path`, or None while somebody else holds it. Raises OSError where it cannot be written.

    shared: this process may hold it several times; else one holder is refused whatever the process of the other.
    Where the file system has no locks (some network's) everybody gets one.
    """
    lock = FileLock(path, thread_local=False, is_singleton=shared)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except NotImplementedError:
        pass
    return lock


class RunLock:
    """This process's hold on a run folder; folder None: there is nothing to hold.

    Take it and release it, or use it in a `with` block. Whoever forgets lets go when the object goes.
    """

    def __init__(self, folder: Path | None):
        self.folder, self.lock = folder, None

    def take(self) -> None:
        """Makes the folder, too. Raises ValueError while another process has it, OSError where it cannot be written."""
        if self.folder is None or self.lock is not None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = try_lock(self.folder / "run.lock", shared=True)
        except OSError as error:
            why = f"cannot write into the run folder {self.folder} ({error.strerror})"
            raise OSError(error.errno, why) from error
        if self.lock is None:
            raise ValueError(f"{self.folder}: another process trains there; wait for it, or choose another folder")

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *error) -> None:
        self.release()

    def __del__(self):
        self.release()
