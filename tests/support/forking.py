"""Work in a forked process, which imports nothing anew."""

import os
import signal
import sys
import traceback
from collections.abc import Callable


def forked(work: Callable[[], object]) -> int:
    """Return the exit status of a forked process: 1 if the work raised, below 0 if a signal ended it.

    What the work does to modules, limits and signals ends with the process. It must run no backward pass:
    autograd refuses to after a fork where there is a GPU.
    """
    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(300)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
