"""The sites of one runner at a glance: what waits, what is under way, and what stops it."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from typing import Any

from rusmes.queue.api import Deliverer
from rusmes.queue.sites import Site


def overview(
    sites: Iterable[Site], deliverer: Deliverer, now: float, limit: int, names: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The sites with the most mail, or those with these names; times are seconds since the epoch, 0 = there is none.

    A pass over all of them takes a microsecond for each, and only those that are shown are asked for more.
    """
    own = (site for site in sites if not site.key.startswith("\0") and (not names or site.name in names))
    found = heapq.nlargest(limit, ((_waiting(site) + site.workers, site.key, site) for site in own), key=lambda row: row[:2])
    return [_row(site, deliverer, now) for _, _, site in found]


def _waiting(site: Site) -> int:
    return sum(len(flow.ready) + len(flow.parked) for flow in site.queue.flows())


def _row(site: Site, deliverer: Deliverer, now: float) -> dict[str, Any]:
    stop = site.stop or deliverer.not_before(site.key)
    blocked = [flow.blocked_until for flow in site.queue.flows() if flow.blocked_until]
    return {
        "key": site.key,
        "site": site.name,
        "source": site.source,
        "waiting": _waiting(site),
        "active": site.workers,
        "window": site.window,
        "limit": site.limits.connections,
        "tenants": len({flow.tenant for flow in site.queue.flows() if flow.ready or flow.parked}),
        "paused": site.pause is not None,
        "suspended": site.is_suspended,
        "suspended_flows": len(blocked),
        "stopped_until": now + min(stop.retry_after, 1e9) if stop is not None else 0.0,
        "stop_reason": (f"{stop.code} " if stop.code else "") + (stop.reason or "busy") if stop is not None else "",
    }
