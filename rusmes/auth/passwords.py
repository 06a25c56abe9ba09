"""Passwords at rest: argon2id (RFC 9106) for PLAIN and LOGIN, derived keys for SCRAM (RFC 5802 §3, RFC 7677).

Verification costs milliseconds on purpose, so it runs in a small pool of threads (argon2 and PBKDF2 give up the GIL).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2 import exceptions as argon2_exceptions

from rusmes.auth.api import ScramCredentials
from rusmes.errors import AuthUnavailable, RusmesError
from rusmes.sasl.prepare import prepare_password

T = TypeVar("T")

MAX_PASSWORD_OCTETS: Final = 1024
"""Octets; longer ones are refused before they are hashed. Dovecot stops at 8 KiB of SASL data, bcrypt at 72."""

SCRAM_ITERATIONS: Final = 32768
"""PBKDF2 rounds; RFC 7677 §4 asks for at least 4096 (PostgreSQL's and mox's number). A stolen file is attacked through its
weakest secret, so this one is higher; the client pays, about 10 ms."""

SCRAM_SALT_BYTES: Final = 16

QUEUE_LENGTH: Final = 128
"""Verifications that may wait for a thread; more is answered "try again later" (2 s of waiting at 15 ms each)."""


class Hasher:
    """Makes and checks argon2id hashes with one set of parameters.

    The defaults are those OWASP recommends (19 MiB, 2 passes, 1 lane): about 15 ms, and a memory peak of 19 MiB a thread.
    """

    def __init__(
        self,
        *,
        time_cost: int = 2,
        memory_kib: int = 19 * 1024,
        parallelism: int = 1,
        scram_iterations: int = SCRAM_ITERATIONS,
    ) -> None:
        self._argon2 = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=parallelism)
        self.scram_iterations = scram_iterations
        self._decoy = ""

    def hash(self, password: str) -> str:
        """The PHC string of a password.

        Raises:
            RusmesError: the password is empty, too long, or holds characters SASLprep forbids.
        """
        return self._argon2.hash(checked_password(password))

    def verify(self, password: str, phc: str) -> bool:
        """Whether the password matches; with `phc` "" it never does, but takes as long (no oracle for account names)."""
        try:
            prepared = checked_password(password)
        except RusmesError:
            prepared, phc = "x", ""
        try:
            self._argon2.verify(phc or self._decoy_hash(), prepared)
        except (argon2_exceptions.VerificationError, argon2_exceptions.InvalidHashError):
            return False
        return bool(phc)

    def is_outdated(self, phc: str) -> bool:
        """Whether the hash was made with other parameters than those in force."""
        try:
            return self._argon2.check_needs_rehash(phc)
        except argon2_exceptions.InvalidHashError:
            return True

    def scram_keys(self, password: str, *, salt: bytes = b"") -> ScramCredentials:
        """What SCRAM-SHA-256 keeps instead of the password.

        Raises:
            RusmesError: as `hash`.
        """
        return derive_scram(checked_password(password), salt or os.urandom(SCRAM_SALT_BYTES), self.scram_iterations)

    def _decoy_hash(self) -> str:
        if not self._decoy:
            self._decoy = self._argon2.hash(os.urandom(16).hex())
        return self._decoy


def checked_password(password: str) -> str:
    """The prepared form of a password (RFC 4013).

    Raises:
        RusmesError: it is empty, too long, or holds forbidden characters.
    """
    if not password:
        raise RusmesError("the password is empty")
    if len(password) > MAX_PASSWORD_OCTETS or len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_OCTETS:
        raise RusmesError(f"the password is longer than {MAX_PASSWORD_OCTETS} octets")
    try:
        prepared = prepare_password(password)
    except ValueError as error:
        raise RusmesError("the password holds characters that passwords must not have", str(error)) from None
    if not prepared:
        raise RusmesError("the password is empty")
    return prepared


def is_argon2id(phc: str) -> bool:
    """Whether the text looks like an argon2id hash; its bytes are checked when it is used."""
    return phc.startswith("$argon2id$v=19$m=") and phc.count("$") == 5


def derive_scram(prepared: str, salt: bytes, iterations: int) -> ScramCredentials:
    """RFC 5802 §3: SaltedPassword, ClientKey, StoredKey, ServerKey; of an already prepared password."""
    salted = hashlib.pbkdf2_hmac("sha256", prepared.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return ScramCredentials(
        mechanism="SCRAM-SHA-256",
        salt=salt,
        iterations=iterations,
        stored_key=hashlib.sha256(client_key).digest(),
        server_key=hmac.digest(salted, b"Server Key", "sha256"),
    )


def decoy_scram(secret: bytes, account: str, iterations: int) -> ScramCredentials:
    """Credentials of an account that does not exist: the same every time, matched by no password."""
    material = hmac.digest(secret, account.encode("utf-8", "surrogatepass"), "sha512")
    keys = hmac.digest(secret, material, "sha512")
    return ScramCredentials(
        mechanism="SCRAM-SHA-256",
        salt=material[:SCRAM_SALT_BYTES],
        iterations=iterations,
        stored_key=keys[:32],
        server_key=keys[32:],
    )


def format_scram(credentials: ScramCredentials) -> str:
    """The text form of RFC 5803: `SCRAM-SHA-256$iterations:salt$stored:server`."""
    salt, stored, server = (
        base64.b64encode(part).decode() for part in (credentials.salt, credentials.stored_key, credentials.server_key)
    )
    return f"{credentials.mechanism}${credentials.iterations}:{salt}${stored}:{server}"


def parse_scram(text: str) -> ScramCredentials:
    """The inverse of `format_scram`.

    Raises:
        ValueError: the text is not of that form.
    """
    mechanism, _, rest = text.partition("$")
    parameters, _, keys = rest.partition("$")
    iterations, _, salt = parameters.partition(":")
    stored, _, server = keys.partition(":")
    if mechanism != "SCRAM-SHA-256" or not iterations.isdecimal():
        raise ValueError("expected SCRAM-SHA-256$iterations:salt$stored:server")
    try:
        parts = [base64.b64decode(part, validate=True) for part in (salt, stored, server)]
    except binascii.Error:
        raise ValueError("salt and keys are base64") from None
    if not parts[0] or len(parts[1]) != 32 or len(parts[2]) != 32 or not 1 <= int(iterations) <= 10_000_000:
        raise ValueError("a salt, two keys of 32 octets and a number of iterations are expected")
    return ScramCredentials(mechanism, parts[0], int(iterations), parts[1], parts[2])


class HashingPool:
    """A few threads for work that burns CPU on purpose, with a bounded queue in front."""

    def __init__(self, threads: int = 0, *, queue_length: int = QUEUE_LENGTH) -> None:
        self._executor = ThreadPoolExecutor(threads or min(2, os.cpu_count() or 1), thread_name_prefix="hashing")
        self._queue_length = queue_length
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work()`, run in a thread.

        Raises:
            AuthUnavailable: too much is waiting already.
        """
        if self._waiting >= self._queue_length:
            raise AuthUnavailable("authentication is overloaded", f"{self._waiting} verifications are waiting")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Stop the threads; what is running is finished first."""
        self._executor.shutdown(wait=True, cancel_futures=True)
