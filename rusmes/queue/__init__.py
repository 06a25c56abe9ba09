"""The queue: how mail gets in, and when it is tried again.

What it is: the only entrance for mail (`intake`), and the engine that carries out what a plan could not do at once: relay,
local delivery, the rest of a pipeline, holding. What it is not: a way to other servers (`delivery`), or a place
where rows live (`storage`).

RFC 5321 §4.5.4 (retries), §6.1 (responsibility), RFC 3461 (which notices are due). See `docs/queue.md`.

Rules that hold everywhere in this package:
1. Nothing is acknowledged, and no recipient forgotten, before its row is committed.
2. An entry is changed by the runner, while it is *active*, or by an operator, while he has *taken* it (`Runner.withdraw` to
   `put_back`); never by both. So an operator's hold and a delivery's outcome do not overwrite each other.
3. Outcomes whose commit fails stay in memory and are committed again; what was delivered is not delivered twice.

Map: `api` the contract; `intake` acceptance; `schedule` times; `entry` one entry in memory; `lookups` where recipients go;
`sites` who may send at once; `attempts` what an attempt means; `outcomes` what happened, until it is committed; `runner` the
engine; `control` the operator's hands, `selection` what they mean, `operations` what they do to an entry, `summary` the table
by age, `audit` who did what; `suspensions` what is not sent for now; `document` entries as JSON.
"""
