"""What can be said about processors without running them: states nobody enters, paths that end undecided, cycles."""

from __future__ import annotations

from collections.abc import Iterable

from rusmes._core.mailet import Step
from rusmes.errors import ConfigError
from rusmes.mailet.assembly import named_states

Chains = dict[str, list[Step]]


def survey(chains: Chains) -> list[str]:
    """Warnings about the processors.

    Raises:
        ConfigError: every mail that enters some processor goes round for ever.
    """
    warnings: list[str] = []
    edges = {state: _targets(steps) for state, steps in chains.items()}
    starts = {state for steps in chains.values() for step in steps for state in named_states(step.mailet, "starts")}
    entered = set().union(*(_reachable(edges, start) for start in ("root", "error", *starts)))
    for state, steps in chains.items():
        if state not in entered:
            warnings.append(f"no step leads to processor {state!r}")
        elif not any(_decides_all(step) for step in steps):
            warnings.append(f"mail can reach the end of processor {state!r} undecided; it then goes to the error processor")
        last = next((place for place, step in enumerate(steps) if _decides_all(step)), len(steps))
        warnings.extend(f"processor {state!r}: step {step.label} is never reached" for step in steps[last + 1 :])
    for cycle in _cycles(edges):
        path = " -> ".join((*cycle, cycle[0]))
        if all(_certainly_goes(chains[state], cycle) for state in cycle):
            raise ConfigError(
                f"processors go round for ever: {path}", key="processors", hint="put a matcher before ToProcessor"
            )
        warnings.append(f"processors can go round: {path}; a mail that does ends in the error processor")
    return warnings


def _decides_all(step: Step) -> bool:
    return step.matcher is None and _is_final(step) and step.on_mailet_exception != "ignore"


def _is_final(step: Step) -> bool:
    return bool(getattr(step.mailet, "final", False))


def _targets(steps: Iterable[Step]) -> set[str]:
    """Where mail can go from a processor; what fails goes to `error` from everywhere, which is no news."""
    found: set[str] = set()
    for step in steps:
        found.update(named_states(step.mailet, "states"))
        for state in (step.on_match_exception, step.on_mailet_exception):
            if state not in ("error", "ignore", "nomatch", "matchall"):
                found.add(state)
    return found


def _reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        state = waiting.pop()
        if state not in seen and state in edges:
            seen.add(state)
            waiting.extend(edges[state])
    return seen


def _cycles(edges: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """One cycle for each processor that can reach itself, the shortest, each cycle once."""
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for start in edges:
        paths: list[tuple[str, ...]] = [(start,)]
        seen: set[str] = set()
        while paths:
            path = paths.pop(0)
            following = edges.get(path[-1], set())
            if start in following:
                found.setdefault(frozenset(path), path)
                break
            for state in sorted(following - seen):
                seen.add(state)
                paths.append((*path, state))
    return list(found.values())


def _certainly_goes(steps: list[Step], cycle: tuple[str, ...]) -> bool:
    """Whether nothing decides about a mail before a step sends all of it along the cycle."""
    for step in steps:
        states = named_states(step.mailet, "states")
        if _is_final(step) or states:
            return step.matcher is None and _is_final(step) and not set(states).isdisjoint(cycle)
    return False
