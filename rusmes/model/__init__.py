"""The nouns of mail, as values.

What it is: addresses, identifiers, mail on its way through the pipeline, plans, accounts, mailboxes and messages.
What it is not: anything that does I/O but reading a content's own bytes.

RFCs: 5321 (envelope), 5322 (header names), 3461 (DSN parameters), 6531 (SMTPUTF8), 9051 and 8620 (UIDs, modseqs, keywords).

Map: `address` mailboxes of the envelope; `ids` 16-byte time-ordered identifiers; `mail` the pipeline's noun;
`content` the stored bytes; `plan` what the pipeline decided; `mailbox` accounts, mailboxes, messages, changes;
`identity` who is logged in.
"""
