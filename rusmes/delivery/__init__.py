"""The way out: mail to other servers, and what is told to senders.

What it is: where a destination leads (`routes`), connections to other servers and their reuse (`pool`), greeting, TLS and
login (`session`, `tlspolicy`), what domains publish about TLS and are told of it (`dane`, `mtasts`, `tlsrpt`), one transaction
and what its replies mean (`remote`), 8-bit mail for 7-bit servers (`downgrade`), notices to senders (`dsn`), how gently each
site is treated (`shaping`), by which address mail leaves (`egress`), and where both of them meet the rest (`steering`,
`explain`).
What it is not: when something is tried, and how often (`queue`), or local mailboxes (the runner appends to the store).

RFC 5321 client side (§4.2.1, §4.5.3.2, §4.5.4, §5), 1870, 2920, 3030, 3207, 3461, 3464, 4954 (PLAIN, LOGIN, SCRAM-SHA-256),
6152, 6522, 6531, 6533, 7504, 7505, 7672, 8460 (reports sent), 8461, 8689, 9422: as a client, complete.

Hot path: a message to a site with an open connection costs two writes and two reads; see `remote`.
"""
