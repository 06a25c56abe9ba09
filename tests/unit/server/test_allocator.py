"""The C library is told once, before workers exist."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import ctypes, os
from rusmes.server.allocator import MMAP_THRESHOLD_BYTES, keep_large_blocks_apart
assert keep_large_blocks_apart()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
c.free(c.malloc(2 * MMAP_THRESHOLD_BYTES))  # would raise a threshold that grows
block = c.malloc(2 * MMAP_THRESHOLD_BYTES)
heap = [line for line in open("/proc/self/maps") if "[heap]" in line][0].split()[0]
low, high = (int(end, 16) for end in heap.split("-"))
print(low <= block < high)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_stay_out_of_the_heap() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
