"""SMTP, submission and LMTP: the wire and the five rooms of the server.

What it is: the sans-IO session (`session`), its limits, replies, the grammar of addresses and ESMTP
parameters, trace header lines; and, on floor 5, `commands` and `server`.
What it is not: the client side (`rusmes.delivery`), policy about who may send what (`mailet`).

RFC 5321 (SMTP), 2920 (PIPELINING), 3030 (CHUNKING, BINARYMIME), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8),
3461 (DSN), 2034 and 3463 (enhanced status codes), 3207 (STARTTLS), 4954 (AUTH), 8689 (REQUIRETLS), 3848 ("with" values of
Received), 2033 (LMTP), 9422 (LIMITS): implemented. RFC 5321 §3.5.3 (EXPN), §F.1 (TURN), RFC 1985 (ETRN): refused with 502.

Map: `limits` numbers with their reasons; `session` states, order, events; `reply` values and their bytes; `address` paths;
`parameters` of MAIL and RCPT; `received` trace lines; `commands` decisions; `server` the loop over a connection.
"""
