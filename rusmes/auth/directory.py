"""Which addresses are local, and whose mailbox they mean.

The order in which an address of a local domain is looked up; the first that fits wins:

1. an alias for exactly this address,
2. an account with this primary or extra address,
3. the same two without the sub-address ("alice+shop" is "alice"; RFC 5233),
4. postmaster, which always exists (RFC 5321 §4.5.1),
5. the domain's catch-all.

A domain alias ("@example.net" = "@example.com") replaces the domain before all that. Local parts are compared folded.
Addresses that lead back here (`bounces.addresses`) come before all of it: a return path is the account of the return address,
a sender that SRS made is an alias of the sender it stands for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from rusmes.auth.api import Backend
from rusmes.auth.names import canonical_domain, parse_address
from rusmes.bounces.addresses import ReturnAddresses
from rusmes.errors import ConfigError
from rusmes.model.address import Address
from rusmes.model.identity import Identity

if TYPE_CHECKING:
    from rusmes.config.schema import Config


class DomainDirectory:
    """Implements `auth.api.Directory` over [domains] and a backend.

    Raises:
        ConfigError: an alias or catch-all is no address, its domain is not local, or domain aliases lead in a circle.
    """

    def __init__(self, config: Config, backend: Backend, returns: ReturnAddresses | None = None) -> None:
        self._backend = backend
        self.apply(config, returns)

    def apply(self, config: Config, returns: ReturnAddresses | None = None) -> None:
        """Take over a new configuration; a bad one changes nothing. Raises ConfigError."""
        domains = {_domain(text, "domains.local_domains") for text in config.local_domains}
        aliases: list[tuple[Address, tuple[Address, ...]]] = []
        sources: dict[str, str] = {}
        for source, targets in config.domains.aliases.items():
            key = f'domains.aliases."{source}"'
            if source.startswith("@"):
                if len(targets) != 1 or not targets[0].startswith("@"):
                    raise ConfigError('a domain alias has one domain as its target: "@example.net" = "@example.com"', key=key)
                sources[_domain(source[1:], key)] = _domain(targets[0][1:], key)
            else:
                aliases.append((_address(source, key), tuple(_address(target, key) for target in targets)))
        renamed = {source: _follow(source, sources) for source in sources}
        for source, domain in renamed.items():
            if domain not in domains:
                raise ConfigError(f"{domain} is not a local domain", key=f'domains.aliases."@{source}"')
        catch_all = {
            _domain(domain, f'domains.catch_all."{domain}"'): _address(target, f'domains.catch_all."{domain}"')
            for domain, target in config.domains.catch_all.items()
        }
        postmaster = _address(config.postmaster_address, "postmaster")
        for alias, _targets in aliases:
            if alias.domain not in domains and alias.domain not in renamed:
                raise ConfigError(f"{alias.domain} is not a local domain", key=f'domains.aliases."{alias}"')
        if returns is not None and returns.address is not None and returns.address.domain not in domains:
            raise ConfigError(f"{returns.address.domain} is not a local domain", key="returns.address")
        self._domains = frozenset(domains | renamed.keys())
        self._returns = returns
        self._renamed = renamed
        self._primary = canonical_domain(config.domain)
        self._aliases = {self._canonical(alias): targets for alias, targets in aliases}
        self._catch_all = {renamed.get(domain, domain): target for domain, target in catch_all.items()}
        self._delimiters = config.domains.recipient_delimiter
        self._postmaster = postmaster

    # Directory

    def is_local_domain(self, domain: str) -> bool:
        """The empty domain is that of RCPT TO:<postmaster> (RFC 5321 §4.5.1)."""
        return domain in self._domains or not domain

    def account_of(self, address: Address) -> str | Awaitable[str]:
        domain = address.domain
        if domain in self._domains and domain not in self._renamed:
            # Most mail is for an account under its own name: 0.6 us instead of 3.
            name = f"{address.local.lower()}@{domain}"
            if name not in self._aliases:
                account = self._backend.deliverable(name)
                if account and type(account) is str:
                    return account
                return self._search(address, account)
        return self._search(address)

    async def _search(self, address: Address, asked: str | Awaitable[str] = "") -> str:
        """`asked` is what the backend said of the address as it is."""
        found = asked if isinstance(asked, str) else await asked
        if self._returns is not None and self._returns.is_return(address):
            return self._returns.account
        if found:
            return found
        if not self.is_local_domain(address.domain) or self.expand_alias(address) is not None:
            return ""
        account = await self._own_account(address)
        if account:
            return account
        if self._is_postmaster(address):
            return self._postmaster_account()
        target = self._catch_all.get(self._domain_of(address))
        if target is None or not self.is_local_domain(target.domain) or self.expand_alias(target) is not None:
            return ""
        return await self._own_account(target) or (self._postmaster_account() if self._is_postmaster(target) else "")

    async def account_named(self, address: Address) -> str:
        if not self.is_local_domain(address.domain):
            return ""
        account = await self._own_account(address)
        return account or (self._postmaster_account() if self._is_postmaster(address) else "")

    def expand(self, address: Address) -> Sequence[Address] | None:
        if not self.is_local_domain(address.domain):
            return None
        if self._returns is not None:
            if self._returns.srs.is_ours(address):
                sender = self._returns.reverse(address)
                return (sender,) if sender is not None else None
            if self._returns.is_return(address):
                return None
        targets = self.expand_alias(address)
        if targets is not None:
            return targets
        if any(self._backend.known(name) for name in self._names(address)) or self._is_postmaster(address):
            return None
        target = self._catch_all.get(self._domain_of(address))
        if target is None:
            return None
        elsewhere = not self.is_local_domain(target.domain) or self.expand_alias(target) is not None
        return (target,) if elsewhere else None

    async def identity(self, account: str) -> Identity | None:
        found = await self._backend.find(account)
        if found is None and account == self._postmaster.folded:
            return Identity(account=account, addresses=frozenset((account,)))
        return found

    # Inside

    def expand_alias(self, address: Address) -> tuple[Address, ...] | None:
        """What an alias stands for, catch-all apart. Postmaster is one when the configured postmaster is somewhere else."""
        if not self.is_local_domain(address.domain):
            return None
        names = self._names(address)
        for name in names:
            targets = self._aliases.get(name)
            if targets is not None:
                return targets
            if self._backend.known(name):
                return None
        if self._is_postmaster(address) and address.folded != self._postmaster.folded:
            remote = not self.is_local_domain(self._postmaster.domain)
            if remote or any(name in self._aliases for name in self._names(self._postmaster)):
                return (self._postmaster,)
        return None

    async def _own_account(self, address: Address) -> str:
        for name in self._names(address):
            account = self._backend.deliverable(name)
            if not isinstance(account, str):
                account = await account
            if account:
                return account
        return ""

    def _is_postmaster(self, address: Address) -> bool:
        return address.local.lower() == "postmaster" or address.folded == self._postmaster.folded

    def _postmaster_account(self) -> str:
        """An account of its own if nobody has that address: the store makes it with the first mail."""
        return self._canonical(self._postmaster) if self.is_local_domain(self._postmaster.domain) else ""

    def _domain_of(self, address: Address) -> str:
        domain = address.domain or self._primary
        return self._renamed.get(domain, domain)

    def _canonical(self, address: Address) -> str:
        return f"{address.local.lower()}@{self._domain_of(address)}"

    def _names(self, address: Address) -> tuple[str, ...]:
        """The folded addresses under which this one may be known: itself, then without its sub-address."""
        local, domain = address.local.lower(), self._domain_of(address)
        for at, char in enumerate(local):
            if at and char in self._delimiters:
                return (f"{local}@{domain}", f"{local[:at]}@{domain}")
        return (f"{local}@{domain}",)


def _domain(text: str, key: str) -> str:
    domain = canonical_domain(text)
    if not domain:
        raise ConfigError(f"{text!r} is not a domain", key=key)
    return domain


def _address(text: str, key: str) -> Address:
    address = parse_address(text)
    if address is None:
        raise ConfigError(f"{text!r} is not an address", key=key)
    return address


def _follow(source: str, renamed: dict[str, str]) -> str:
    """Where a chain of domain aliases ends."""
    seen = {source}
    domain = renamed[source]
    while domain in renamed:
        if domain in seen:
            raise ConfigError("domain aliases lead in a circle", key=f'domains.aliases."@{source}"')
        seen.add(domain)
        domain = renamed[domain]
    return domain
