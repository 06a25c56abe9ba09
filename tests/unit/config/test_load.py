"""What an operator sees: values of a good file, and every problem of a bad one with its place and the way out."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest
import tomli

from rusmes.config.checks import COMPONENTS
from rusmes.config.load import find_config, load_config, parse_config
from rusmes.config.problems import all_problems
from rusmes.config.schema import Config
from rusmes.errors import ConfigError

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "rusmes.toml"
DOMAIN = 'domain = "example.com"\n'


def parse(text: str, environ: Mapping[str, str] | None = None, base: str = "/etc/rusmes") -> Config:
    return parse_config(text, environ=environ or {}, path="rusmes.toml", base=base)


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[ConfigError]:
    with pytest.raises(ConfigError) as caught:
        parse(text, environ)
    return list(all_problems(caught.value))


def only_problem(text: str, environ: Mapping[str, str] | None = None) -> ConfigError:
    found = problems(DOMAIN + text, environ)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


# Good files


def test_the_shipped_file_says_the_defaults() -> None:
    shipped, defaults = load_config(str(SHIPPED), environ={}), Config()
    assert [warning.split()[0] for warning in shipped.warnings] == ["[jmap]"]  # not part of this version
    for name in Config.__struct_fields__:
        if name not in ("domain", "postmaster", "path", "warnings", "shaping"):
            assert getattr(shipped, name) == getattr(defaults, name), name


def test_every_key_of_the_schema_but_optional_ones_is_in_the_shipped_file() -> None:
    """The file is the contract; a key that is only in the schema is documented in docs/configuration.md."""
    raw = tomli.loads(SHIPPED.read_text())
    assert set(raw) <= set(Config.__struct_fields__)


def test_values_have_their_types() -> None:
    config = parse(
        DOMAIN
        + """
        [smtp]
        max_message_size = "1MB"
        command_timeout = "1m30s"
        [security]
        blocked_ips = ["192.0.2.1", "2001:db8::/32"]
        [server]
        workers = 3
        [logging.levels]
        smtp = "debug"
        """
    )
    assert config.smtp.max_message_size == 1 << 20
    assert config.smtp.command_timeout == 90.0
    assert config.security.blocked_ips == (ip_network("192.0.2.1/32"), ip_network("2001:db8::/32"))
    assert config.server.workers == 3
    assert config.logging.levels == {"smtp": "debug"}


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    file = tmp_path / "rusmes.toml"
    file.write_text(
        DOMAIN + 'runtime_dir = "run"\n[storage]\npath = "data"\n[tls.smtp]\ncert_path = "cert.pem"\nkey_path = "../'
        f'{tmp_path.name}/key.pem"\n'
    )
    config = load_config(str(file), environ={})
    assert config.storage.path == str(tmp_path / "data")
    assert config.runtime_dir == str(tmp_path / "run")
    assert config.tls.for_protocol("smtp").key_path == str(tmp_path / "key.pem")
    assert config.tls.for_protocol("pop3").key_path == ""


def test_an_override_of_tls_keeps_the_rest() -> None:
    config = parse(DOMAIN + '[tls]\nmin_version = "1.3"\n[tls.pop3]\nmin_version = "1.2"\n')
    assert config.tls.for_protocol("pop3").min_version == "1.2"
    assert config.tls.for_protocol("smtp").min_version == "1.3"


def test_names_are_brought_into_one_form() -> None:
    config = parse(
        """
        domain = "Bücher.Example."
        postmaster = "Chef@Bücher.example"
        [domains]
        local_domains = ["bücher.example", "example.com"]
        aliases = { "Sales@Bücher.example" = "Alice@Example.COM", "@Alt.example" = "@bücher.example" }
        catch_all = { "Example.COM" = "alice@example.com" }
        """
    )
    assert config.domain == "xn--bcher-kva.example"
    assert config.postmaster == "Chef@xn--bcher-kva.example"
    assert config.domains.aliases == {
        "sales@xn--bcher-kva.example": ("Alice@example.com",),
        "@alt.example": ("@xn--bcher-kva.example",),
    }
    assert config.domains.catch_all == {"example.com": "alice@example.com"}


def test_without_a_file_the_server_stays_in_this_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rusmes.config.load.PLACES", ("rusmes.toml",))
    config = load_config(environ={})
    assert (config.domain, config.path) == ("localhost", "")
    assert config.storage.path == str(tmp_path / "rusmes-data")
    assert config.runtime_dir == str(tmp_path / "rusmes-data" / "run")
    assert {config.smtp.host, config.submission.host, config.pop3.host} == {"127.0.0.1"}
    assert not list(tmp_path.iterdir())


def test_the_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rusmes.toml").write_text(DOMAIN)
    assert find_config("given.toml", {"RUSMES_CONFIG": "other.toml"}) == "given.toml"
    assert find_config(None, {"RUSMES_CONFIG": "other.toml"}) == "other.toml"
    assert find_config(None, {}) == "rusmes.toml"


def test_text_of_other_systems_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rusmes.toml"
    file.write_bytes(b"\xef\xbb\xbf" + DOMAIN.replace("\n", "\r\n").encode() + b"[smtp]\r\nport = 25\r\n")
    assert load_config(str(file), environ={}).smtp.port == 25


def test_a_step_may_stand_on_several_lines() -> None:
    config = parse(DOMAIN + '[[processors]]\nname="r"\nstate="root"\nmailets=[{\n  mailet="Null",\n  params={a=1},\n}]\n')
    assert config.processors[0].mailets[0].mailet == "Null"
    assert config.processors[0].mailets[0].matcher == "All"
    assert config.processors[1].state == "error"
    assert "held for the operator" in config.warnings[0]


# Bad files


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: the file does not exist") as caught:
        load_config(str(tmp_path / "absent.toml"), environ={})
    assert "rusmes init" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"domain = \n", 1, "is no TOML"),
        (b'domain = "a.example"\n[smtp]\nport = 25\nport = 26\n', 4, "is no TOML"),
        (b'domain = "a.example"\n# \xff\n', 2, "is not UTF-8"),
        (b"a = " + b"[" * 5000, 0, "is no TOML"),
        (b"\x00", 1, "is no TOML"),
    ],
)
def test_what_is_no_toml(tmp_path: Path, data: bytes, line: int, reason: str) -> None:
    file = tmp_path / "rusmes.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_config(str(file), environ={})
    assert caught.value.path == str(file)
    assert line == 0 or caught.value.line == line


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(str(tmp_path), environ={})


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    found = problems('domain = "a b"\n[smtp]\nprot = 25\nport = 99999\n[pop3]\ntimeout = "soon"\n')
    assert [(p.line, p.key) for p in found] == [(1, "domain"), (3, "smtp.prot"), (4, "smtp.port"), (6, "pop3.timeout")]
    assert found[1].hint == 'did you mean "port"?'


@pytest.mark.parametrize(
    ("text", "key", "line", "reason", "hint"),
    [
        ("[smpt]\nport = 25", "smpt", 2, "unknown key", 'did you mean "smtp"?'),
        ("smtp = 25", "smtp", 2, "expected a table, got the number 25", ""),
        ('[smtp]\nport = "25"', "smtp.port", 3, 'expected a number, got the string "25"', ""),
        ("[smtp]\nport = -1", "smtp.port", 3, "out of range: a number >= 0", ""),
        ("[smtp]\nport = true", "smtp.port", 3, "expected a number, got true", ""),
        ("[smtp]\nport = 1979-05-27", "smtp.port", 3, "expected a number, got a date", ""),
        ("[smtp]\nrequire_auth = 1", "smtp.require_auth", 3, "expected true or false, got the number 1", ""),
        ('[smtp]\nmax_message_size = "50 potatoes"', "smtp.max_message_size", 3, "is no size", ""),
        ("[smtp]\nmax_message_size = -1", "smtp.max_message_size", 3, "is not between", ""),
        ('[smtp]\nbare_newline = "rejct"', "smtp.bare_newline", 3, "is not one of reject, normalize", 'did you mean "reject"?'),
        ('[smtp]\nhost = "a b"', "smtp.host", 3, "is not a domain", ""),
        ('[smtp]\nhost = "x\\u0007y"', "smtp.host", 3, "control character", ""),
        ('[server]\nworkers = "many"', "server.workers", 3, "is not one of auto or a number", ""),
        ("[server]\nworkers = 0", "server.workers", 3, "0", ""),
        ("[tracing]\nsample_ratio = 2.0", "tracing.sample_ratio", 3, "out of range", ""),
        ("[tracing]\nsample_ratio = nan", "tracing.sample_ratio", 3, "out of range", ""),
        ("[submission]\nmechanisms = [\n 'PLAIN',\n 'PLAN']", "submission.mechanisms[1]", 5, "SASL mechanism", 'mean "PLAIN"?'),
        ("[submission]\nmechanisms = ['PLAIN', 1]", "submission.mechanisms[1]", 3, "expected a string, got the number 1", ""),
        ("[logging.levels]\nsmtp = 'loud'", "logging.levels.smtp", 3, "is not one of", ""),
        ("[domains.aliases]\n'a@example.com' = []", "domains.aliases.'a@example.com'", 3, "an alias leads to", ""),
        ("[domains.aliases]\n'a' = 'b@x.example'", "domains.aliases.a", 3, "is not an address", ""),
        ("[domains.aliases]\n'@x.example' = 'b@x.example'", "domains.aliases.'@x.example'", 3, "whole domain", ""),
        ("[domains.catch_all]\n'a@b.example' = 'b@x.example'", "domains.catch_all.'a@b.example'", 3, "is not a domain", ""),
        ("[domains]\nrecipient_delimiter = '+@'", "domains.recipient_delimiter", 3, "cannot separate", ""),
        ("[domains.aliases]\n'a@other.example' = 'b@x.example'", "domains.aliases.'a@other.example'", 3, "not a local", ""),
        ("[domains.aliases]\n'@x.example' = '@other.example'", "domains.aliases.'@x.example'", 3, "not a local domain", ""),
        ("[domains.aliases]\n'@a.example' = '@b.example'\n'@b.example' = '@a.example'",
         "domains.aliases.'@a.example'", 3, "circle", ""),
        ("[domains.catch_all]\n'other.example' = 'b@x.example'", "domains.catch_all.'other.example'", 3, "not a local", ""),
        ("[queue]\nretry_schedule = []", "queue.retry_schedule", 3, "", ""),
        ("[queue]\nretry_schedule = ['5m', '0s']", "queue.retry_schedule[1]", 3, "without end", ""),
        ("[queue]\nmax_age = '0s'", "queue.max_age", 3, "longer than 0", ""),
        ("[smtp]\ncommand_timeout = 0", "smtp.command_timeout", 3, "longer than 0", ""),
        ("[smtp]\nmax_message_size = 0", "smtp.max_message_size", 3, "larger than 0", ""),
        ("[smtp.rate_limit]\nwindow_duration = 0", "smtp.rate_limit.window_duration", 3, "longer than 0", ""),
        ("[pop3]\ntimeout = '0s'", "pop3.timeout", 3, "longer than 0", ""),
        ("[delivery]\nresolver = ['127.0.0.1:5353', 'ns.example']", "delivery.resolver[1]", 3, "no name server", ""),
        ("[delivery]\nresolver = ['127.0.0.1:99999']", "delivery.resolver[0]", 3, "no name server", ""),
        ("[relay]\nhost = 'smart.example'\nusername = 'us'", "relay.username", 4, "has no password", "password_file"),
        ("[[delivery.route]]\nname='a'\nhost='x.example'\nusername='us'",
         "delivery.route[0].username", 5, "has no password", ""),
        ("[server]\nworkers = 1000", "server.workers", 3, "out of range", ""),
        ("[delivery]\nsource_addresses = ['::1', 'eth0']", "delivery.source_addresses[1]", 3, "not an IP address", ""),
        ("[[delivery.site]]\nmatch = ['*.a_b']", "delivery.site[0].match[0]", 3, "is not a domain", ""),
        ("[[delivery.site]]\ntls = 'none'", "delivery.site[0]", 2, '"match" is missing', ""),
        ("[delivery.site]\nmatch = ['a.example']", "delivery.site", 2, "expected an array of tables", "write [[site]]"),
        ("[[delivery.route]]\nname='a'\nhost='x.example'\n[[delivery.route]]\nname='a'\nhost='y.example'",
         "delivery.route[1].name", 6, "taken", ""),
        ("[metrics]\nbind_address = '9090'", "metrics.bind_address", 3, "is not an address with a port", ""),
        ("[metrics]\npath = 'metrics'", "metrics.path", 3, 'does not start with "/"', ""),
        ("[metrics]\npath = '/health'", "metrics.path", 3, "health check", ""),
        ("[metrics]\npath = '/status'", "metrics.path", 3, "administration API", ""),
        ("[metrics]\npath = '/{anything}'", "metrics.path", 3, "no plain path", ""),
        ("[metrics]\npath = '/'", "metrics.path", 3, "no plain path", ""),
        ("[logging]\noutput = 'file'", "logging.output", 3, "has no path", ""),
        ("[lmtp]\npath = '/" + "x" * 120 + "'", "lmtp.path", 3, "limit of Unix sockets", ""),
        ("[tls]\nclient_auth = 'required'", "tls.client_auth", 3, "need client_ca_path", ""),
        ("[admin]\ntoken_file = '/nowhere/token'", "admin.token_file", 3, "does not exist", ""),
        ("[pop3]\nport = 2587", "pop3.port", 3, "already taken by submission.port", "0 is off"),
        ("[smtp]\nhost = '0.0.0.0'\ntls_port = 2110", "pop3.port", 0, "already taken by smtp.tls_port", ""),
        ("[metrics]\nbind_address = '127.0.0.1:2525'", "metrics.bind_address", 3, "already taken by smtp.port", ""),
        ("[storage]\nbackend = 'postgres'", "storage.backend", 3, "not part of this version", 'use "lmdb"'),
        ("[auth]\nbackend = 'ldap'", "auth.backend", 3, "not part of this version", 'use "file"'),
        ("[tracing]\nenabled = true", "tracing.enabled", 3, "not part of this version", ""),
        ("[relay]\npassword = 'x'\npassword_file = 'y'", "relay.password_file", 4, "is set as well", ""),
        ("[relay]\npassword_file = '/nowhere/x'", "relay.password_file", 3, "cannot read /nowhere/x: No such file", ""),
        ("[[processors]]\nname='a'\nstate='start'", "processors", 2, 'no processor has the state "root"', ""),
        ("[[processors]]\nname='a'\nstate='root'\n[[processors]]\nname='b'\nstate='root'",
         "processors[1].state", 7, "taken", ""),
        ("[[processors]]\nname='a'\nstate='root'\nmailets=[{matcher='All'}]",
         "processors[0].mailets[0]", 5, '"mailet" is missing', ""),
        ("[[processors]]\nname='a'\nstate='root'\nmailets=[{mailet='Null', on_mailet_exception='ignor'}]",
         "processors[0].mailets[0].on_mailet_exception", 5, "neither a state nor ignore", 'did you mean "ignore"?'),
    ],
)  # fmt: skip
def test_a_problem_names_place_reason_and_way_out(text: str, key: str, line: int, reason: str, hint: str) -> None:
    problem = only_problem(text)
    assert problem.key == key
    assert problem.line == line or line == 0
    assert reason in problem.reason
    assert hint in problem.hint
    assert problem.path == "rusmes.toml"


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/2", "2000::/3"])
@pytest.mark.parametrize(
    ("section", "key", "consequence"),
    [
        ("security", "relay_networks", "open relay"),
        ("auth", "plaintext_networks", "in the clear"),
        ("server", "proxy_networks", "claim"),
    ],
)
def test_nobody_opens_the_server_to_the_world(network: str, section: str, key: str, consequence: str) -> None:
    problem = only_problem(f'[{section}]\n{key} = ["10.0.0.0/8",\n"{network}"]')
    assert (problem.key, problem.line) == (f"{section}.{key}[1]", 4)
    assert consequence in problem.reason


@pytest.mark.parametrize(
    "network", ["10.0.0.0/8", "192.168.0.0/16", "fc00::/7", "fe80::/10", "203.0.113.0/24", "2001:db8::/32"]
)
def test_networks_of_an_operator_are_fine(network: str) -> None:
    assert parse(f'{DOMAIN}[security]\nrelay_networks = ["{network}"]').security.relay_networks == (ip_network(network),)


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    problem = only_problem(f"[tls]\ncert_path = '{tmp_path}/cert.pem'")
    assert (problem.key, problem.line) == ("tls.cert_path", 3)
    assert "key_path is not" in problem.reason


def test_two_addresses_may_share_a_port() -> None:
    config = parse(DOMAIN + "[smtp]\nhost = '127.0.0.1'\nport = 2110\n[pop3]\nhost = '127.0.0.2'\nport = 2110\n")
    assert config.smtp.port == config.pop3.port


def test_what_is_legal_and_not_meant_is_a_warning() -> None:
    assert any("[jmap] is not part of this version" in warning for warning in parse(DOMAIN + "[jmap]\nport = 8081").warnings)
    assert any("no delay notice" in warning for warning in parse(DOMAIN + "[queue]\nmax_age = '1h'").warnings)
    assert any('mean "smtp"' in warning for warning in parse(DOMAIN + "[logging.levels]\nsmpt = 'debug'").warnings)
    unused = DOMAIN + "[relay]\nhost = 'smart.example'\npassword = 'x'"
    assert any("relay.password is never used" in warning for warning in parse(unused).warnings)
    assert any("domain is not set" in warning for warning in parse("").warnings)


def test_every_component_that_logs_can_be_named() -> None:
    sources = [path.read_text() for path in (ROOT / "rusmes").rglob("*.py")]
    names = {name for text in sources for name in re.findall(r'get_logger\("([^"]+)"\)', text)}
    assert names <= set(COMPONENTS)


# Secrets


def test_secrets_come_from_files_and_never_show(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    config = parse(DOMAIN + "[relay]\nhost = 'smart.example'\npassword_file = 'secret'", base=str(tmp_path))
    assert config.relay.password == "hunter2"
    assert "hunter2" not in repr(config)
    assert "hunter2" not in repr(parse(DOMAIN, {"RUSMES_RELAY_PASSWORD_FILE": str(tmp_path / "secret")}))


@pytest.mark.parametrize("content", ["", "\n", "a\nb\n"])
def test_a_secret_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content)
    with pytest.raises(ConfigError, match="cannot read"):
        parse(DOMAIN + "[relay]\npassword_file = 'secret'", base=str(tmp_path))


# Environment


def test_every_kind_of_scalar_can_come_from_the_environment() -> None:
    config = parse(
        "",
        {
            "RUSMES_DOMAIN": "example.org",
            "RUSMES_SMTP_PORT": "25",
            "RUSMES_SMTP_RATE_LIMIT_MAX_CONNECTIONS_PER_IP": "7",
            "RUSMES_SMTP_MAX_MESSAGE_SIZE": "1MB",
            "RUSMES_SMTP_BARE_NEWLINE": "normalize",
            "RUSMES_SERVER_WORKERS": "2",
            "RUSMES_METRICS_ENABLED": "false",
            "RUSMES_TRACING_SAMPLE_RATIO": "0.5",
            "RUSMES_QUEUE_MAX_AGE": "2d",
            "RUSMES_SECURITY_RELAY_NETWORKS": "10.0.0.0/8, ::1",
            "RUSMES_LOGGING_FILE_PATH": "/tmp/x.log",
            "RUSMES_TLS_SMTP_MIN_VERSION": "1.3",
            "RUSMES_RELAY_PASSWORD": "hunter2",
            "RUSMES_LOG_LEVEL": "debug",
            "RUSMES_CONFIG": "ignored",
            "HOME": "/root",
        },
    )
    assert (config.domain, config.smtp.port, config.smtp.rate_limit.max_connections_per_ip) == ("example.org", 25, 7)
    assert (config.smtp.max_message_size, config.smtp.bare_newline, config.server.workers) == (1 << 20, "normalize", 2)
    assert (config.metrics.enabled, config.tracing.sample_ratio, config.queue.max_age) == (False, 0.5, 172800.0)
    assert config.security.relay_networks == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert (config.logging.file.path, config.logging.level) == ("/tmp/x.log", "debug")
    assert config.tls.for_protocol("smtp").min_version == "1.3"
    assert config.relay.password == "hunter2"
    assert config.warnings == ()


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    text = DOMAIN + "[smtp]\nport = 25\n[relay]\npassword = 'from the file'\n"
    config = parse(text, {"RUSMES_SMTP_PORT": "26", "RUSMES_RELAY_PASSWORD_FILE": str(tmp_path / "secret")})
    assert (config.smtp.port, config.relay.password) == (26, "hunter2")


@pytest.mark.parametrize(
    ("name", "value", "reason", "hint"),
    [
        ("RUSMES_SMTP_PORT", "many", "", ""),
        ("RUSMES_SMTP_PORT", "99999", "out of range", ""),
        ("RUSMES_SMTP_PORT", "", "", ""),
        ("RUSMES_SMTP_PORT", "tcp://10.0.0.7:25", "not a value", "Kubernetes"),
        ("RUSMES_SMTP_PROT", "25", "no such setting", 'did you mean "RUSMES_SMTP_PORT"?'),
        ("RUSMES_SERVER_WORKERS", "x", "is not one of auto or a number", ""),
        ("RUSMES_METRICS_ENABLED", "maybe", "", ""),
        ("RUSMES_QUEUE_MAX_ATTEMPTS", "3", "no such setting", "[queue] max_age"),
        ("RUSMES_SECURITY_RELAY_NETWORKS", "::/0", "open relay", ""),
        ("RUSMES_RELAY_PASSWORD_FILE", "/nowhere/x", "cannot read", ""),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str, reason: str, hint: str) -> None:
    problem = only_problem("", {name: value})
    assert problem.key == name
    assert reason in problem.reason
    assert hint in problem.hint
    assert (problem.path, problem.line) == ("", 0)


def test_what_kubernetes_sets_is_a_warning() -> None:
    config = parse(
        DOMAIN, {"RUSMES_SMTP_SERVICE_HOST": "10.0.0.7", "RUSMES_SMTP_PORT_25_TCP_ADDR": "10.0.0.7", "RUSMES_X": "1"}
    )
    assert len(config.warnings) == 3


# The predecessor


def test_keys_with_the_same_meaning_are_taken_over() -> None:
    config = parse(
        DOMAIN
        + """
        [smtp.outbound]
        idle_timeout_secs = 30
        per_remote_cap = 8
        global_cap = 256
        [pop3]
        timeout_seconds = 900
        [performance]
        worker_threads = 4
        [tls.default]
        client_auth = "disabled"
        """
    )
    assert (config.delivery.idle_timeout, config.delivery.connections_per_site, config.delivery.max_connections) == (30, 8, 256)
    assert (config.pop3.timeout, config.server.workers) == (900, 4)
    assert len(config.warnings) == 6
    assert "pop3.timeout_seconds is now called pop3.timeout" in config.warnings


@pytest.mark.parametrize(
    ("text", "key", "line", "way_out"),
    [
        ("[smtp]\nallow_relay = true", "smtp.allow_relay", 3, "relay_networks"),
        ("[queue]\nmax_attempts = 3", "queue.max_attempts", 3, "max_age"),
        ("[metrics]\nbasic_auth = { username = 'a' }", "metrics.basic_auth", 3, "token_file"),
        ("[storage.filesystem]\npath = '/x'", "storage.filesystem", 2, "directly into [storage]"),
        ("[performance]\nimap_pool_size = 3", "performance.imap_pool_size", 3, "remove the key"),
        ("[jmap.push]\nadmin_email = 'x'", "jmap.push", 2, "remove the table"),
        ("[smtp.outbound]\nper_remote_cap = 0", "smtp.outbound.per_remote_cap", 3, ""),
        ("[[processors]]\nname='r'\nstate='root'\nthread_pool_size=4", "processors[0].thread_pool_size", 5, "no threads"),
    ],
)
def test_keys_that_are_gone_say_what_replaces_them(text: str, key: str, line: int, way_out: str) -> None:
    problem = only_problem(text)
    assert (problem.key, problem.line) == (key, line)
    assert way_out in problem.hint


# Fuzz


def mutate(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text))
        kind = chance.randrange(5)
        if kind == 0:
            text = text[:at] + text[at + chance.randint(1, 8) :]
        elif kind == 1:
            text = (
                text[:at]
                + chance.choice(["[", "]", "{", "}", '"', "'", "=", "\n", "\x00", "é", "\ud800", "-", "9" * 30, "nan"])
                + text[at:]
            )
        else:
            lines = text.split("\n")
            line = chance.randrange(len(lines))
            key, equals, _ = lines[line].partition("=")
            values = [
                "true",
                "-1",
                '""',
                "[]",
                "{}",
                "nan",
                "1979-05-27",
                '"x"',
                "[[1]]",
                "[{}]",
                "1e400",
                "99999999999999999999",
                '"\\u0000"',
            ]
            if kind == 2 and equals:
                lines[line] = f"{key}= {chance.choice(values)}"
            elif kind == 3:
                lines.insert(chance.randrange(len(lines)), lines[line])
            else:
                del lines[line]
            text = "\n".join(lines)
    return text or "\n"


@pytest.mark.parametrize("seed", range(20))
def test_no_mutation_of_the_shipped_file_raises_anything_else(seed: int) -> None:
    """Invariant: a Config, or a ConfigError whose every problem has a reason and a line inside the text."""
    chance = random.Random(seed)
    original = SHIPPED.read_text()
    outcomes = set()
    for _ in range(25):
        text = mutate(original, chance)
        try:
            parse(text)
            outcomes.add("good")
        except ConfigError as error:
            outcomes.add("bad")
            for problem in all_problems(error):
                assert problem.reason
                assert 0 <= problem.line <= text.count("\n") + 1
    assert outcomes


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().smtp.port = 25  # type: ignore[misc]
    assert msgspec.structs.replace(Config(), domain="x.example").domain == "x.example"
