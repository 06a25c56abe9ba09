import pytest

from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_NEVER, NOTIFY_SUCCESS
from rusmes.smtp.parameters import (
    NO_MAIL_PARAMETERS,
    NO_RCPT_PARAMETERS,
    ParameterError,
    parse_mail_parameters,
    parse_rcpt_parameters,
)

EVERYTHING = frozenset(["SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "AUTH", "REQUIRETLS"])


def mail(text, extensions=EVERYTHING):
    return parse_mail_parameters(pairs(text), extensions)


def rcpt(text, extensions=EVERYTHING):
    return parse_rcpt_parameters(pairs(text), extensions)


def pairs(text):
    for word in text.split(" ") if text else ():
        keyword, sign, value = word.partition("=")
        yield keyword.upper(), value.encode() if sign else None


def test_everything_mail_may_say():
    found = mail("SIZE=1000 BODY=8bitmime SMTPUTF8 REQUIRETLS RET=hdrs ENVID=a+2Bb+20c AUTH=e+3Dmc2@example.com")
    assert (found.size, found.body, found.smtputf8, found.requiretls) == (1000, "8BITMIME", True, True)
    assert (found.ret, found.envid, found.auth) == ("HDRS", "a+b c", "e=mc2@example.com")
    assert mail("AUTH=<>").auth == ""
    assert mail("BODY=BINARYMIME").body == "BINARYMIME"
    assert mail("") == NO_MAIL_PARAMETERS


def test_everything_rcpt_may_say():
    found = rcpt("NOTIFY=success,FAILURE,delay ORCPT=rfc822;a+2Bb@c.d")
    assert found.notify == NOTIFY_SUCCESS | NOTIFY_FAILURE | NOTIFY_DELAY
    assert found.orcpt == "rfc822;a+b@c.d"
    assert rcpt("NOTIFY=NEVER").notify == NOTIFY_NEVER
    assert rcpt("") == NO_RCPT_PARAMETERS


@pytest.mark.parametrize(
    ("value", "orcpt"),
    [
        ("RFC822;Bob@example.com", "rfc822;Bob@example.com"),
        ("utf-8;\\x{E9}@example.com", "utf-8;é@example.com"),
        ("utf-8;a\\x{2B}b@c", "utf-8;a+b@c"),
        ("utf-8;é@example.com", "utf-8;é@example.com"),
        ("rfc822;" + "a" * 493, "rfc822;" + "a" * 493),
    ],
)
def test_orcpt(value, orcpt):
    assert rcpt(f"ORCPT={value}").orcpt == orcpt


@pytest.mark.parametrize(
    "text",
    [
        "SIZE",
        "SIZE=-1",
        "SIZE=1.5",
        "SIZE=0x10",
        "SIZE=1_0",
        "SIZE=" + "9" * 21,
        "SIZE=\u0661",
        "BODY",
        "BODY=9BIT",
        "SMTPUTF8=yes",
        "REQUIRETLS=1",
        "RET=BODY",
        "RET",
        "ENVID",
        "ENVID=" + "a" * 101,
        "ENVID=a+zz",
        "ENVID=a=b",
        "ENVID=+0D+0A",
        "ENVID=+00",
        "ENVID=+C3+A9",
        "ENVID=+7F",
        "AUTH",
        "AUTH=a",
        "AUTH=a+40",
        "AUTH=a@b+0Ac",
        "AUTH=+",
        "SIZE=1 SIZE=1",
        "RET=FULL RET=HDRS",
    ],
)
def test_b4_p12_bad_values_of_mail(text):
    with pytest.raises(ParameterError) as refused:
        mail(text)
    assert (refused.value.reply.code, refused.value.reply.status) == (501, "5.5.4")


@pytest.mark.parametrize(
    "text",
    [
        "NOTIFY",
        "NOTIFY=",
        "NOTIFY=MAYBE",
        "NOTIFY=NEVER,SUCCESS",
        "NOTIFY=SUCCESS,NEVER",
        "NOTIFY=SUCCESS,",
        "NOTIFY=SUCCESS;DELAY",
        "NOTIFY=NEVER NOTIFY=NEVER",
        "ORCPT",
        "ORCPT=a@b",
        "ORCPT=rfc822;",
        "ORCPT=;a@b",
        "ORCPT=x400;a",
        "ORCPT=rfc822;a+",
        "ORCPT=rfc822;a=b",
        "ORCPT=rfc822;a+0D+0Ab",
        "ORCPT=rfc822;a+00",
        "ORCPT=rfc822;é",
        "ORCPT=rfc822;" + "a" * 494,
        "ORCPT=utf-8;\\x{D800}",
        "ORCPT=utf-8;\\x{0A}",
        "ORCPT=utf-8;\\x{FFFFFF}",
        "ORCPT=utf-8;\u2028",
    ],
)
def test_b2_b3_bad_values_of_rcpt(text):
    with pytest.raises(ParameterError) as refused:
        rcpt(text)
    assert (refused.value.reply.code, refused.value.reply.status) == (501, "5.5.4")


@pytest.mark.parametrize("text", ["FOO", "FOO=1", "HOLDFOR=60", "BY=120;N", "MT-PRIORITY=3", "NOTIFY=NEVER", "X" * 2000])
def test_p11_unknown_to_mail(text):
    with pytest.raises(ParameterError) as refused:
        mail(text)
    assert (refused.value.reply.code, refused.value.reply.status) == (555, "5.5.4")
    assert len(refused.value.reply.wire) < 120


@pytest.mark.parametrize("text", ["SIZE=1", "RRVS=x", "RET=HDRS"])
def test_p11_unknown_to_rcpt(text):
    with pytest.raises(ParameterError) as refused:
        rcpt(text)
    assert refused.value.reply.code == 555


@pytest.mark.parametrize(
    ("text", "extension"),
    [
        ("SIZE=1", "SIZE"),
        ("BODY=7BIT", "8BITMIME"),
        ("SMTPUTF8", "SMTPUTF8"),
        ("RET=HDRS", "DSN"),
        ("ENVID=a", "DSN"),
        ("AUTH=<>", "AUTH"),
        ("REQUIRETLS", "REQUIRETLS"),
    ],
)
def test_b1_what_is_not_offered_is_not_known(text, extension):
    mail(text, frozenset({extension}))
    with pytest.raises(ParameterError) as refused:
        mail(text, EVERYTHING - {extension})
    assert refused.value.reply.code == 555


def test_values_that_need_another_extension():
    for text, extension in (("BODY=BINARYMIME", "BINARYMIME"),):
        with pytest.raises(ParameterError) as refused:
            mail(text, EVERYTHING - {extension})
        assert refused.value.reply.code == 501
    with pytest.raises(ParameterError) as refused:
        rcpt("ORCPT=utf-8;a@b", EVERYTHING - {"SMTPUTF8"})
    assert refused.value.reply.code == 501
