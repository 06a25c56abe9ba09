"""Matchers of the session a mail came from."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from msgspec import Struct

from rusmes._core import mailet as core
from rusmes.config.units import Networks
from rusmes.mailet.api import EVERYONE, NOBODY, Match, Toolbox
from rusmes.mailet.matchers.envelope import NoParameters
from rusmes.model.mail import Mail

ADDRESSES_REMEMBERED: Final = 4096
"""Reading an address and comparing it with a network takes 3 us, remembering it 0.1; busy relays see few clients."""


class RelayAllowed(core.MayRelay):
    """Recipients to whom this mail may be relayed.

    All of them, when the client is authenticated or in [security] relay_networks; else those that this server's own
    configuration chose (aliases, forwards, copies).
    """

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        pass


class SMTPAuthSuccessful(core.LoggedIn):
    """Everyone, when the client is authenticated."""

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        pass


class NetworkList(Struct, frozen=True):
    networks: Networks
    """Networks and single addresses; a list, or one string with commas between them."""


class RemoteAddrInNetwork:
    """Everyone, when the client's address is in one of these networks; never for mail made here."""

    Parameters = NetworkList

    def __init__(self, parameters: NetworkList, toolbox: Toolbox) -> None:
        self._contains = lru_cache(ADDRESSES_REMEMBERED)(parameters.networks.contains)

    def match(self, mail: Mail) -> Match:
        address = mail.origin.client_address
        return EVERYONE if address and self._contains(address) else NOBODY
