"""The pipeline of matchers and mailets: it decides what becomes of a mail, and does nothing itself.

What it is: processors (named lists of steps) built from the configuration, a loop that runs a mail through them, and the plan
that comes out: appends, queue rows, refusals, drops. One run, one plan, one commit.
What it is not: delivery, storage, or the queue. Those carry the plan out.

RFCs: 5321 (§3.9 aliases, §4.4 Return-Path, §4.5.5 null reverse-path, §6.1 notices, §6.3 loops), 3461 (§5.2.7 notices and
aliases), 5233 (sub-addressing), 3463 (status codes).

Map: `api` the contract, for third parties too; `pipeline` build and run; `assembly` steps from the configuration, with
`parameters` and `registry`; `survey` checks that need no mail; `settlement` what decisions mean, with `rendering` (header
edits) and `resume` (what waits in the queue); `matchers/` and `mailets/` the built-in ones,
`catalogue` their manual. The loop is `rusmes._core.mailet`.
"""
