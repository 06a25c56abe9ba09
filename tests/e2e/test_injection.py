"""Mail from programs, over HTTP, through a running server."""

from __future__ import annotations

import http.client
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import RunningServer
from tests.sinks.thread import SinkThread

TOKEN = "a-token-of-some-length"
ROUTE = """
[[delivery.route]]
name = "sink"
host = "127.0.0.1"
port = {port}
domains = ["*"]
use_tls = false
"""


@pytest.fixture
def sink():
    with SinkThread() as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, sink: SinkThread):
    (tmp_path / "token").write_text(TOKEN)
    server = RunningServer(tmp_path, workers=2, extra="")
    server.write_config()
    text = server.config.read_text()
    text = text.replace("[admin]", "") + f'\n[admin]\ntoken_file = "{tmp_path}/token"\n' + ROUTE.format(port=sink.port)
    server.config.write_text(text)
    server.add_user()
    return server


def inject(server: RunningServer, document: Any, token: str = TOKEN) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=20)
    try:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        connection.request("POST", "/inject", body, {"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def item(**more: Any) -> dict[str, Any]:
    message = {"from": "Shop <shop@example.com>", "subject": "hi {{n}}", "text": "x"}
    return {"recipients": [{"address": "u@example.org", "substitutions": {"n": 1}}], "message": message, **more}


def test_a_batch_arrives_and_a_key_is_remembered(server: RunningServer, sink: SinkThread) -> None:
    with server:
        items = [item(key=f"k{number}") for number in range(20)] + [item(), {**item(), "recipients": ["alice@example.com"]}]
        items[-1]["substitutions"] = {"n": 2}
        status, answer = inject(server, {"messages": items})
        assert status == 200
        assert [result["status"] for result in answer["results"]] == ["accepted"] * 22
        server.wait_until(lambda: sink.count == 21, "sent")
        assert b"Subject: hi 1\r\n" in sink.messages[0].data
        again = inject(server, {"messages": items[:20]})[1]["results"]
        assert all(result["duplicate"] for result in again)
        assert [result["ids"] for result in again] == [result["ids"] for result in answer["results"][:20]]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        server.start()
        once_more = inject(server, {"messages": items[:20]})[1]["results"]
        assert [result["ids"] for result in once_more] == [result["ids"] for result in again], "keys survive a restart"
        assert sink.count == 21


@pytest.mark.parametrize(
    ("document", "status", "error"),
    [
        (b"{broken", 400, "JSON"),
        ({"messages": [{"recipients": []}]}, 400, "length"),
        ([], 400, "object"),
        (b"[" * 100_000, 400, ""),
        (b'{"messages": "' + b"x" * (65 << 20) + b'"}', 413, ""),
    ],
    ids=["broken", "empty", "array", "deep", "huge"],
)
def test_what_is_no_request_is_refused_whole(
    server: RunningServer, sink: SinkThread, document: Any, status: int, error: str
) -> None:
    with server:
        try:
            found, answer = inject(server, document)
        except (ConnectionError, http.client.HTTPException):
            assert status == 413  # the server need not read the rest
        else:
            assert found == status, answer
            assert error in answer["error"]
        assert inject(server, {"messages": [item()]}, "wrong")[0] == 403
        assert inject(server, {"messages": [item()]})[0] == 200
        server.wait_until(lambda: sink.count == 1, "sent")
