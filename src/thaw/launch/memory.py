"""Keep freed memory in the process.

glibc returns every large block to the kernel as soon as it is freed, and a net's layers free and
ask for such blocks all the time: the kernel zeroes the same pages again and again, which takes more
than half of a CPU's time in a convolutional net.
"""

import ctypes
import platform

# malloc.h; values are ints, bytes
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEP = 2**31 - 1  # free memory at the heap's top above which it is returned
PAD = 64 * 2**20  # the heap grows by this much at once
MAPS = (
    0  # blocks outside of the heap, which are returned one by one; it would be those above 32 MiB
)


def keep_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; False, and nothing done, elsewhere."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        mallopt(option, value) == 1
        for option, value in ((M_MMAP_MAX, MAPS), (M_TRIM_THRESHOLD, KEEP), (M_TOP_PAD, PAD))
    )
