"""IMAP4rev2 and IMAP4rev1 (RFC 9051, RFC 3501) on the store.

Not here: how messages are kept (`storage`), how searches are carried out (`search`), SASL (`sasl`, `auth.negotiation`).

| file | room |
| --- | --- |
| `_core/framer.pyx` | commands with their literals out of the stream, limits |
| `_core/imap.pyx` | the lexer of one command |
| `command.py` | the commands as values |
| `grammar.py` and its neighbours | bytes of one framed command to a value |
| `session.py` | states, what may be said in which, sans-IO |
| `view.py`, `_core/view.pyx` | what a client knows of its mailbox: sequence numbers, what is to be told |
| `response.py`, `_core/encode.pyx` | the wire: untagged responses, codes, literals |
| `commands/` | handlers, a file for each family |
| `server.py` | connections, deadlines, TLS, compression, the order of calls |
"""
