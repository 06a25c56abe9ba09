"""How the C library hands out memory; the supervisor says it once, and its workers inherit it.

uvloop allocates a buffer of 256 KiB for every TLS connection and touches a page or two of it. glibc takes such blocks from its
heap once one of them was freed (its threshold for mmap grows by itself, up to 32 MiB), where what the others touched stays:
an idle TLS connection then costs 53 KB, and 31 KB with a threshold that stays (1,000 connections, OpenSSL 3.0).
"""

from __future__ import annotations

import ctypes
from typing import Final

M_MMAP_THRESHOLD: Final = -3
"""mallopt(3)."""
MMAP_THRESHOLD_BYTES: Final = 192 * 1024


def keep_large_blocks_apart() -> bool:
    """Whether the C library could be told; only glibc can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES))
