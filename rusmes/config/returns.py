"""Keys of [returns] and [suppression]: what comes back from other servers, and to whom nothing is sent any more. Rules as in
`schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from rusmes.config import names
from rusmes.config.problems import Collector
from rusmes.config.units import Duration, Secret


class Returns(Struct, frozen=True, kw_only=True):
    """Reports of other servers about our mail, and the addresses they come back to."""

    address: str = ""
    """Where reports come back: "bounces@example.com"; BounceProcessor reads them. "" = nowhere."""
    max_age: Duration = Duration("30d")
    """How long a return path that VERP made is good."""
    secrets: tuple[Secret, ...] = ()
    """Keys of the addresses that VERP and SRS make: the first makes, all are good. [] = one is kept in the data directory."""
    rules: tuple[str, ...] = ()
    """Files of [[rule]]: what replies and reports mean; asked before the bundled ones."""
    srs_domain: str = ""
    """Domain of the senders that SRS makes; it must be local. "" = [domain]."""
    srs_max_age: Duration = Duration("21d")
    """How long a sender that SRS made leads back."""
    keep_reports: bool = False
    """Reports that were read are put into the mailbox of `address` too; what is no report always is."""


class Suppression(Struct, frozen=True, kw_only=True):
    """Addresses to which nothing is sent any more, because they do not exist or their users complained."""

    enabled: bool = False
    """RemoteDelivery refuses them, and refusals and reports add to them."""
    bounces: Annotated[int, Meta(ge=1, le=100)] = 1
    """After how many permanent refusals of the address itself."""
    bounce_max_age: Duration = Duration("180d")
    """Then the address is tried again. 0 = never."""
    complaint_max_age: Duration = Duration("0s")
    """The same after a complaint."""
    action: Literal["reject", "drop"] = "reject"
    """What becomes of a suppressed recipient: the sender is told (550 5.7.1), or it ends with a line in the log."""


def check_returns(returns: Returns, problems: Collector) -> None:
    """What must hold between the keys of [returns]."""
    if returns.address:
        try:
            names.address(returns.address)
        except ValueError as error:
            problems.add(("returns", "address"), str(error))
    for number, secret in enumerate(returns.secrets):
        if len(secret) < 16:
            problems.add(("returns", "secrets", number), "must have 16 characters or more")
    for key in ("max_age", "srs_max_age"):
        if getattr(returns, key) < 86400:
            problems.add(("returns", key), "must be a day or longer")
