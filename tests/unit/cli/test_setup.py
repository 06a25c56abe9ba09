"""`rusmes init`: what it writes is closed, complete and valid, and a failure leaves nothing behind."""

from __future__ import annotations

import base64
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key

from rusmes.cli.dns_records import Record, mta_sts_policy, records_for
from rusmes.cli.keys import make_dkim_keys
from rusmes.config.load import load_config


def init(run: Any, directory: Path, *arguments: str, stdin: str | None = None) -> Any:
    return run("-c", str(directory / "rusmes.toml"), "--json", "init", *arguments, stdin=stdin)


def test_it_makes_a_server_that_check_config_likes(run: Any, tmp_path: Path) -> None:
    result = init(run, tmp_path, "--domain", "Example.com", "--account", "alice", "--password-stdin", stdin="secret\n")
    assert (result.status, result.errors) == (0, "")
    assert result.document["account"] == "alice@example.com"
    assert "password" not in result.document
    path = tmp_path / "rusmes.toml"
    config = load_config(str(path), environ={})
    assert (config.domain, config.hostname) == ("example.com", "mail.example.com")
    assert config.warnings == ()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    data = tmp_path / "rusmes-data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert [stat.S_IMODE(key.stat().st_mode) for key in data.rglob("*.pem") if key.name != "tls-cert.pem"] == [0o600] * 3
    assert run("-c", str(path), "check-config").status == 0
    assert run("-c", str(path), "user", "list", "--json").document[0]["address"] == "alice@example.com"


@pytest.mark.parametrize("public", [True, False])
def test_what_it_writes_is_closed(run: Any, tmp_path: Path, public: bool) -> None:
    user = ["--public", "--user", "root"] if public else []
    assert init(run, tmp_path, "--domain", "example.com", "--generate", *user).status == 0
    config = load_config(str(tmp_path / "rusmes.toml"), environ={})
    networks = {*config.security.relay_networks, *config.auth.plaintext_networks, *config.server.proxy_networks}
    assert all(network.is_loopback for network in networks)
    assert config.submission.require_tls
    assert config.submission.sender_check == "own-addresses"
    assert config.metrics.bind_address.startswith("127.0.0.1:")
    assert config.admin.token_file == ""
    assert config.security.reject_unknown_recipients
    last = config.processors[0].mailets[-1]
    assert (last.matcher, last.mailet, last.params["code"]) == ("All", "Reject", 550)
    assert config.smtp.port == (25 if public else 2525)
    assert config.smtp.host in (("::", "0.0.0.0") if public else ("127.0.0.1",))


def test_the_dns_records_are_complete(run: Any, tmp_path: Path) -> None:
    document = init(run, tmp_path, "--domain", "example.com", "--generate").document
    records = {(record["name"], record["type"]): record["value"] for record in document["dns"]}
    assert records["example.com", "MX"] == "10 mail.example.com."
    assert records["example.com", "TXT"] == "v=spf1 mx -all"
    assert records["_dmarc.example.com", "TXT"] == "v=DMARC1; p=quarantine; rua=mailto:postmaster@example.com"
    assert records["_mta-sts.example.com", "TXT"].startswith("v=STSv1;")
    assert records["_submissions._tcp.example.com", "SRV"] == "0 1 2465 mail.example.com."
    assert [name for name, kind in records if name.endswith("._domainkey.example.com")] != []
    assert any(name == "mail.example.com" and kind in ("A", "AAAA") for name, kind in records)
    assert "mx: mail.example.com" in document["mta_sts_policy"]


def test_dkim_records_belong_to_their_keys(tmp_path: Path) -> None:
    keys = make_dkim_keys(str(tmp_path), "example.com")
    assert [key.record.split("; ")[1] for key in keys] == ["k=rsa", "k=ed25519"]
    for key in keys:
        private = load_pem_private_key(Path(key.path).read_bytes(), None)
        public = base64.b64decode(key.record.rpartition("p=")[2])
        if isinstance(private, rsa.RSAPrivateKey):
            assert load_der_public_key(public) == private.public_key()
            assert private.key_size == 2048
        else:
            assert isinstance(private, ed25519.Ed25519PrivateKey)
            assert public == private.public_key().public_bytes_raw()
        assert key.selector in key.path
    assert make_dkim_keys(str(tmp_path), "example.com") == keys


def test_long_txt_records_are_split() -> None:
    line = Record("x.example", "TXT", "a" * 300 + '"', "").line()
    assert line == f'x.example. TXT "{"a" * 255}" "{"a" * 45}\\""'
    assert records_for("d.example", "h.example", "p@d.example", [], addresses=["2001:db8::1"])[0].type == "AAAA"
    assert mta_sts_policy("h.example").startswith("version: STSv1\nmode: testing\n")


@pytest.mark.parametrize(
    ("arguments", "stdin", "reason"),
    [
        ((), None, "the domain is missing"),
        (("--domain", "not a domain", "--generate"), None, "is not a domain"),
        (("--domain", "example.com", "--hostname", "a_b", "--generate"), None, "is not a domain"),
        (("--domain", "example.com", "--account", "a@b.example", "--generate"), None, "must be in example.com"),
        (("--domain", "example.com", "--postmaster", "x", "--generate"), None, "is not an address"),
        (("--domain", "example.com"), None, "--password-stdin"),
        (("--domain", "example.com", "--password-stdin"), "\n", "the password is empty"),
        (("--domain", "example.com", "--generate", "--public", "--user", "no-such-user"), None, "no-such-user"),
    ],
)
def test_a_refusal_leaves_nothing(run: Any, tmp_path: Path, arguments: tuple[str, ...], stdin: str | None, reason: str) -> None:
    result = init(run, tmp_path, *arguments, stdin=stdin)
    assert result.status == 2
    assert reason in result.errors
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_never_touched(run: Any, tmp_path: Path) -> None:
    (tmp_path / "rusmes.toml").write_text("mine")
    result = init(run, tmp_path, "--domain", "example.com", "--generate")
    assert (result.status, "exists already" in result.errors) == (2, True)
    assert (tmp_path / "rusmes.toml").read_text() == "mine"


def test_what_was_made_goes_when_a_later_part_fails(run: Any, tmp_path: Path) -> None:
    (tmp_path / "rusmes-data").mkdir()
    (tmp_path / "rusmes-data" / "dkim").write_text("in the way")
    result = init(run, tmp_path, "--domain", "example.com", "--generate")
    assert result.status in (1, 2)
    assert not (tmp_path / "rusmes.toml").exists()
    assert [path.name for path in (tmp_path / "rusmes-data").iterdir()] == ["dkim"]


def test_the_quickstart_is_made_once(run: Any, tmp_path: Path) -> None:
    first = run("--json", "init", "--quickstart", str(tmp_path / "var")).document
    again = run("--json", "init", "--quickstart", str(tmp_path / "var")).document
    assert (first.pop("created"), again.pop("created")) == (True, False)
    assert first == again
    assert first["account"] == "demo@rusmes.test"
    assert first["ports"]["SMTP"] == "127.0.0.1:2525"
    assert first["password"] in first["read"]
    assert "imap://127.0.0.1:2143/INBOX;MAILINDEX=1" in first["read"]
    assert "127.0.0.1" in first["send"]
    config = load_config(first["config"], environ={})
    assert config.storage.path == str(tmp_path / "var" / "data")
    assert stat.S_IMODE((tmp_path / "var" / "demo-password").stat().st_mode) == 0o600


def test_the_quickstart_tells_people(run: Any, tmp_path: Path) -> None:
    output = run("init", "--quickstart", str(tmp_path / "var")).output
    for text in ("demo@rusmes.test", "127.0.0.1:2525", "127.0.0.1:9090", "curl -sS -u", "send a message", "status"):
        assert text in output
