"""Who signs: the keys of [dkim], and the threads in which signatures are made.

An RSA signature takes 0.27 ms, without the GIL; so the loop goes on. A thread takes several jobs at once, signs all of them
without the GIL, and tells the loop of them at once: taking the GIL from a busy loop costs up to the switch interval, and is
paid once for all.

A key is loaded when it is needed first (checking it takes some 10 ms), once, however many mails wait for it; a reload keeps
those whose file did not change.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from msgspec import Struct

from rusmes.config.schema import Config
from rusmes.dkim.keys import KeyUnusable, SigningKey, load_key, sign_all
from rusmes.dkim.signature import HEADERS, FieldChoice, Form
from rusmes.errors import ConfigError
from rusmes.log import get_logger

T = TypeVar("T")

SUFFIX: Final = ".pem"
BATCH: Final = 16
"""Jobs of one thread at a time: 4 ms of RSA-2048."""
MAX_WAITING: Final = 10_000
"""Jobs; at 3,700 signatures a second and core nearly three seconds."""
MAX_KEYS: Final = 20_000
"""Loaded keys of a worker; about 4 KiB each."""
MAX_KEYS_OF_DOMAIN: Final = 8
"""A signature for each; more is a directory that nobody has cleaned."""
MAX_PEM_BYTES: Final = 64 * 1024
MAX_HASHES: Final = 256

HashKey = tuple[bytes, bool, bool, str]
"""Content id, relaxed, binary, treatment of long lines."""

_log = get_logger("mailet")


class Overloaded(Exception):
    """Too many signatures wait to be made."""


class KeyPlace(Struct, frozen=True):
    """Where a key is. `stamp` changes with the file."""

    domain: str
    selector: str
    path: str
    stamp: tuple[int, int] = (0, 0)


class Keyring(Struct, frozen=True):
    """The keys of a configuration, by domain."""

    places: dict[str, tuple[KeyPlace, ...]]

    @classmethod
    def of(cls, config: Config) -> Keyring:
        """Look where the keys are; none is read.

        Raises:
            ConfigError: the directory cannot be read, or a named file is not there.
        """
        found: dict[str, list[KeyPlace]] = {}
        directory = os.path.join(config.storage.path, config.dkim.directory)
        for place in places_in(directory):
            found.setdefault(place.domain, []).append(place)
        named: dict[str, list[KeyPlace]] = {}
        for index, key in enumerate(config.dkim.key):
            try:
                place = KeyPlace(key.domain, key.selector, key.path, _stamp(key.path))
            except OSError as error:
                reason = f"{key.path}: {error.strerror or error}"
                raise ConfigError(reason, key=f"dkim.key[{index}].path") from None
            named.setdefault(key.domain, []).append(place)
        return cls({domain: tuple(places[:MAX_KEYS_OF_DOMAIN]) for domain, places in (found | named).items()})

    def signer_of(self, domain: str) -> tuple[KeyPlace, ...]:
        """The keys of a domain, or of the nearest domain above it that has some (as DMARC aligns them, RFC 7489 §3.1.1)."""
        places = self.places
        while domain:
            if domain in places:
                return places[domain]
            domain = domain.partition(".")[2]
        return ()


def places_in(directory: str) -> list[KeyPlace]:
    """The keys of a directory, newest selector first; none when there is no directory.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        entries = sorted(os.listdir(directory), reverse=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror or error}", key="dkim.directory") from None
    places = []
    for name in entries:
        domain, dot, selector = name.removesuffix(SUFFIX).rpartition(".")
        if name.endswith(SUFFIX) and dot and domain and not name.startswith("."):
            path = os.path.join(directory, name)
            try:
                places.append(KeyPlace(domain, selector, path, _stamp(path)))
            except FileNotFoundError:
                continue  # renamed this moment
    return places


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns


def read_key(place: KeyPlace) -> SigningKey:
    """Raises KeyUnusable."""
    try:
        with open(place.path, "rb") as file:
            return load_key(file.read(MAX_PEM_BYTES), place.domain, place.selector)
    except OSError as error:
        raise KeyUnusable(f"{place.path}: {error.strerror or error}") from None
    except KeyUnusable as error:
        raise KeyUnusable(f"{place.path}: {error.public}", error.detail) from None


def check_keys(config: Config) -> list[str]:
    """Read every key, as far as this user may; what is legal and probably not meant.

    Raises:
        ConfigError: a key is none.
    """
    ring, warnings = Keyring.of(config), []
    for place in (place for places in ring.places.values() for place in places):
        if not os.access(place.path, os.R_OK):
            continue  # `check-config` of a user who may not read it; the server says so when it cannot either
        try:
            key = read_key(place)
        except KeyUnusable as error:
            raise ConfigError(str(error), key="dkim", hint="rusmes dkim new makes keys") from None
        if key.is_weak:
            warnings.append(f"the DKIM key {place.path} has {key.bits} bits: 2048 are recommended (RFC 8301)")
        if os.stat(place.path).st_mode & 0o077:
            warnings.append(f"others may read the DKIM key {place.path}: chmod 600")
    return warnings


class Settings(Struct, frozen=True):
    """How a configuration wants its signatures."""

    ring: Keyring
    choice: FieldChoice
    form: Form
    expire_seconds: float
    long_lines: str
    """How delivery treats lines above 998 octets: what is signed is what is sent."""
    seal_domain: str
    any_sender: bool
    """[submission] sender_check = "any": accounts may use every domain."""

    @classmethod
    def of(cls, config: Config) -> Settings:
        """Raises ConfigError."""
        dkim = config.dkim
        return cls(
            Keyring.of(config),
            FieldChoice(dkim.headers or HEADERS, dkim.oversign),
            Form.of(dkim.canonicalization),
            float(dkim.expire),
            config.delivery.long_lines,
            dkim.seal_domain or config.domain,
            config.submission.sender_check == "any",
        )


class Notary:
    """One of a worker; `settings` are replaced at a reload."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError."""
        self.settings = Settings.of(config)
        self._threads = SigningThreads(config.dkim.threads or _thread_count(config))
        self._keys: dict[KeyPlace, SigningKey] = {}
        self._loading: dict[KeyPlace, asyncio.Future[SigningKey]] = {}
        self._hashes: dict[HashKey, bytes] = {}

    def apply(self, config: Config) -> None:
        """A reload. Raises ConfigError; then nothing has changed."""
        self.settings = settings = Settings.of(config)
        kept = {place for places in settings.ring.places.values() for place in places}
        self._keys = {place: key for place, key in self._keys.items() if place in kept}

    def known_keys(self, places: Sequence[KeyPlace]) -> list[SigningKey] | None:
        """The keys when all of them are loaded."""
        try:
            return [self._keys[place] for place in places]
        except KeyError:
            return None

    async def keys(self, places: Sequence[KeyPlace]) -> list[SigningKey]:
        """The keys, in order.

        Raises:
            KeyUnusable, Overloaded
        """
        return self.known_keys(places) or [await self._key(place) for place in places]

    async def _key(self, place: KeyPlace) -> SigningKey:
        key = self._keys.get(place)
        if key is not None:
            return key
        loading = self._loading.get(place)
        if loading is None:
            loading = self._loading[place] = self.submit(lambda: read_key(place))
            loading.add_done_callback(lambda future: self._loaded(place, future))
        return await asyncio.shield(loading)

    def _loaded(self, place: KeyPlace, future: asyncio.Future[SigningKey]) -> None:
        self._loading.pop(place, None)
        if future.cancelled() or future.exception() is not None:
            _log.error("key cannot be used", domain=place.domain, selector=place.selector, reason=str(future.exception()))
            return
        while len(self._keys) >= MAX_KEYS:
            del self._keys[next(iter(self._keys))]
        self._keys[place] = future.result()

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do this in a thread. Raises Overloaded."""
        return self._threads.submit(work)

    def sign(self, headers: Headers) -> asyncio.Future[list[bytes]]:
        """Signatures, in order. Raises Overloaded."""
        return self._threads.sign(headers)

    def known_hash(self, key: HashKey) -> bytes | None:
        """The hash of a body that was remembered."""
        return self._hashes.get(key)

    def remember_hash(self, key: HashKey, digest: bytes) -> None:
        """For the other parts of a mail that was split."""
        if len(self._hashes) >= MAX_HASHES:
            del self._hashes[next(iter(self._hashes))]
        self._hashes[key] = digest

    def close(self) -> None:
        """Wait for what is under way; nothing may be submitted any more."""
        self._threads.close()


def _thread_count(config: Config) -> int:
    """Measured with a worker on each of two cores, relaying 10 KiB: a second thread of each costs 60 us of CPU more a message.

    Threads of C that never ask for the GIL were tried, and took nothing off: what a signature costs beyond RSA and 80 us of
    hashing and writing are smaller batches everywhere else, which signing in the loop itself has too.
    """
    cores = len(os.sched_getaffinity(0))
    workers = cores if config.server.workers == "auto" else config.server.workers
    return min(64, max(1, cores // workers))


Headers = list[tuple[SigningKey, bytes]]
"""Canonical headers and who signs them."""
Job = tuple[Callable[[], Any] | Headers, "asyncio.Future[Any]"]
Done = tuple["asyncio.Future[Any]", Any, BaseException | None]


class SigningThreads:
    """Threads for work that gives the GIL away, started when they are needed first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._jobs: deque[Job] = deque()
        self._condition = threading.Condition()
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Raises Overloaded."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._add((work, future))
        return future

    def sign(self, headers: Headers) -> asyncio.Future[list[bytes]]:
        """What several ask for is signed together. Raises Overloaded."""
        future: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._add((headers, future))
        return future

    def _add(self, job: Job) -> None:
        with self._condition:
            if len(self._jobs) >= MAX_WAITING or self._is_closed:
                raise Overloaded
            self._jobs.append(job)
            if self._idle:
                self._condition.notify()
            elif len(self._threads) < self._count:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"signing-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while True:
            batch = self._take()
            if not batch:
                return
            done = _did_all([job for job in batch if not job[1].cancelled()])
            try:
                batch[0][1].get_loop().call_soon_threadsafe(_tell, done)  # a server has one loop
            except RuntimeError:  # the loop has ended
                return

    def _take(self) -> list[Job]:
        """The next jobs, fairly divided between the threads; none at the end."""
        with self._condition:
            while not self._jobs:
                if self._is_closed:
                    return []
                self._idle += 1
                self._condition.wait()
                self._idle -= 1
            count = max(1, min(BATCH, len(self._jobs) // self._count))
            return [self._jobs.popleft() for _ in range(count)]

    def close(self) -> None:
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()


def _did_all(batch: Sequence[Job]) -> list[Done]:
    """All signatures of the batch at once, then what else is to be done."""
    done: list[Done] = []
    headers = [(work, future) for work, future in batch if isinstance(work, list)]
    try:
        made = iter(sign_all([pair for work, _ in headers for pair in work]))
        done += [(future, [next(made) for _ in work], None) for work, future in headers]
    except BaseException as error:
        done += [(future, None, error) for _, future in headers]
    for work, future in batch:
        if not isinstance(work, list):
            try:
                done.append((future, work(), None))
            except BaseException as error:
                done.append((future, None, error))
    return done


def _tell(done: list[Done]) -> None:
    for future, result, error in done:
        if future.cancelled():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
