"""What refusals mean: replies as real servers send them."""

import pytest

from rusmes.bounces.classify import HARD, Classifier, is_permanent
from rusmes.errors import ConfigError

CLASSIFIER = Classifier.load()

REPLIES = [
    (
        550,
        "5.1.1",
        "The email account that you tried to reach does not exist. Please try double-checking. - gsmtp",
        "InvalidRecipient",
    ),
    (550, "5.2.1", "The email account that you tried to reach is disabled. Learn more - gsmtp", "InactiveMailbox"),
    (552, "5.2.2", "The email account that you tried to reach is over quota and inactive", "InactiveMailbox"),
    (452, "4.2.2", "The recipient's inbox is out of storage space", "QuotaIssues"),
    (
        421,
        "4.7.28",
        "Our system has detected an unusual rate of unsolicited mail originating from your IP address",
        "RateLimited",
    ),
    (
        550,
        "5.7.26",
        "Unauthenticated email from example.com is not accepted due to domain's DMARC policy",
        "AuthenticationFailed",
    ),
    (
        421,
        "4.7.0",
        "[TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints",
        "RateLimited",
    ),
    (554, "", "delivery error: dd This user doesn't have a yahoo.com account (user@yahoo.com) [0]", "InvalidRecipient"),
    (
        550,
        "5.7.1",
        "Unfortunately, messages from [192.0.2.1] weren't sent. part of their network is on our block list (S3140)",
        "SpamBlock",
    ),
    (550, "5.5.0", "Requested action not taken: mailbox unavailable (S2017062302)", "InvalidRecipient"),
    (550, "5.4.1", "Recipient address rejected: Access denied. AS(201806281)", "InvalidRecipient"),
    (550, "5.1.10", "RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", "InvalidRecipient"),
    (554, "5.7.1", "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", "SpamBlock"),
    (450, "4.2.0", "<user@example.org>: Recipient address rejected: Greylisted, see http://postgrey.example", "Greylisted"),
    (550, "5.1.1", "<user@example.org>: Recipient address rejected: User unknown in virtual mailbox table", "InvalidRecipient"),
    (554, "5.7.1", "<user@example.org>: Relay access denied", "RelayDenied"),
    (552, "5.3.4", "Message size exceeds fixed limit", "MessageTooLarge"),
    (554, "5.6.0", "Reject, id=1 - SPAM", "SpamContent"),
    (550, "", "Administrative prohibition", "PolicyRelated"),
    (550, "", "unrouteable address", "InvalidRecipient"),
    (550, "", "Sender verify failed", "InvalidSender"),
    (554, "5.4.6", "too many hops", "RoutingErrors"),
    (0, "4.4.1", "connect to mx.example.org[192.0.2.1]:25: no answer within 30 s", "NoAnswerFromHost"),
    (0, "4.4.7", "not delivered in time; at last: nothing", "Expired"),
    (556, "5.1.10", "the domain does not accept mail (null MX)", "BadDomain"),
    (
        552,
        "5.7.0",
        "This message was blocked because its content presents a potential security issue: virus found",
        "VirusRelated",
    ),
    (501, "", "Syntax error in parameters", "ProtocolErrors"),
    (451, "4.3.0", "Internal server problem", "TransientFailure"),
    (250, "", "fine", "Uncategorized"),
]


@pytest.mark.parametrize(
    ("code", "status", "text", "category"), REPLIES, ids=[reply[3] + str(n) for n, reply in enumerate(REPLIES)]
)
def test_replies_of_real_servers(code, status, text, category):
    assert CLASSIFIER.category(code, status, text) == category


def test_hard_categories_are_about_the_address():
    assert {"InvalidRecipient", "BadDomain", "InactiveMailbox"} == HARD
    assert is_permanent(550, "")
    assert is_permanent(0, "5.1.1")
    assert not is_permanent(450, "5.1.1")
    assert not is_permanent(0, "")


def test_own_rules_come_first(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\ncategory = "PolicyRelated"\ncode = "55."\ntext = ["user unknown"]\n')
    own = Classifier.load([str(path)])
    assert own.category(550, "5.1.1", "User unknown") == "PolicyRelated"
    assert own.category(450, "4.1.1", "User unknown") == "InvalidRecipient"


@pytest.mark.parametrize(
    "text",
    [
        '[[rule]]\ncategory = "Nonsense"',
        "rule = 1",
        "[[rule]",
        '[[rule]]\ncategory = "Expired"\ncolour = 1',
        "[other]\na = 1",
        '[[rule]]\ncategory = "Expired"\ntext = ["("]',
    ],
)
def test_bad_rules_say_where(tmp_path, text):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        Classifier.load([str(path)])
    with pytest.raises(ConfigError, match="No such file"):
        Classifier.load([str(tmp_path / "missing.toml")])


@pytest.mark.parametrize(
    "text", ["a" * 5000, "user " * 1000, "(" * 1000, "too many " * 200, "exceeds quota " * 300, "listed at " * 400]
)
def test_long_texts_take_no_time_that_counts(text):
    # A thousand characters are looked at; the timeout of the test run is the limit for a pattern that explodes.
    for _ in range(20):
        CLASSIFIER.category(550, "", text)
