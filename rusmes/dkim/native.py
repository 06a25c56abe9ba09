"""Where libcrypto is in this process: Python's own `_hashlib` is linked with it.

A Python that has OpenSSL built in does not show its functions; there `find` finds nothing, and keys sign by `cryptography`, one
after the other. The result is the same.
"""

from __future__ import annotations

import _hashlib
import ctypes

from rusmes._core import evp


def find() -> bool:
    """Make libcrypto known to `_core.evp`, once; whether it is."""
    if evp.is_usable():
        return True
    try:
        library = ctypes.CDLL(_hashlib.__file__)
        addresses = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in evp.NAMES]
        evp.use(addresses)
    except (OSError, AttributeError, ValueError):
        return False
    return True
