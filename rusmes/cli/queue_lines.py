"""How the queue looks on a terminal of 100 columns: a line for each recipient, one for the reply, and the table by age."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rusmes.cli.output import printable
from rusmes.config.units import duration_text, size_text

COLUMNS: Final = 100
HEADING: Final = f"{'ID':<26} {'AGE':>4} {'SIZE':>6} {'SENDER':<18} {'RECIPIENT':<25} {'STATUS':<8} {'NEXT':>6}"
WIDE_HEADING: Final = (
    f"{'ID':<26} {'AGE':>8} {'SIZE':>8} {'SENDER':<30} {'RECIPIENT':<30} {'STATUS':<8} {'NEXT TRY':<10} LAST REPLY"
)


def compact_lines(entry: dict[str, Any], now: float) -> Iterator[str]:
    """An entry in at most 100 columns. Its own facts stand on the first line; a reply that several recipients got, once."""
    held = entry["action"] == "hold"
    own = f"{entry['id']} {short_duration(now - entry['created']):>4} {short_size(entry['size_bytes']):>6}"
    sender, said = cut(entry["sender"], 18), ""
    for recipient in entry["recipients"]:
        status = "held" if held else recipient["status"]
        due = "" if held or status not in ("queued", "deferred") else next_try(recipient["due"], now)
        yield f"{own:<38} {sender:<18} {cut(recipient['address'], 25):<25} {status:<8} {due:>6}".rstrip()
        own, sender = "", ""
        reply = entry["reason"] if held else recipient["last_reply"] or entry["reason"]
        if reply and reply != said:
            yield f"    {cut(reply, COLUMNS - 4)}"
            said = reply


def wide_lines(entry: dict[str, Any], now: float) -> Iterator[str]:
    """A line for each recipient with every cell whole."""
    held = entry["action"] == "hold"
    age, size = duration_text(max(round(now - entry["created"]), 0)), size_text(entry["size_bytes"])
    own = f"{entry['id']} {age:>8} {size:>8} {entry['sender']:<30}"
    for recipient in entry["recipients"]:
        waits = not held and recipient["status"] in ("queued", "deferred")
        status, due = "held" if held else recipient["status"], when(recipient["due"], now) if waits else ""
        reply = entry["reason"] if held else recipient["last_reply"] or entry["reason"]
        yield f"{own} {recipient['address']:<30} {status:<8} {due:<10} {reply}".rstrip().replace("\n", " ")
        own = " " * len(own)


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """The table of `queue summary`: recipients by name and age."""
    ages = summary["ages"]
    heads = [*(str(age) for age in ages), f"{ages[-1]}+"]
    rows = [summary["total"], *summary["rows"]]
    widths = [max(len(head), *(len(str(row["counts"][i])) for row in rows)) for i, head in enumerate(heads)]
    total_width = max(5, *(len(str(row["recipients"])) for row in rows))
    room = max(COLUMNS - total_width - sum(widths) - len(widths) - 1, 12)
    room = min(room, max(len(summary["by"]), *(len(row["name"]) for row in rows)))
    cells = " ".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    yield f"{summary['by'].upper():<{room}} {'T':>{total_width}} {cells}"
    for row in rows:
        cells = " ".join(f"{count:>{width}}" for count, width in zip(row["counts"], widths, strict=True))
        name = row["name"] or "(none)"
        yield f"{cut(name, room):<{room}} {row['recipients']:>{total_width}} {cells}"


def when(due: float, now: float) -> str:
    return "now" if due <= now else f"in {duration_text(round(due - now))}"


def next_try(due: float, now: float) -> str:
    return "now" if due <= now else short_duration(due - now)


def short_duration(seconds: float) -> str:
    """One number and one unit: "3d", "25h", "12m"; at most four characters below 1000 days."""
    seconds = max(round(seconds), 0)
    for unit, length, least in (("d", 86400, 2 * 86400), ("h", 3600, 2 * 3600), ("m", 60, 120)):
        if seconds >= least:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def short_size(count: int) -> str:
    """At most six characters: "1.0KB", "12KB"."""
    for unit, length in (("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= length:
            return f"{count / length:.1f}{unit}" if count < 10 * length else f"{count // length}{unit}"
    return size_text(count)


def cut(text: str, most: int) -> str:
    text = printable(text).replace("\n", " ")
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
