"""The store on LMDB: `mail.mdb` for all processes, `queue-<slot>.mdb` for one worker, `blobs/` for large bodies.

What it is: the default backend, whose rate comes from group commit.
What it is not: a cache. Nothing is kept in memory but the rows of some small tables, for as long as no other process commits.

Map: `layout` and `queue_layout` say what rows look like; `environment` opens, locks, reads and grows a file; `mail_store` and
`queue_store` are the faces; `delivery`, `messages` and `mailboxes` work inside the transaction, with the records of `edits`;
`sending` reads what goes out; `blobs` keeps bodies; `verify` and `compact` are for care.

Lock order: see `environment`. Never hold a read transaction across an `await`.
"""
