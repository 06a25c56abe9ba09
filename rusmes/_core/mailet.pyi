"""The pipeline's dispatch loop, the matchers worth C, and scans of a header block.

This module knows mails, matchers, mailets and decisions only by the attributes it uses; `rusmes.mailet.api` says what they are.
"""

from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar, final

from typing_extensions import disjoint_base

from rusmes._core.counters import Histogram, Metrics

_M = TypeVar("_M")

@final
class Everyone:
    """The answer "all recipients", without building a collection."""

EVERYONE: Final[Everyone]
NOBODY: Final[tuple[()]]

def fork(mail: _M, recipients: list[Any]) -> _M:
    """A mail like `mail` for some of its recipients.

    Same content, own edits, and only the per-recipient lines that concern them.
    """

@final
class Step:
    """One step of a processor; `matcher` None matches everyone.

    With `metrics` and a `histogram`, each run (matching and the mailet together) is counted there.
    """

    label: Final[str]
    state: Final[str]
    index: Final[int]
    on_match_exception: Final[str]
    on_mailet_exception: Final[str]
    after_accept: Final[bool]
    timeout: Final[float]
    """Seconds an awaitable may take; 0 = no limit."""
    mailet: Final[Any]
    matcher: Final[Any]
    def __init__(
        self,
        state: str,
        index: int,
        label: str,
        matcher: Any,
        mailet: Any,
        *,
        on_match_exception: str = "error",
        on_mailet_exception: str = "error",
        after_accept: bool = False,
        timeout: float = 0.0,
        metrics: Metrics | None = None,
        histogram: Histogram | None = None,
    ) -> None: ...

_Outcome = tuple[Sequence[Any], Sequence[Any]] | None

class _Settlement(Protocol):
    """What the loop asks for. An outcome is None (the mail ended) or (mails that go on with the next step, mails that go where
    their `state` and `step` say)."""

    def decide(self, mail: Any, decision: Any, step: Step) -> _Outcome: ...
    def match_failed(self, mail: Any, step: Step, error: Exception) -> _Outcome | Everyone: ...
    def mailet_failed(self, mail: Any, step: Step, error: Exception) -> _Outcome: ...
    def undecided(self, mail: Any) -> _Outcome: ...
    def unknown_state(self, mail: Any) -> _Outcome: ...
    def suspend(self, mail: Any, step: Step) -> None: ...
    def recipients_changed(self, mail: Any, before: list[Any], before_count: int, step: Step) -> None: ...

@final
class Journey:
    """One mail, and the mails made on the way, through the processors.

    `chains` has the steps of each state; `go_on` is the decision to go on with the next step, known by identity. In a session
    nothing begins later than `seconds_left` from now, nor a step marked `after_accept`: that is suspended.
    """

    mail: Final[Any]
    """While a mailet waits: its mail."""
    step: Final[Step | None]
    def __new__(
        cls,
        chains: dict[str, list[Step]],
        settlement: _Settlement,
        go_on: Any,
        decision_type: type,
        in_session: bool,
        seconds_left: float,
    ) -> Journey: ...
    def enter(self, mail: Any) -> int:
        """Put the mail on top, at (`mail.state`, `mail.step`)."""

    def advance(self) -> Awaitable[Any] | None:
        """Run until all is decided (None), or until a mailet waits (its awaitable; `mail` and `step` say for whom)."""

    def resume(self, decision: Any, seconds: float) -> None:
        """The mailet that waited has decided, after `seconds`."""

    def fail(self, error: Exception, mail: Any, seconds: float) -> None:
        """The mailet that waited has failed; `mail` goes on in its place."""

    def interrupt(self, mail: Any) -> None:
        """The session cannot wait longer: `mail` runs this step again later, and so does all that is under way."""

@disjoint_base
class FastMatcher:
    """Root of the matchers in C."""

    def match(self, mail: Any) -> Everyone | Sequence[Any]: ...

class RecipientsWithAccount(FastMatcher):
    """The recipients that deliver to a local account."""

class MayRelay(FastMatcher):
    """All recipients of a trusted client; else those that the local configuration chose."""

class LoggedIn(FastMatcher):
    """Everyone, when the client is authenticated."""

class NullSender(FastMatcher):
    """Everyone, when the reverse-path is null."""

@disjoint_base
class MoreReceivedThan(FastMatcher):
    """Everyone, when the content has more than `limit` Received fields."""

    limit: Final[int]
    def __init__(self, limit: int) -> None: ...

@disjoint_base
class LargerThan(FastMatcher):
    """Everyone, when the content has more than `limit` bytes."""

    limit: Final[int]
    def __init__(self, limit: int) -> None: ...

@disjoint_base
class MoreRecipientsThan(FastMatcher):
    """Everyone, when there are more than `limit` recipients."""

    limit: Final[int]
    def __init__(self, limit: int) -> None: ...

@disjoint_base
class AttributePresent(FastMatcher):
    """Everyone, when the mail has an attribute; with a `value`, when it has that value."""

    name: Final[str]
    value: Final[Any]
    def __init__(self, name: str, value: Any = None) -> None: ...

def return_path(sender: Any) -> bytes:
    """The trace field of final delivery (RFC 5321 §4.4), for an address or None.

    Raises:
        ValueError: the address has line ends or NUL.
    """

def count_in(content: Any, name: bytes) -> int:
    """How many fields of the content's header are called `name`, given in lower case."""

def count_fields(block: bytes, name: bytes) -> int:
    """How many fields of a header block are called `name`, given in lower case."""

def find_fields(block: bytes, name: bytes) -> list[bytes]:
    """The values of the fields called `name` (lower case), in order, with their folding and without the last line end."""

def remove_fields(block: bytes, names: Iterable[bytes]) -> bytes:
    """The block without the fields called one of `names` (lower case); the same object when there are none."""
