"""RusMES beside other servers, in one interleaved run: `python -m benchmarks.peers accept`.

What it is: whole servers with private configurations on loopback ports, real load generators (Postfix's smtp-source, and
`smtpload.c` where pipelining or latency is asked for), rates, CPU and memory of the process tree, medians and ratios.
What it is not: a timed test; absolute figures of a shared machine mean little, ratios of one run mean more.

Needs root (Postfix and Dovecot insist), a C compiler, and Debian's `postfix`, `dovecot-core`, `dovecot-lmtpd`,
`dovecot-pop3d` and `strace`.

Map: `servers` start and stop each server; `measure` rounds, CPU, medians; `__main__` the questions.
"""
