"""Keys of [overload]: when new mail is refused for load. Rules as in `schema`; what happens then is in docs/overload.md."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from rusmes.config.units import Duration


class Overload(Struct, frozen=True, kw_only=True):
    """When load is shed: connections are capped, strangers first; with half of the rest of memory gone, all new mail waits."""

    max_commit_delay: Duration = Duration("250ms")
    """No message waits less than this for its commit."""
    max_loop_delay: Duration = Duration("100ms")
    """A worker's event loop is never less late than this."""
    max_memory: Annotated[int, Meta(ge=1, le=100)] = 90
    """Percent of the memory of the machine, or of its cgroup, that are in use and cannot be taken back; 100 = never."""
    command_timeout: Duration = Duration("10s")
    """Instead of [smtp] command_timeout, while load is shed."""
    data_timeout: Duration = Duration("60s")
    """Instead of [smtp] data_timeout, while load is shed."""
