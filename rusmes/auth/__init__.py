"""Authentication: who may log in, and which addresses are deliverable here.

What it is: the contract (`api`), the file backend, password hashing off the loop, throttling and lock-out, the
authenticator sessions talk to, the directory of local domains, and the driver that runs a SASL exchange over any protocol.
What it is not: SASL mechanisms themselves (`rusmes.sasl`, sans-IO), or the store's accounts (`rusmes.storage`).

RFCs: 4422 §3 (exchange), 5321 §4.5.1 (postmaster), 5802 and 7677 (what is kept instead of a password), 4013 (SASLprep),
9106 (argon2id).

Map: `api` the contract; `names` how a typed name becomes an account's; `passwords` argon2id and SCRAM keys; `file` the backend
over users.toml, `users_toml` how that is read and written; `throttle` failures by address and account; `authenticator` what
sessions call; `directory` domains, aliases, catch-all; `negotiation` a SASL exchange from mechanism name to identity.

Order of locks in `file`: the lock file first, then the snapshot; nothing is hashed while the lock file is held.
"""
