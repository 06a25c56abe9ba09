"""The addresses that lead back here: which there are in a configuration, and with what key they are made."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from typing import Final

from rusmes.bounces.srs import Rewriter
from rusmes.bounces.verp import ReturnPath, ReturnPaths
from rusmes.clock import Clock
from rusmes.config import names
from rusmes.config.schema import Config
from rusmes.errors import ConfigError
from rusmes.model.address import Address

SECRET_NAME: Final = "returns.key"
SECRET_BYTES: Final = 32
DAY_SECONDS: Final = 86400.0


class ReturnAddresses:
    """VERP return paths of [returns] address, and SRS senders of the SRS domain.

    `secrets` has at least one; see `secrets_of`.
    """

    def __init__(self, config: Config, keys: tuple[bytes, ...], clock: Clock) -> None:
        """Raises ConfigError: the address or the domain is none."""
        returns = config.returns
        self._clock = clock
        self.address: Address | None = None
        self.paths: ReturnPaths | None = None
        self._former: tuple[ReturnPaths, ...] = ()
        try:
            if returns.address:
                self.address = names.address(returns.address)
                age = int(returns.max_age / DAY_SECONDS)
                self.paths, *former = (ReturnPaths(self.address, key, max_age_days=age) for key in keys)
                self._former = tuple(former)
            domain = names.domain_name(returns.srs_domain or config.domain)
        except ValueError as error:
            raise ConfigError(str(error), key="returns") from None
        self.srs = Rewriter(domain, keys, max_age_days=int(returns.srs_max_age / DAY_SECONDS))

    @property
    def account(self) -> str:
        """Where mail to the return address goes that is no report; "" = there is no return address."""
        return self.address.folded if self.address is not None else ""

    def is_return(self, address: Address) -> bool:
        """Whether mail to this address is a report or should be one."""
        return self.paths is not None and (self.paths.is_ours(address) or address.folded == self.account)

    def is_return_path(self, address: Address) -> bool:
        """Whether it has the form of a return path that VERP makes, genuine or not."""
        return self.paths is not None and self.paths.is_ours(address)

    def read(self, address: Address) -> ReturnPath | None:
        """What a return path says; None: forged, too old, or none."""
        now = self._clock.now()
        for paths in (self.paths, *self._former):
            found = paths.read(address, now) if paths is not None else None
            if found is not None:
                return found
        return None

    def make(self, recipient: Address, tenant: str = "") -> Address | None:
        """The return path of mail to a recipient; None = there is no return address."""
        return self.paths.make(recipient, self._clock.now(), tenant) if self.paths is not None else None

    def forward(self, sender: Address) -> Address:
        """The SRS sender; the sender itself when that would be too long."""
        try:
            return self.srs.forward(sender, self._clock.now())
        except ValueError:
            return sender

    def reverse(self, address: Address) -> Address | None:
        """Where mail to an SRS sender leads; None: forged, too old, or none."""
        return self.srs.reverse(address, self._clock.now())


def secrets_of(config: Config, *, create: bool) -> tuple[bytes, ...]:
    """The keys; without any in the configuration, the one in the data directory, which `create` makes.

    Raises:
        ConfigError: it cannot be read or made.
    """
    if config.returns.secrets:
        return tuple(secret.encode() for secret in config.returns.secrets)
    path = os.path.join(config.storage.path, SECRET_NAME)
    try:
        if create and not os.path.exists(path):
            _make(path)
        with open(path, "rb") as file:
            key = file.read(1024)
    except FileNotFoundError:
        if create:
            raise ConfigError(f"{path} cannot be made: there is no such directory", key="returns") from None
        return (secrets.token_bytes(SECRET_BYTES),)  # a check touches nothing, and makes no address
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", key="returns") from None
    if len(key) < SECRET_BYTES:
        raise ConfigError(f"{path} is damaged: {len(key)} of {SECRET_BYTES} bytes", key="returns")
    return (key,)


def _make(path: str) -> None:
    """Several processes may do so at once; one of them wins, and no one sees half of it."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=f"{SECRET_NAME}.", dir=os.path.dirname(path))  # 0600
    try:
        os.write(descriptor, secrets.token_bytes(SECRET_BYTES))
        os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.close(descriptor)
        os.unlink(draft)
