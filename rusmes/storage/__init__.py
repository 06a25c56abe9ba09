"""The store: accounts, mailboxes, messages, and the queue.

What it is: what makes an acknowledgement true. Changes are durable when their coroutine returns; waiting callers share a sync.
What it is not: a place for decisions. What is delivered where was decided before (`rusmes.mailet`), when it is tried again
too (`rusmes.queue`).

RFCs: 9051 (UIDs, UIDVALIDITY, mailbox names, \\Recent), 7162 (modseqs: yes, in the rows and the change log), 8474 (object
ids: yes), 4315 (UIDPLUS: what an append or a copy made), 6154 (special use), 8620 and 8621 (changes, threads, keywords: in
the rows).

Map: `api` is the contract; `memory`, `memory_queue` and `memory_blobs` the specification in code. `commit` is the commit
thread, which gives operations a transaction (`_core.batch`); `spool` takes bodies as they arrive, `writeback` and `space` look
after the disk, `description` computes what is kept of a message, `changes` tells listeners, `names` and `flags` say what
mailboxes and keywords may be called. `ledger` keeps small records of all processes, `maildrop` what local programs left. `lmdb`
is the backend.
"""
