"""`rusmes dkim`: the keys that sign outgoing mail, and the DNS records that belong to them.

A rotation has two halves, because a signature is worth nothing before its record is known: `rotate` makes keys that wait, and
says what to publish; the next `rotate` sees the records in the DNS and puts the keys to use. The old records must stay until
the last mail that was signed with them has arrived.
"""

from __future__ import annotations

import os
from typing import Any, Final

import click

from rusmes.cli.context import Context, JsonGroup, OperatorError, give_to_server_user, pass_context
from rusmes.cli.dns_records import Record
from rusmes.cli.keys import IN_USE, KINDS, RETIRED, WAITING, DkimKey, keys_in, read_dkim_key, write_key
from rusmes.clock import SystemClock
from rusmes.config import names
from rusmes.config.schema import Config
from rusmes.config.signing import is_selector
from rusmes.dkim.keys import RSA_BITS, record_name
from rusmes.dkim.tags import Malformed, parse_tags, without_blanks
from rusmes.dns import DnsError, NoSuchDomain, Resolver
from rusmes.errors import AlreadyExists, NotFound
from rusmes.mailet.notary import Keyring, read_key

KEEP_RECORDS: Final = "Leave the old records published for a week: mail that was signed with them is still on its way."


@click.group(cls=JsonGroup)
def dkim() -> None:
    """Keys that sign outgoing mail."""


@dkim.command("show")
@click.argument("domain", required=False)
@click.option("--check", is_flag=True, help="Ask the DNS whether the records are published.")
@pass_context
def show_keys(context: Context, domain: str | None, check: bool) -> None:
    """Every key, and the record that belongs to it."""
    config = context.config
    name = _domain(domain) if domain else ""
    keys = keys_in(_directory(config), name)
    named = [places for owner, places in Keyring.of(config).places.items() if owner == (name or owner)]
    known = {key.path for key in keys}
    for place in (place for places in named for place in places if place.path not in known):
        key = read_key(place)
        keys.append(DkimKey(place.selector, place.path, key.record, place.domain, key.algorithm, key.bits))
    published = context.run(_published(config, keys)) if check else {}
    data = [_document(key, published) for key in keys]

    def for_people() -> None:
        rows = [
            (key.domain, key.selector, key.algorithm, key.bits, key.state, *([published[key.path]] if check else []))
            for key in keys
        ]
        columns = ["DOMAIN", "SELECTOR", "ALGORITHM", "#BITS", "STATE", *(["DNS"] if check else [])]
        context.output.table(columns, rows, empty="There are no keys: `rusmes dkim new DOMAIN` makes some.")
        for key in keys:
            note = "retired: leave it published for a week\n" if key.state == "retired" else ""
            context.output.say(f"\n{note}{_record(key).line()}")

    context.output.show(data, for_people)


@dkim.command("new")
@click.argument("domain")
@click.option("--algorithm", type=click.Choice([*KINDS, "both"]), default="both", show_default=True)
@click.option("--bits", type=click.IntRange(1024, 4096), default=RSA_BITS, show_default=True, help="Of the RSA key.")
@click.option("--selector", metavar="NAME", default="", help="[default: the month and the algorithm]")
@pass_context
def new_keys(context: Context, domain: str, algorithm: str, bits: int, selector: str) -> None:
    """Make keys for a domain that has none; they sign at once."""
    config, name = context.config, _domain(domain)
    directory = _directory(config)
    kinds = KINDS if algorithm == "both" else (algorithm,)
    if any(key.state == "in use" and _kind(key) in kinds for key in keys_in(directory, name)):
        raise AlreadyExists(f"{name} has keys already", f"rusmes dkim rotate {name} replaces them")
    if selector and (len(kinds) != 1 or not is_selector(selector) or "." in selector):
        raise OperatorError(f"{selector!r} cannot be the selector", "one label, for one --algorithm")
    made = [read_dkim_key(write_key(directory, name, kind, bits=bits, selector=selector), name) for kind in kinds]
    give_to_server_user(config, directory, *(key.path for key in made))
    sentence = context.reload()
    _tell(context, made, f"{name} signs with {' and '.join(key.selector for key in made)}. {sentence} Publish:")


@dkim.command("rotate")
@click.argument("domain")
@click.option("--force", is_flag=True, help="Put waiting keys to use though the DNS does not show their records.")
@pass_context
def rotate_keys(context: Context, domain: str, force: bool) -> None:
    """Replace the keys of a domain: first make new ones, then, once their records are published, use them."""
    config, name = context.config, _domain(domain)
    directory = _directory(config)
    keys = keys_in(directory, name)
    waiting = [key for key in keys if key.state == "waiting"]
    used = [key for key in keys if key.state == "in use"]
    if not used:
        raise NotFound(f"{name} has no keys in {directory}", f"rusmes dkim new {name} makes some")
    if not waiting:
        kinds = sorted({_kind(key) for key in used}, reverse=True)
        paths = [write_key(directory, name, kind, suffix=WAITING) for kind in kinds]
        give_to_server_user(config, *map(str, paths))
        made = [read_dkim_key(path, name, WAITING) for path in paths]
        _tell(context, made, f"These keys of {name} wait. Publish their records, then call this again:")
        return
    published = context.run(_published(config, waiting))
    missing = [key for key in waiting if published[key.path] != "published"]
    if missing and not force:
        reasons = ", ".join(f"{key.selector}: {published[key.path]}" for key in missing)
        raise OperatorError(f"the DNS does not have the records yet ({reasons})", "publish them and wait, or use --force")
    replaced = {_kind(key) for key in waiting}
    # New ones first: a crash between the two leaves both in use, and never none.
    for key in waiting:
        os.rename(key.path, key.path.removesuffix(WAITING) + IN_USE)
    for key in used:
        if _kind(key) in replaced:
            os.rename(key.path, key.path.removesuffix(IN_USE) + RETIRED)
    sentence = context.reload()
    selectors = [key.selector for key in waiting]
    context.output.done(
        f"{name} signs with {' and '.join(selectors)}. {sentence} {KEEP_RECORDS}", domain=name, selectors=selectors,
        retired=[key.selector for key in used if _kind(key) in replaced],
    )  # fmt: skip


def _tell(context: Context, keys: list[DkimKey], sentence: str) -> None:
    def for_people() -> None:
        context.output.say(sentence)
        for key in keys:
            context.output.say(f"\n{_record(key).line()}")

    context.output.show([_document(key, {}) for key in keys], for_people)


def _document(key: DkimKey, published: dict[str, str]) -> dict[str, Any]:
    document = {
        "domain": key.domain,
        "selector": key.selector,
        "algorithm": key.algorithm,
        "bits": key.bits,
        "state": key.state,
        "path": key.path,
        "name": record_name(key.selector, key.domain),
        "record": key.record,
    }
    return document | ({"dns": published[key.path]} if key.path in published else {})


def _record(key: DkimKey) -> Record:
    return Record(record_name(key.selector, key.domain), "TXT", key.record, "")


def _kind(key: DkimKey) -> str:
    return key.algorithm.partition("-")[0]


def _directory(config: Config) -> str:
    return os.path.join(config.storage.path, config.dkim.directory)


def _domain(text: str) -> str:
    try:
        return names.domain_name(text)
    except ValueError as error:
        raise OperatorError(str(error)) from None


async def _published(config: Config, keys: list[DkimKey]) -> dict[str, str]:
    """By path: published | missing | another key | a reason why nobody knows."""
    resolver = Resolver(SystemClock(), config.delivery.resolver)
    found = {}
    for key in keys:
        try:
            records = await resolver.txt(record_name(key.selector, key.domain))
        except NoSuchDomain:
            records = []
        except DnsError as error:
            found[key.path] = error.public
            continue
        there = "published" if any(_same_key(one, key) for one in records) else "another key"
        found[key.path] = there if records else "missing"
    return found


def _same_key(record: bytes, key: DkimKey) -> bool:
    try:
        return without_blanks(parse_tags(record).get("p", "")) == parse_tags(key.record.encode())["p"]
    except Malformed:
        return False
