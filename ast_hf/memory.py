"""How the C library deals with memory, which a third of a trunk's time on a CPU hangs on."""

from __future__ import annotations

import ctypes

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_ALWAYS, _STEP = 2**31 - 1, 64 * 2**20


def keep_freed_memory() -> bool:
    """Has the C library keep what tensors give back, for the next ones, until the process ends.

    As it comes, glibc returns every large block to the system, and the next layer's activations are then mapped and
    zeroed anew, page by page. For programs whose main work is computing on a CPU, to be called before that; the
    process keeps as much memory as it once needed. Not called by the library itself, since it changes the process.

    Returns:
        Whether it could be set: only glibc, that is most Linuxes, has it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    settings = {_M_MMAP_THRESHOLD: _ALWAYS, _M_TRIM_THRESHOLD: _ALWAYS, _M_TOP_PAD: _STEP}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
