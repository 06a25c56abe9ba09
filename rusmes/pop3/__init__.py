"""POP3: one account's INBOX, listed, retrieved and emptied.

What it is: a server for RFC 1939 with the extensions in use today. A maildrop is the snapshot of INBOX at login; what arrives
later is in the next session. Deletion happens at QUIT, in one transaction.
What it is not: a store, or authentication. APOP and CRAM-MD5 are not offered: they need passwords in the clear on the server.

RFCs: 1939 (all commands but APOP), 2449 (CAPA, RESP-CODES, PIPELINING, EXPIRE, IMPLEMENTATION), 2595 (STLS), 3206 (AUTH and SYS
codes), 5034 (SASL), 6856 (UTF8; no LANG), 6858 (surrogates for clients that do not say UTF8), 8314 (implicit TLS).

Map, the five rooms: `_core.pop3` command lines and dot-stuffing; `session` states; `maildrop` the snapshot; `reply` the
wire; `commands` what each command does; `server` connections, timeouts, TLS. `surrogate` has headers for clients without UTF8,
`limits` the numbers.
"""
