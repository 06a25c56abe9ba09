"""The SMTP server's session without its sockets: states, the order of commands, and what is owed to the peer.

How a server drives it (this is the whole interface):

    session = Session(limits, protocol="smtp", extensions=frozenset({"SIZE", "8BITMIME", ...}))
    session.reply(greeting)                       # 220 ...: START -> GREET
    while not session.closed:
        event = session.next_event()
        if event is NEED_DATA:                    # the only place where bytes are flushed and awaited
            connection.write(session.data_to_send())
            session.receive(await connection.receive())
            continue
        ...                                       # decide; then reply exactly once where a reply is due
    connection.write(session.data_to_send())

Events (`event.kind` is the class's constant; `isinstance` works as well):

    NEED_DATA    singleton, kind 0
    Command      kind COMMAND. One reply is due (but for BDAT, see below). `.verb` is one of
                 EHLO HELO LHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP AUTH STARTTLS XCLIENT, `.argument` the bytes after it
                 (no surrounding blanks), `.text` the same as printable str (for logs, HELO).
                 MAIL: `.address` (Address, None = null path) and `.parameters` (MailParameters).
                 RCPT: `.address` (never None) and `.parameters` (RcptParameters).
                 AUTH: `.mechanism` (upper case) and `.initial` (bytes | None, still base64; b"=" is the empty response).
                 BDAT: `.size` and `.last`.
    Line         kind LINE. A line of an AUTH exchange (after a 334 reply): `.data` without CRLF. One reply is due.
    BodyChunk    kind BODY_CHUNK. `.data` bytes of the message, dots unstuffed. No reply.
    BodyEnd      kind BODY_END. The end of DATA, or of one BDAT chunk (`.last` False when more must follow). One reply is due;
                 for LMTP at the end of a message `session.replies_due` replies, one for each accepted recipient in order.
                 `.faults` (0 = clean; BARE_CR | BARE_LF | NUL | TOO_LARGE | HEADER_TOO_LARGE | MBOX_FROM: refuse, see
                 `refusal_of_body(faults)` for the reply), `.repaired` (the same bits, for what "normalize" mended),
                 `.size` octets of the whole message so far as delivered in chunks, `.header_bytes` (with the empty line;
                 = size when there is none), `.received_count` ("Received:" fields in it), `.eight_bit` (any octet > 127).
    Malformed    kind MALFORMED. The wire or the order was broken and the line (or the BDAT payload) is consumed. `.reply` is
                 the Reply to give, `.reason` one of the REASON_* words (for log and metrics), `.fatal`: give the reply, then
                 close (the session is closed by that reply). `.verb` "" or the command's. One reply is due: normally
                 `session.reply(event.reply)`; the server may answer 421 in its place.
    CLOSED       singleton, kind 0xFF: after 221, 421 or a fatal reply, `next_event` gives nothing else.

DATA: answer the Command with 354 (then BodyChunk*, BodyEnd follow) or with a refusal (then commands follow). The session has
checked already that a recipient was accepted. BDAT: **no** reply to the Command; its BodyChunk* follow at once and the
reply is due at BodyEnd. A server that has decided to refuse the body calls `session.discard_body()`: the rest is swallowed
without BodyChunks up to the true end, where BodyEnd comes as always. After a BodyEnd that was refused, pipelined BDATs are
swallowed and come as Malformed (503). After BodyEnd's last reply the transaction is over (state READY).

STARTTLS: reply 220, take `final = session.data_to_send()`, `await connection.start_tls(context, final)`, then
`session.tls_started()`. The session has made sure that nothing was pipelined behind it (Malformed, fatal, otherwise).
AUTH: reply 334 (`reply.challenge(bytes)`) for one more Line; 235 sets `session.authenticated`; anything else ends the exchange.

Attributes (read only unless said): `state` (State), `closed`, `helo` (str, printable), `esmtp` (EHLO or LHLO was used),
`protocol`, `authenticated`, `tls` (set by tls_started or `tls=True`), `replies_due`, `recipients` (accepted in this
transaction), `sender_given` (a transaction is open), `extensions` (settable: what is offered now; decides which parameters,
BODY values and commands are known: SIZE 8BITMIME SMTPUTF8 CHUNKING BINARYMIME DSN STARTTLS AUTH REQUIRETLS XCLIENT).
"""
