"""Channel binding `tls-exporter` (RFC 9266), which clients use with TLS 1.3 and Python's ssl module does not give.

OpenSSL has it (`SSL_export_keying_material`, RFC 5705 and RFC 8446 §7.5), and Python has the `SSL *`: in `_ssl.c` a
PySSLSocket begins with the object's head, a weak reference, `SSL *ssl`, and `PySSLContext *ctx`, from Python 3.7 to 3.14.
The pointer is only used when the word behind it is the very context object the connection has, which no other layout would
have there. Where that fails, or the function is not to be found (a Python with OpenSSL linked in), there is no such binding,
and SCRAM-SHA-256-PLUS is not offered.
"""

from __future__ import annotations

import _ssl
import ctypes
from functools import cache
from typing import Any, Final

LABEL: Final = b"EXPORTER-Channel-Binding"
"""RFC 9266 §2."""

LENGTH: Final = 32

_POINTER_BYTES: Final = ctypes.sizeof(ctypes.c_void_p)
_SSL_AT: Final = object.__basicsize__ + _POINTER_BYTES
_CONTEXT_AT: Final = _SSL_AT + _POINTER_BYTES


def exported_binding(ssl_object: Any) -> bytes:
    """The 32 octets of `tls-exporter` on a connection (an `ssl.SSLObject` after its handshake), b"" when there are none."""
    inner = getattr(ssl_object, "_sslobj", None)
    export = _function()
    if inner is None or export is None or type(inner).__basicsize__ < _CONTEXT_AT + _POINTER_BYTES:
        return b""
    if ctypes.c_void_p.from_address(id(inner) + _CONTEXT_AT).value != id(inner.context):
        return b""
    pointer = ctypes.c_void_p.from_address(id(inner) + _SSL_AT).value
    if not pointer:
        return b""
    out = ctypes.create_string_buffer(LENGTH)
    done: int = export(pointer, out, LENGTH, LABEL, len(LABEL), b"", 0, 1)
    return out.raw if done == 1 else b""


@cache
def _function() -> Any:
    path = getattr(_ssl, "__file__", None)
    try:
        export: Any = ctypes.CDLL(path).SSL_export_keying_material
    except (OSError, AttributeError):
        return None
    export.restype = ctypes.c_int
    export.argtypes = (
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p,
        ctypes.c_size_t, ctypes.c_int,
    )  # fmt: skip
    return export
