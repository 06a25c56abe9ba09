"""Each mechanism's messages, the good ones and every way they can be wrong."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes.auth.passwords import derive_scram
from rusmes.sasl import scram
from rusmes.sasl.client import LoginClient, PlainClient, ScramClient, choose
from rusmes.sasl.prepare import prepare_password
from rusmes.sasl.questions import (
    Challenge,
    CheckName,
    CheckPassword,
    CheckToken,
    MalformedResponse,
    NeedKeys,
    Proved,
    SaslError,
)
from rusmes.sasl.server import External, Login, OAuthBearer, Plain, ScramSha256, ServerMechanism, XOAuth2


@pytest.mark.rfc("4616", "2")
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"\0tim\0tanstaaftanstaaf", CheckPassword("tim", "tanstaaftanstaaf")),
        (b"Ursel\0Kurt\0xipj3plmq", CheckPassword("Kurt", "xipj3plmq", "Ursel")),
        ("\0j\xfcrgen\0pässword".encode(), CheckPassword("jürgen", "pässword")),
    ],
)
def test_plain(message: bytes, expected: CheckPassword) -> None:
    assert Plain().step(message) == expected
    assert Plain().step(None) == Challenge(b"")


@pytest.mark.parametrize(
    "message", [b"", b"tim", b"\0tim", b"\0tim\0", b"\0\0pw", b"a\0b\0c\0d", b"\0t\xff\0pw", b"\0t\r\n\0pw", b"a\x01\0b\0c"]
)
def test_plain_refuses(message: bytes) -> None:
    with pytest.raises(MalformedResponse):
        Plain().step(message)


def test_login_asks_twice() -> None:
    login = Login()
    assert login.step(None) == Challenge(b"Username:")
    assert login.step(b"tim") == Challenge(b"Password:")
    assert login.step(b"secret") == CheckPassword("tim", "secret")
    with pytest.raises(MalformedResponse):
        Login().step(b"")
    with pytest.raises(MalformedResponse):
        login.step(b"")


def test_external_takes_the_name_from_the_certificate() -> None:
    assert External(["a@example.com"]).step(b"") == CheckName("a@example.com")
    assert External(["a@example.com", "b@example.com"]).step(b"B@example.com") == CheckName("b@example.com")
    assert External(["a@example.com"]).step(b"c@example.com") == CheckName("a@example.com", "c@example.com")
    assert External([]).step(b"a@example.com") == CheckName("", "a@example.com")


@pytest.mark.rfc("7628", "3.1")
def test_bearer_tokens() -> None:
    message = b"n,a=user@example.com,\x01host=server\x01port=143\x01auth=Bearer vF9dft4qmT\x01\x01"
    question = OAuthBearer().step(message)
    assert isinstance(question, CheckToken)
    assert (question.username, question.token) == ("user@example.com", "vF9dft4qmT")
    assert OAuthBearer().step(b"n,,\x01auth=bearer t\x01\x01") == CheckToken("", "t", question.on_denial)
    google = XOAuth2().step(b"user=me@example.com\x01auth=Bearer ya29\x01\x01")
    assert isinstance(google, CheckToken)
    assert (google.username, google.token) == ("me@example.com", "ya29")


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        (OAuthBearer, b""),
        (OAuthBearer, b"n\x01auth=Bearer t\x01\x01"),
        (OAuthBearer, b"p=x,,\x01auth=Bearer t\x01\x01"),
        (OAuthBearer, b"n,user,\x01auth=Bearer t\x01\x01"),
        (OAuthBearer, b"n,,\x01auth=Basic t\x01\x01"),
        (OAuthBearer, b"n,,\x01auth=Bearer \x01\x01"),
        (OAuthBearer, b"n,,\x01host=x\x01\x01"),
        (XOAuth2, b"user=\x01auth=Bearer t\x01\x01"),
        (XOAuth2, b"auth=Bearer t\x01\x01"),
        (XOAuth2, b"user=a\x01auth=t\x01\x01"),
    ],
)
def test_bearer_tokens_refused(mechanism: type[ServerMechanism], message: bytes) -> None:
    with pytest.raises(MalformedResponse):
        mechanism().step(message)


# The example of RFC 7677 §3.
NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
KEYS = derive_scram("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)


@pytest.mark.rfc("7677", "3")
def test_scram_example_of_the_rfc() -> None:
    server = ScramSha256(nonce=SERVER_NONCE)
    client = ScramClient("user", "pencil", nonce=NONCE)
    first = client.initial()
    assert first == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert server.step(first) == NeedKeys("user")
    challenge = server.keys(KEYS)
    assert challenge.data == b"r=" + NONCE.encode() + SERVER_NONCE.encode() + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    final = client.respond(challenge.data)
    assert final == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    signature = server.step(final)
    assert signature == Challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert client.respond(signature.data) == b""
    client.finished()
    assert server.step(b"") == Proved("user", True)


def exchange(server: ScramSha256, client: ScramClient, keys=KEYS) -> Proved:  # type: ignore[no-untyped-def]
    assert isinstance(server.step(client.initial()), NeedKeys)
    question = server.step(client.respond(server.keys(keys).data))
    if isinstance(question, Challenge):
        question = server.step(client.respond(question.data))
        client.finished()
    assert isinstance(question, Proved)
    return question


def binding(kind: str) -> bytes:
    return {"tls-exporter": b"exported", "tls-server-end-point": b"hash"}.get(kind, b"")


def test_scram_wrong_password() -> None:
    client = ScramClient("user", "pen", nonce=NONCE)
    assert exchange(ScramSha256(), client) == Proved("user", False)
    with pytest.raises(SaslError):
        client.finished()


@pytest.mark.rfc("5802", "6")
@pytest.mark.parametrize("kind", ["tls-exporter", "tls-server-end-point"])
def test_scram_plus_binds_to_the_channel(kind: str) -> None:
    def run(data: bytes) -> Proved:
        return exchange(
            ScramSha256(plus=True, binding=binding), ScramClient("user", "pencil", binding_type=kind, binding_data=data)
        )

    assert run(binding(kind)).success
    assert not run(b"a man in the middle").success


@pytest.mark.parametrize(
    ("server", "first"),
    [
        (ScramSha256(plus=True, binding=binding), b"n,,n=user,r=abc"),
        (ScramSha256(plus=True, binding=binding), b"p=tls-unique,,n=user,r=abc"),
        (ScramSha256(plus=True, binding=binding), b"p=x,,n=user,r=abc"),
        (ScramSha256(plus=True), b"p=tls-exporter,,n=user,r=abc"),
        (ScramSha256(binding=binding), b"p=tls-exporter,,n=user,r=abc"),
        (ScramSha256(binding=binding, plus_offered=True), b"y,,n=user,r=abc"),
        (ScramSha256(), b""),
        (ScramSha256(), b"n,,"),
        (ScramSha256(), b"n,,r=abc"),
        (ScramSha256(), b"n,,n=user"),
        (ScramSha256(), b"n,,n=,r=abc"),
        (ScramSha256(), b"n,,m=ext,n=user,r=abc"),
        (ScramSha256(), b"n,,n=us=er,r=abc"),
        (ScramSha256(), b"n,x,n=user,r=abc"),
        (ScramSha256(), b"n,a=,n=user,r=abc"),
        (ScramSha256(), b"n,,n=user,r="),
        (ScramSha256(), b"n,,n=user,r=a\x7fb"),
        (ScramSha256(), b"n,,n=us\0er,r=abc"),
        (ScramSha256(), b"n,,n=us\xffer,r=abc"),
        (ScramSha256(), b"n,,nuser,r=abc"),
    ],
)
def test_scram_refuses_first_messages(server: ScramSha256, first: bytes) -> None:
    with pytest.raises(MalformedResponse):
        server.step(first)


def test_scram_y_is_fine_where_plus_was_not_offered() -> None:
    assert ScramSha256(binding=binding).step(b"y,,n=user,r=abc") == NeedKeys("user")


@pytest.mark.parametrize(
    "change",
    [
        lambda final: final.replace(b"c=biws", b"c=eSws"),
        lambda final: final.replace(b"r=rO", b"r=rP"),
        lambda final: final.replace(b",p=", b",x=1,p="),
    ],
)
def test_scram_changed_final_messages_prove_nothing(change) -> None:  # type: ignore[no-untyped-def]
    server = ScramSha256()
    client = ScramClient("user", "pencil", nonce=NONCE)
    server.step(client.initial())
    assert server.step(change(client.respond(server.keys(KEYS).data))) == Proved("user", False)


@pytest.mark.parametrize(
    "final", [b"", b"c=biws", b"c=biws,r=x", b"r=x,c=biws,p=YQ==", b"c=biws,r=x,p=YQ==", b"c=biws,r=x,p=!", b"c=!,r=x,p="]
)
def test_scram_refuses_final_messages(final: bytes) -> None:
    server = ScramSha256()
    server.step(b"n,,n=user,r=abc")
    server.keys(KEYS)
    with pytest.raises(MalformedResponse):
        server.step(final)


def test_scram_wants_an_empty_answer_to_its_signature() -> None:
    server = ScramSha256()
    client = ScramClient("user", "pencil")
    server.step(client.initial())
    server.step(client.respond(server.keys(KEYS).data))
    with pytest.raises(MalformedResponse):
        server.step(b"x")


def test_scram_names_with_commas_and_authorization() -> None:
    server = ScramSha256()
    assert server.step(b"n,a=x=2Cy,n=a=3Db=2Cc,r=abc") == NeedKeys("a=b,c")
    server.keys(KEYS)
    final = server.step(b"c=biws,r=x,p=" + base64.b64encode(b"x" * 32))
    assert final == Proved("a=b,c", False, "x,y")


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"e=other-error",
        b"r=abcdef,s=YQ==,i=4096",  # not our nonce
        b"r=" + NONCE.encode() + b",s=YQ==,i=4096",  # nothing added
        b"r=" + NONCE.encode() + b"x,s=YQ==,i=1",  # too weak
        b"r=" + NONCE.encode() + b"x,s=YQ==,i=999999999999",  # too dear
        b"r=" + NONCE.encode() + b"x,s=YQ==",
    ],
)
def test_scram_client_refuses_bad_servers(challenge: bytes) -> None:
    client = ScramClient("user", "pencil", nonce=NONCE)
    client.initial()
    if not challenge:
        assert client.respond(b"") == client.initial()
        return
    with pytest.raises(SaslError):
        client.respond(challenge)


def test_scram_client_wants_the_servers_proof() -> None:
    client = ScramClient("user", "pencil", nonce=NONCE)
    client.respond(b"r=" + NONCE.encode() + b"x,s=YQ==,i=4096")
    with pytest.raises(SaslError):
        client.finished()
    with pytest.raises(SaslError):
        client.respond(b"v=" + base64.b64encode(b"x" * 32))


def test_choose_the_strongest_and_show_no_password_in_the_clear() -> None:
    everything = ["plain", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "CRAM-MD5"]

    def name(offered: list[str], **options: object) -> str | None:
        mechanism = choose(offered, "u", "p", **options)  # type: ignore[arg-type]
        return mechanism.name if mechanism is not None else None

    assert name(everything, encrypted=True, binding=binding) == "SCRAM-SHA-256-PLUS"
    assert name(everything, encrypted=True) == "SCRAM-SHA-256"
    assert name(["PLAIN", "LOGIN"], encrypted=True) == "PLAIN"
    assert name(["LOGIN"], encrypted=True) == "LOGIN"
    assert name(["PLAIN", "LOGIN"], encrypted=False) is None
    assert name(["SCRAM-SHA-256"], encrypted=False) == "SCRAM-SHA-256"
    assert name(["CRAM-MD5"], encrypted=True) is None
    downgraded = choose(["SCRAM-SHA-256"], "u", "p", encrypted=True, binding=binding)
    assert downgraded is not None
    assert (downgraded.initial() or b"").startswith(b"y,,")


def test_plain_and_login_clients() -> None:
    assert PlainClient("u", "p").initial() == PlainClient("u", "p").respond(b"") == b"\0u\0p"
    login = LoginClient("u", "p")
    assert login.initial() is None
    assert [login.respond(b"Username:"), login.respond(b"Password:")] == [b"u", b"p"]
    with pytest.raises(SaslError):
        login.respond(b"more?")
    with pytest.raises(SaslError):
        PlainClient("u", "p").respond(b"x")


@pytest.mark.rfc("4013", "3")
@pytest.mark.parametrize(
    ("text", "expected"),
    [("I\xadX", "IX"), ("user", "user"), ("USER", "USER"), ("\xaa", "a"), ("\u2168", "IX"), ("a\xa0b", "a b"), ("🔑", "🔑")],
)
def test_saslprep(text: str, expected: str) -> None:
    assert prepare_password(text) == expected


@pytest.mark.rfc("4013", "3")
@pytest.mark.parametrize("text", ["\x07", "\u06271", "a\u0627", "\ud800", "\ue000", "\u200e"])
def test_saslprep_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="RFC"):
        prepare_password(text)


@given(st.text())
def test_saslprep_is_idempotent_or_refuses(text: str) -> None:
    try:
        once = prepare_password(text)
    except ValueError:
        return
    assert prepare_password(once) == once


@given(
    st.sampled_from([Plain, Login, OAuthBearer, XOAuth2, ScramSha256, lambda: External(["a@b"])]),
    st.lists(st.binary(), max_size=4),
)
def test_any_bytes_give_a_question_or_malformed(make, messages: list[bytes]) -> None:  # type: ignore[no-untyped-def]
    machine = make()
    with contextlib.suppress(MalformedResponse):
        for message in messages:
            question = machine.step(message)
            if isinstance(question, NeedKeys):
                question = machine.keys(KEYS)
            if not isinstance(question, Challenge):
                return


def test_scram_names_round_trip() -> None:
    for name in ("a,b", "=", "=2C", "plain"):
        assert scram.unescape_name(scram.escape_name(name)) == name
