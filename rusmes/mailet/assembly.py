"""From the configuration's words to steps: matcher expressions, parameters, and the implicit first step.

A matcher is written as

    "Name"   "Name=condition"   "!Name"   "!Name=condition"       registered, or named in the processor's `matchers`
    { all = [...] }   { any = [...] }   { not = ... }              composites, of the same forms
    { matcher = "Name", params = { ... } }                         with its own parameters

`And`, `Or` and `Not` are other names for the composites: `matcher = "And"`, `matcher_params = { matchers = [...] }`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from rusmes._core.mailet import Step
from rusmes.config import schema
from rusmes.config.problems import InvalidConfig, all_problems, nearest
from rusmes.errors import ConfigError
from rusmes.mailet.api import MailetClass, Matcher, MatcherClass, Toolbox
from rusmes.mailet.matchers.composite import AllOf, AnyOf, NotOf
from rusmes.mailet.matchers.envelope import All
from rusmes.mailet.parameters import convert, from_condition
from rusmes.mailet.registry import Registry
from rusmes.metrics import STEP_SECONDS, Metrics

COMPOSITES: Final = {"And": "all", "Or": "any", "Not": "not"}
MAX_DEPTH: Final = 20
"""Composites inside composites."""
IMPLICIT: Final = schema.Step(mailet="RecipientRewrite")
IMPLICIT_RETURNS: Final = schema.Step(mailet="BounceProcessor")

Expression = str | Mapping[str, Any]


class Assembly:
    """Builds the steps of every processor; each mistake is a ConfigError that names processor, step and parameter."""

    def __init__(self, toolbox: Toolbox, registry: Registry, *, default_timeout: float, metrics: Metrics | None = None) -> None:
        self._toolbox = toolbox
        self._registry = registry
        self._default_timeout = default_timeout
        self._metrics = metrics
        self._problems: list[ConfigError] = []

    def chains(self, processors: Sequence[schema.Processor], *, rewrite: bool | None = None) -> dict[str, list[Step]]:
        """The steps of each state.

        Args:
            rewrite: whether `root` begins with RecipientRewrite; None: when no processor names it.

        Raises:
            ConfigError: with the one mistake there is, or InvalidConfig with all of them.
        """
        problems = self._problems = []
        states = _checked_states(processors, problems)
        if rewrite is None:
            rewrite = not any(step.mailet == "RecipientRewrite" for one in processors for step in one.mailets)
        returns = self._toolbox.returns
        reads_returns = returns is not None and returns.address is not None
        reads_returns &= not any(step.mailet == "BounceProcessor" for one in processors for step in one.mailets)
        chains: dict[str, list[Step]] = {}
        for number, processor in enumerate(processors):
            steps: list[Step] = []
            if rewrite and processor.state == "root":
                steps += self._attempt(processor, IMPLICIT, 0, f"processors[{number}]", "the implicit first step", states)
            if reads_returns and processor.state == "root":
                key, who = f"processors[{number}]", "the implicit step for reports"
                steps += self._attempt(processor, IMPLICIT_RETURNS, len(steps), key, who, states)
            for place, step in enumerate(processor.mailets):
                key = f"processors[{number}].mailets[{place}]"
                who = f"processor {processor.name!r}, step {place + 1}"
                steps += self._attempt(processor, step, len(steps), key, who, states)
            chains[processor.state] = steps
        if "error" not in chains:
            hold = schema.Processor(name="error", state="error", mailets=(schema.Step(mailet="Hold"),))
            chains["error"] = [self._step(hold, hold.mailets[0], 0, "processors", "the implicit error processor", states)]
        if problems:
            raise problems[0] if len(problems) == 1 else InvalidConfig(problems)
        return chains

    def _attempt(
        self, processor: schema.Processor, step: schema.Step, index: int, key: str, who: str, states: frozenset[str]
    ) -> list[Step]:
        """The step, or nothing and one problem more: whoever writes a pipeline hears of all mistakes at once."""
        try:
            return [self._step(processor, step, index, key, who, states)]
        except ConfigError as error:
            self._problems += all_problems(error)
            return []

    def _step(
        self, processor: schema.Processor, step: schema.Step, index: int, key: str, who: str, states: frozenset[str]
    ) -> Step:
        mailet_class = self._registry.mailet(step.mailet, f"{key}.mailet")
        expression, label = _expression(step, key, who)
        matcher_values, mailet_values = self._divide(processor, step, expression, mailet_class, key, who)
        matcher = self._matcher(expression, matcher_values, processor, key, who)
        mailet_who = f"{who}, mailet {step.mailet}"
        mailet = self._build(mailet_class, mailet_values, mailet_who, f"{key}.params")
        for state in (*named_states(mailet, "states"), *named_states(mailet, "starts")):
            if state not in states:
                raise ConfigError(
                    f"{mailet_who}: no processor handles the state {state!r}", key=f"{key}.params", hint=nearest(state, states)
                )
        for field in ("on_match_exception", "on_mailet_exception"):
            _check_exception_state(field, getattr(step, field), processor.state, states, key, who)
        after_accept = step.after_accept if step.after_accept is not None else getattr(mailet, "after_accept", False)
        return Step(
            processor.state,
            index,
            f"{label}=>{step.mailet}",
            matcher,
            mailet,
            on_match_exception=step.on_match_exception,
            on_mailet_exception=step.on_mailet_exception,
            after_accept=bool(after_accept),
            timeout=self._default_timeout if step.timeout is None else float(step.timeout),
            metrics=self._metrics,
            histogram=STEP_SECONDS[step.mailet],
        )

    # Parameters

    def _divide(
        self,
        processor: schema.Processor,
        step: schema.Step,
        expression: Expression,
        mailet_class: MailetClass,
        key: str,
        who: str,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """`params` by who knows the key; a condition or `matcher_params` leave them to the mailet alone."""
        if not step.params or step.matcher_params or not isinstance(expression, str) or "=" in expression:
            return dict(step.matcher_params), dict(step.params)
        name = expression.strip().removeprefix("!").strip()
        if name in processor.matchers or name in COMPOSITES:
            return {}, dict(step.params)
        mailet_keys = {field.encode_name for field in msgspec.structs.fields(mailet_class.Parameters)}
        matcher_class = self._registry.matcher(name, f"{key}.matcher", [*processor.matchers, *COMPOSITES])
        matcher_keys = {field.encode_name for field in msgspec.structs.fields(matcher_class.Parameters)}
        for parameter in step.params:
            if parameter in mailet_keys and parameter in matcher_keys:
                raise ConfigError(
                    f"{who}: both {name} and {step.mailet} take the parameter {parameter!r}",
                    key=f"{key}.params.{parameter}",
                    hint=f'write the matcher\'s as matcher = "{name}=..." or in matcher_params',
                )
            if parameter not in mailet_keys and parameter not in matcher_keys:
                known = mailet_keys | matcher_keys
                raise ConfigError(
                    f"{who}: neither {name} nor {step.mailet} takes the parameter {parameter!r}",
                    key=f"{key}.params.{parameter}",
                    hint=nearest(parameter, known) if known else "they take no parameters",
                )
        params = step.params.items()
        return {k: v for k, v in params if k in matcher_keys}, {k: v for k, v in params if k in mailet_keys}

    def _build(self, class_: Any, values: Mapping[str, Any], who: str, key: str, *, strict: bool = True) -> Any:
        parameters: Struct = convert(class_.Parameters, values, who=who, key=key, strict=strict)
        try:
            return class_(parameters, self._toolbox)
        except ConfigError as error:
            if error.key:
                raise
            raise ConfigError(f"{who}: {error.reason}", key=key, hint=error.hint) from None

    # Matchers

    def _matcher(
        self, expression: Expression, values: Mapping[str, Any], processor: schema.Processor, key: str, who: str
    ) -> Matcher | None:
        """The matcher of a step; None matches everyone."""
        matcher = self._expression(expression, values, processor, f"{key}.matcher", who, ())
        return None if type(matcher) is All else matcher

    def _expression(
        self,
        expression: Any,
        values: Mapping[str, Any],
        processor: schema.Processor,
        key: str,
        who: str,
        inside: tuple[str, ...],
    ) -> Matcher:
        if len(inside) > MAX_DEPTH:
            raise ConfigError(f"{who}: matchers are nested too deep", key=key)
        if isinstance(expression, str):
            return self._named(expression, values, processor, key, who, inside)
        if isinstance(expression, Mapping):
            return self._table(expression, values, processor, key, who, inside)
        raise ConfigError(f"{who}: a matcher is a string or a table, not {expression!r}", key=key)

    def _named(
        self, text: str, values: Mapping[str, Any], processor: schema.Processor, key: str, who: str, inside: tuple[str, ...]
    ) -> Matcher:
        if text.strip().startswith("!"):
            rest = text.strip()[1:]
            return NotOf(self._expression(rest, values, processor, key, who, (*inside, "!")))
        name, separator, condition = text.partition("=")
        name = name.strip()
        if name in COMPOSITES and not separator:
            return self._composite_by_name(name, values, processor, key, who, inside)
        if name in processor.matchers:
            if separator or values:
                raise ConfigError(f"{who}: {name!r}, named in this processor, takes no condition or parameters", key=key)
            if name in inside:
                raise ConfigError(f"{who}: the matcher {name!r} is made of itself", key=key)
            return self._expression(processor.matchers[name], {}, processor, key, who, (*inside, name))
        matcher_class: MatcherClass = self._registry.matcher(name, key, [*processor.matchers, *COMPOSITES])
        matcher_who = f"{who}, matcher {name}"
        if separator:
            parameters = from_condition(matcher_class.Parameters, condition, who=matcher_who, key=key)
            values = {**parameters, **values}
        built: Matcher = self._build(matcher_class, values, matcher_who, key)
        return built

    def _composite_by_name(
        self, name: str, values: Mapping[str, Any], processor: schema.Processor, key: str, who: str, inside: tuple[str, ...]
    ) -> Matcher:
        given = values.get("matchers")
        if set(values) != {"matchers"} or not isinstance(given, list):
            raise ConfigError(f"{who}: {name} takes matcher_params = {{ matchers = [...] }}", key=key)
        if name == "Not":
            if len(given) != 1:
                given = [{"any": given}]
            return self._table({"not": given[0]}, {}, processor, key, who, inside)
        return self._table({COMPOSITES[name]: given}, {}, processor, key, who, inside)

    def _table(
        self,
        table: Mapping[str, Any],
        values: Mapping[str, Any],
        processor: schema.Processor,
        key: str,
        who: str,
        inside: tuple[str, ...],
    ) -> Matcher:
        deeper = (*inside, "{}")
        if "matcher" in table:
            unknown = set(table) - {"matcher", "params"}
            params = table.get("params", {})
            if unknown or not isinstance(params, Mapping):
                raise ConfigError(f"{who}: this table takes matcher and params", key=key)
            return self._expression(table["matcher"], params, processor, key, who, deeper)
        if len(table) != 1 or values:
            raise ConfigError(f"{who}: a composite matcher is a table with one of all, any, not", key=key)
        ((kind, given),) = table.items()
        if kind == "not":
            return NotOf(self._expression(given, {}, processor, key, who, deeper))
        if kind not in ("all", "any"):
            raise ConfigError(f"{who}: {kind!r} is no composite matcher", key=key, hint=nearest(kind, ("all", "any", "not")))
        if not isinstance(given, (list, tuple)) or not given:
            raise ConfigError(f"{who}: {kind} takes a list of matchers", key=key)
        built = [self._expression(one, {}, processor, f"{key}.{kind}[{i}]", who, deeper) for i, one in enumerate(given)]
        return AllOf(built) if kind == "all" else AnyOf(built)


def named_states(mailet: object, method: str) -> tuple[str, ...]:
    """What a mailet's optional method `states` or `starts` says."""
    return tuple(getattr(mailet, method)()) if hasattr(mailet, method) else ()


def _expression(step: schema.Step, key: str, who: str) -> tuple[Expression, str]:
    """The matcher of a step and how it is called in logs."""
    if not step.notmatch:
        matcher = step.matcher
        return matcher, matcher.strip() if isinstance(matcher, str) else msgspec.json.encode(matcher).decode()
    if step.matcher != "All":
        raise ConfigError(f"{who}: matcher and notmatch exclude each other", key=f"{key}.notmatch")
    return f"!{step.notmatch}", f"!{step.notmatch.strip()}"


def _checked_states(processors: Sequence[schema.Processor], problems: list[ConfigError]) -> frozenset[str]:
    states: set[str] = set()
    for number, processor in enumerate(processors):
        key = f"processors[{number}].state"
        if not processor.state:
            problems.append(ConfigError(f"processor {processor.name!r} has no state", key=key))
        elif processor.state in states:
            reason = f"processor {processor.name!r}: the state {processor.state!r} has a processor already"
            problems.append(ConfigError(reason, key=key))
        states.add(processor.state)
    if "root" not in states:
        problems.append(ConfigError('no processor has the state "root", where every mail starts', key="processors"))
    return frozenset(states | {"error"})


def _check_exception_state(field: str, value: str, state: str, states: frozenset[str], key: str, who: str) -> None:
    words = {"on_match_exception": ("nomatch", "matchall"), "on_mailet_exception": ("ignore",)}[field]
    if value in words or value == "error":
        return
    if value not in states:
        raise ConfigError(
            f"{who}: {field} = {value!r} is neither a state nor {' or '.join(words)}",
            key=f"{key}.{field}",
            hint=nearest(value, [*states, *words]),
        )
    if value == state:
        raise ConfigError(f"{who}: {field} leads back to its own processor", key=f"{key}.{field}", hint=f"write {words[0]!r}")
