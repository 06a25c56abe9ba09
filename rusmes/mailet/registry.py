"""Matchers and mailets by name: the built-in ones, and those of installed packages.

A package adds its own through the entry point groups `rusmes.matchers` and `rusmes.mailets`; the entry point's name is the name
in the configuration, its object is the class. It is imported when a configuration first names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from msgspec import Struct

from rusmes.config.problems import nearest
from rusmes.errors import ConfigError
from rusmes.mailet.api import MailetClass, MatcherClass
from rusmes.mailet.mailets import BUILT_IN as MAILETS
from rusmes.mailet.matchers import BUILT_IN as MATCHERS

MATCHER_GROUP: Final = "rusmes.matchers"
MAILET_GROUP: Final = "rusmes.mailets"


class Registry:
    """Names of matchers and mailets; a foreign one that has the name of a built-in one is refused."""

    def __init__(
        self,
        matchers: Mapping[str, MatcherClass | EntryPoint] | None = None,
        mailets: Mapping[str, MailetClass | EntryPoint] | None = None,
    ) -> None:
        self._matchers: dict[str, Any] = {**MATCHERS, **_foreign("matcher", matchers or {}, MATCHERS)}
        self._mailets: dict[str, Any] = {**MAILETS, **_foreign("mailet", mailets or {}, MAILETS)}

    @classmethod
    def load(cls) -> Registry:
        """Built-ins and entry points.

        Raises:
            ConfigError: two packages, or a package and this one, use the same name.
        """
        return cls(_by_name(MATCHER_GROUP), _by_name(MAILET_GROUP))

    @property
    def matcher_names(self) -> tuple[str, ...]:
        return tuple(self._matchers)

    @property
    def mailet_names(self) -> tuple[str, ...]:
        return tuple(self._mailets)

    def matcher(self, name: str, key: str = "", others: Iterable[str] = ()) -> MatcherClass:
        """The class of a matcher; `others` are names that the place allows too, for the hint.

        Raises:
            ConfigError: there is none, or its package cannot be imported.
        """
        found: MatcherClass = self._class("matcher", self._matchers, name, key, others)
        return found

    def mailet(self, name: str, key: str = "") -> MailetClass:
        """The class of a mailet.

        Raises:
            ConfigError: there is none, or its package cannot be imported.
        """
        found: MailetClass = self._class("mailet", self._mailets, name, key, ())
        return found

    def _class(self, kind: str, table: dict[str, Any], name: str, key: str, others: Iterable[str]) -> Any:
        found = table.get(name)
        if found is None:
            raise ConfigError(f"there is no {kind} {name!r}", key=key, hint=nearest(name, [*table, *others]))
        if isinstance(found, EntryPoint):
            try:
                found = found.load()
            except Exception as error:
                raise ConfigError(f"the {kind} {name!r} cannot be imported: {error!r}", key=key) from error
            parameters = getattr(found, "Parameters", None)
            if not (isinstance(parameters, type) and issubclass(parameters, Struct)):
                raise ConfigError(f"the {kind} {name!r} has no Parameters, a msgspec.Struct", key=key)
            table[name] = found
        return found


def _by_name(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if found.setdefault(point.name, point).value != point.value:
            raise ConfigError(f"two packages give {point.name!r} in {group}: {found[point.name].value}, {point.value}")
    return found


def _foreign(kind: str, given: Mapping[str, Any], built_in: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in given:
        if name in built_in:
            raise ConfigError(f"an installed package gives a {kind} {name!r}, which is the name of a built-in one")
    return given
