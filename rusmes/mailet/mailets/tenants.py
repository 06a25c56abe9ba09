"""For whom a mail is sent, and as part of what: said by the configuration, or by fields of its header."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from rusmes.errors import ConfigError
from rusmes.mailet.api import CONTINUE, Decision, Toolbox
from rusmes.mailet.mailets.marks import remove_fields
from rusmes.mailet.rendering import field_values
from rusmes.model.mail import Mail
from rusmes.queue.api import CAMPAIGN, TENANT

MAX_NAME: Final = 200
"""Characters; the names are keys of queues, limits and suspensions."""


class SetTenantParameters(Struct, frozen=True):
    tenant: str = ""
    """The tenant's name, where the header says nothing. Without one it is the account that sent the mail."""
    tenant_header: str = ""
    """The field whose first value names the tenant: believe it of clients only whose fields you trust."""
    campaign: str = ""
    """The campaign's name, where the header says nothing."""
    campaign_header: str = ""
    """The field whose first value names the campaign."""
    keep_headers: bool = False
    """Leave these fields in the mail; else they are taken out."""


class SetTenant:
    """Says for whom a mail is sent, and in which campaign: the parts that share a site fairly, and can be suspended."""

    Parameters = SetTenantParameters

    def __init__(self, parameters: SetTenantParameters, toolbox: Toolbox) -> None:
        if not any((parameters.tenant, parameters.tenant_header, parameters.campaign, parameters.campaign_header)):
            raise ConfigError("SetTenant names no tenant, no campaign and no field of the header")
        self._tenant = parameters.tenant_header, parameters.tenant
        self._campaign = parameters.campaign_header, parameters.campaign
        fields = {parameters.tenant_header.lower(), parameters.campaign_header.lower()} - {""}
        self._removed: frozenset[str] = frozenset(() if parameters.keep_headers else fields)

    def service(self, mail: Mail) -> Decision:
        for attribute, (field, name) in ((TENANT, self._tenant), (CAMPAIGN, self._campaign)):
            value = _first_value(mail, field) or name
            if value:
                mail.attributes[attribute] = value
        if self._removed:
            remove_fields(mail, self._removed)
        return CONTINUE


def _first_value(mail: Mail, field: str) -> str:
    if not field:
        return ""
    values = field_values(mail, field)
    value = " ".join(values[0].decode("utf-8", "replace").split())[:MAX_NAME] if values else ""
    return value if value.isprintable() else ""
