"""What a refusal is about: the recipient, the message, how fast we send, who we are, or the server itself.

RFC 5321 §4.2 (codes), RFC 3463 and its registry (enhanced codes), RFC 7372 (authentication); and what large providers write
where the codes say too little. The class decides what follows: only `rate`, `reputation`, `host` and `network` are about the
site, so only they slow it down, and a mail of which nothing was said is not counted as attempted (`is_about_the_mail`).

The table is read from the top; the first line whose pattern is found in the text, and whose codes and phases fit, decides. Then
the enhanced code does, then the code. Only refusals come here, so a pattern may cost a microsecond.
"""

from __future__ import annotations

import re
from typing import Final

CLASSES: Final = (
    "accepted", "recipient", "content", "rate", "reputation", "auth", "policy", "host", "network", "unknown",
)  # fmt: skip
"""recipient: the address, or its mailbox. content: this message. rate: too much or too fast. reputation: we are not wanted, or
our address is not. auth: a login, SPF, DKIM or DMARC failed. policy: a rule of theirs, greylisting too. host: the server has
a problem. network: it was not reached, or the connection broke."""

PHASES: Final = ("dns", "connect", "greeting", "tls", "login", "mail", "rcpt", "data", "message")
"""When it was said; `data` is the reply to the command, `message` the one to the message."""

SITE_CLASSES: Final = frozenset({"rate", "reputation", "host", "network"})
"""They say something of the site, or of us there."""

_BEFORE_THE_MAIL: Final = frozenset({"dns", "connect", "greeting", "tls", "login", "mail"})

# What providers write. (pattern, class); all lower case. Sources: their postmaster pages, and logs of operators.
_TEXTS: Final = tuple(
    (re.compile(pattern), reply_class)
    for pattern, reply_class in (
        # Rate words that mean one mailbox: Gmail 450 4.2.1, Exchange Online 432 4.3.2
        (r"user you are trying to contact is receiving mail|recipient thread limit|mailbox.{0,20}busy", "recipient"),
        (r"over ?quota|quota exceeded|mailbox (is )?full|exceeded (his|her|its|their)? ?(storage|mailbox)"
         r"|insufficient.{0,20}mailbox", "recipient"),
        # Greylisting: come back with the same mail, no slower
        (r"gr[ea]y-?list|postgrey", "policy"),
        # SPF, DKIM, DMARC; logins
        (r"\b(spf|dkim|dmarc)\b|unauthenticated (e?mail|message|sender)|authentication (required|failed|credentials)", "auth"),
        # Speed. Comcast RL, Microsoft RP and 4.7.5xx/6xx, Yahoo TSS, Orange OFR 104/105, Cloudmark
        (r"\brl\d{6}\b|\brp-00[123]\b|\[tss\d\d\]|ofr\w*[_ ]10[45]\b|\bcmrl\b|aup#1310", "rate"),
        (r"rate[- ]?limit|throttl|slow(ing)? down|(unusual|exceeded|high|current) (sending )?(rate|volume)|unexpected volume"
         r"|too (many|much) (\w+ ){0,2}(connection|session|message|mail|email|recipient|transaction|request|command|error|load)"
         r"|(maximum|max|limit).{0,30}(connections?|sessions?|messages per)|connections?.{0,30}(limit|exceeded|maximum)"
         r"|concurren(t|cy).{0,30}(limit|exceed|connection)|exceeded.{0,30}(limit|rate)|sending too (fast|much|many)"
         r"|server busy|try again later, closing connection", "rate"),
        # Who we are. Yahoo TS0x/BL, Comcast BL, Microsoft SC/DY/OU and 5.7.6xx, Proofpoint, T-Online, Orange OFR 5xx
        (r"\[ts\d\d\]|\[bl\d\d\]|\bbl\d{6}\b|\b(sc|dy|ou)-00\d\b|ofr\w*[_ ]5\d\d\b|ipcheck\.proofpoint|\bs31[45]0\b",
         "reputation"),
        (r"black ?-?list|block ?-?list|\bdnsbl\b|\brbl\b|spamhaus|spamcop|barracudacentral|sorbs|senderscore|reputation"
         r"|(host|ip|address|server|sender|network|client).{0,60}\b(blocked|banned|listed|denied)\b|blocked using"
         r"|banned (sending|sender)|user complaints|reverse dns|\bptr\b|rdns", "reputation"),
        # The message
        (r"spam|unsolicited|virus|malware|phish|content.{0,20}(reject|refus|not allowed|filter)|suspicious|\[ph01\]"
         r"|message.{0,30}(too (large|big)|size)", "content"),
        # The address
        (r"(user|recipient|mailbox|address|account|alias|inbox).{0,40}"
         r"(unknown|not (found|exist|active|available|valid)|does ?n.t exist|disabled|inactive|invalid|rejected|unavailable)"
         r"|(no such|unknown|invalid) (user|recipient|mailbox|address|account|local)|no mailbox here", "recipient"),
        # The server
        (r"(service|system|server|resources?).{0,40}(unavailable|not available|shutting down|maintenance|overload|problem)"
         r"|out of (memory|disk)|(insufficient|not enough).{0,20}(system|disk|storage|resources|space)|system resources"
         r"|temporary (local )?(problem|failure|error)|internal error|maintenance", "host"),
    )
)  # fmt: skip

_MICROSOFT_RATE: Final = re.compile(r"4\.7\.(5\d\d|6[0-9]\d)$")
_MICROSOFT_REPUTATION: Final = re.compile(r"5\.7\.(51[12]|6[0-4]\d)$")

_BY_STATUS: Final = {
    # RFC 3463 §3; the exceptions to their subject's class
    "1.7": "policy", "1.8": "policy",  # the sender's address
    "3.4": "content",  # too large for the system
    "3.6": "content",
    "4.3": "host", "4.4": "host", "4.6": "host",  # name service, routing, loop: of their side
    "4.5": "rate",  # system congestion
    "4.7": "policy",  # time over
    "5.3": "policy",  # too many recipients at once
    "7.0": "", "7.1": "",  # security of whatever kind
    "7.3": "content", "7.4": "content", "7.5": "content", "7.7": "content",
    "7.8": "auth", "7.9": "auth",
    "7.20": "auth", "7.21": "auth", "7.22": "auth", "7.23": "auth", "7.24": "auth", "7.26": "auth",  # RFC 7372
    "7.25": "reputation",  # RFC 7372 §3.3: reverse DNS
    "7.28": "rate",  # mail flood detected
}  # fmt: skip
_BY_SUBJECT: Final = {"1": "recipient", "2": "recipient", "3": "host", "4": "network", "5": "policy", "6": "content"}


def classify(code: int, status: str, text: str, phase: str) -> str:
    """The class of a reply, or of a failure that we found ourselves (`code` 0).

    `status` is the enhanced code, "" when there was none; `phase` is one of PHASES.
    """
    if 200 <= code < 400:
        return "accepted"
    if not code:
        return _found_ourselves(status, phase)
    if phase == "login" or code in (530, 534, 535, 538):
        return "auth"
    if _MICROSOFT_RATE.match(status):
        return "rate"
    if _MICROSOFT_REPUTATION.match(status):
        return "reputation"
    lower = text.lower()
    for pattern, reply_class in _TEXTS:
        if pattern.search(lower):
            return _fitting(reply_class, code, phase)
    return _by_codes(code, status, phase)


def _fitting(reply_class: str, code: int, phase: str) -> str:
    """A class of words, where the moment says more: before RCPT nobody speaks of a recipient, nor before the message of it."""
    if phase in ("connect", "greeting") and reply_class in ("recipient", "content", "policy"):
        return "reputation" if code >= 500 else "host"
    if reply_class == "rate" and code >= 500 and phase == "message":
        return "policy"  # "552 message exceeds the limit": for ever, so not how fast
    return reply_class


def _by_codes(code: int, status: str, phase: str) -> str:
    subject, _, detail = status.partition(".")[2].partition(".")
    found = _BY_STATUS.get(f"{subject}.{detail}") or _BY_SUBJECT.get(subject, "")
    if found:
        return _fitting(found, code, phase)
    if subject == "7":
        # 4.7.x of no known kind: who hangs up with it, or greets with it, means all our mail ("not now, and not from you").
        if code < 500:
            return "rate" if code == 421 or phase in ("connect", "greeting") else "policy"
        return "reputation" if phase in ("connect", "greeting") else "policy"
    if phase in ("connect", "greeting"):
        return "reputation" if code >= 500 and code != 521 else "host"
    if code in (421, 451, 452):
        return "host"
    if phase == "rcpt":
        return "recipient" if code in (450, 550, 551, 552, 553) else "policy"
    if phase == "message":
        return "content" if code >= 500 else "host"
    return "policy" if code in (450, 550, 552, 553, 554) else "unknown"


def _found_ourselves(status: str, phase: str) -> str:
    subject = status.partition(".")[2].partition(".")[0]
    if phase in ("connect", "greeting"):
        return "network"
    if phase == "tls" or subject == "7":
        return "policy"
    if phase == "dns":
        return "host" if status.startswith("4") else "recipient"
    return _BY_SUBJECT.get(subject, "unknown")


_SESSION_LIMIT: Final = re.compile(
    r"(messages?|mails?|emails?|transactions?|recipients?|deliver\w*).{0,30}(per|this|one|in a) (connection|session)"
)


def is_session_limit(text: str) -> bool:
    """Whether a 421 only means that this connection has carried enough mail."""
    return _SESSION_LIMIT.search(text.lower()) is not None


def is_about_the_mail(reply_class: str, code: int, phase: str) -> bool:
    """Whether a refusal says something of the mail it answers. If it does not, the mail waits with all others of the site, and
    no attempt is counted: what speaks of our speed, our server or theirs, before the mail was shown, or as it hung up (421)."""
    if reply_class not in SITE_CLASSES or code >= 500:
        return True
    if reply_class == "rate":
        return False
    return not (code == 421 and phase in _BEFORE_THE_MAIL)
