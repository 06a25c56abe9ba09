"""SASL mechanisms, both sides, sans-IO.

What it is: PLAIN, LOGIN, SCRAM-SHA-256(-PLUS), EXTERNAL, OAUTHBEARER and XOAUTH2 as state machines over decoded messages, and
SASLprep. A server mechanism asks its driver questions ("check this password") and never sees an account.
What it is not: base64 lines, timeouts, throttling, accounts (`rusmes.auth.negotiation` drives a server's exchange).

RFCs: 4422 (SASL), 4616 (PLAIN), 5802 and 7677 (SCRAM-SHA-256), 5929 and 9266 (channel bindings), 7628 (OAUTHBEARER), 4013
(SASLprep). LOGIN is draft-murchison-sasl-login-00, obsolete and wanted by old clients. XOAUTH2 is Google's.
Not here: CRAM-MD5 and DIGEST-MD5 (RFC 6331: need the password in the clear), ANONYMOUS, GSSAPI.

Map: `questions` what a mechanism says to its driver; `server` the mechanisms of a server; `scram` messages and keys of
SCRAM; `client` the mechanisms of a client; `prepare` SASLprep.
"""

from rusmes.sasl.questions import Cancelled, MalformedResponse, SaslError

__all__ = ["Cancelled", "MalformedResponse", "SaslError"]
