"""Many signatures without the GIL between them, by the libcrypto that Python itself uses.

A library call for each signature takes the GIL back after each one, and beside a busy event loop every time may cost the switch
interval (0.5 ms in a worker, more than the signature itself). Nothing here is linked: `use` is told where the functions are.
"""

from typing import Final, final

NAMES: Final[tuple[str, ...]]
"""The functions of libcrypto whose addresses `use` wants."""

def use(addresses: list[int]) -> None:
    """Take the functions of NAMES at these addresses.

    Raises:
        ValueError: one is missing.
    """

def is_usable() -> bool:
    """Whether `use` was called."""

@final
class NativeKey:
    """A private key of libcrypto, from PKCS #8 or PKCS #1 in DER. `hashes`: it signs a SHA-256 hash that it makes (RSA)."""

    def __new__(cls, der: bytes, *, hashes: bool) -> NativeKey:
        """Raises ValueError: it is none, or `use` was not called."""

def sign_all(pairs: list[tuple[NativeKey, bytes]]) -> list[bytes]:
    """The signature of each; b"" where it cannot be made. The list must not be changed meanwhile."""
