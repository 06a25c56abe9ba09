"""Events by POST to a web server.

    POST /hook HTTP/1.1
    Content-Type: application/json
    X-RusMES-Batch: 5d41402abc4b2a76b9719d911017c592        the same for the same events, however often they are sent
    X-RusMES-Signature: t=1795523456,v1=2c26b46b68ffc68f...  HMAC-SHA256, with the secret, of "1795523456." and the body

    [{"time": ...}, ...]

Any 2xx means taken. Everything else is tried again, 413 with half of the events, and a Retry-After of up to max_retry_wait is
kept to. Redirections are not followed: the body goes to the URL of the configuration only. The signature holds the time, so a
receiver can refuse what is old.

RFC 9110 §10.2.3 (Retry-After), §15.5.14 (413).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import Final

import aiohttp

from rusmes._version import __version__
from rusmes.config.events import Webhook
from rusmes.events.consumer import NotTaken
from rusmes.events.tail import Line

SIGNATURE: Final = "X-RusMES-Signature"
BATCH: Final = "X-RusMES-Batch"
MAX_ANSWER_BYTES: Final = 64 * 1024
"""Of an answer, which is read only so that the connection can be used again."""


class WebhookSender:
    """One connection that is kept, one request at a time."""

    kind: Final = "webhook"

    def __init__(self, settings: Webhook) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def take(self, lines: Sequence[Line]) -> None:
        body = b"[" + b",".join(line.data for line in lines) + b"]"
        try:
            async with self._open().post(
                self._settings.url, data=body, headers=self._headers(lines, body), allow_redirects=False
            ) as response:
                await response.content.read(MAX_ANSWER_BYTES)
                if 200 <= response.status < 300:
                    return
                raise NotTaken(
                    f"{self._settings.url} answered {response.status}",
                    _retry_after(response.headers.get("Retry-After", "")),
                    is_too_large=response.status == 413,
                )
        except TimeoutError:
            raise NotTaken(f"{self._settings.url} did not answer within {float(self._settings.timeout):g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotTaken(f"{self._settings.url}: {error or type(error).__name__}") from None

    def _headers(self, lines: Sequence[Line], body: bytes) -> dict[str, str]:
        first, last = lines[0], lines[-1]
        place = f"{first.writer} {first.stamp} {first.end} {last.writer} {last.stamp} {last.end}"
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"RusMES/{__version__}",
            BATCH: hashlib.sha256(place.encode()).hexdigest()[:32],
        }
        if self._settings.secret:
            headers[SIGNATURE] = signature(self._settings.secret, int(time.time()), body)
        return headers

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=float(self._settings.timeout)),
                connector=aiohttp.TCPConnector(limit=1),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # the transports of its connections are closed by the loop


def signature(secret: str, moment: int, body: bytes) -> str:
    """What the header says."""
    signed = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={signed}"


def _retry_after(text: str) -> float:
    """Seconds; dates are not worth their parsing, for our own pauses grow anyway."""
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 8 else 0.0
