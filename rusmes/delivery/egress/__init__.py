"""By which address mail leaves.

What it is: named sources with their names in EHLO, addresses and proxies (`sources`), pools that share mail out among them
(`pools`), how much a new address may send on a day (`warmup`), and who uses them all (`exits`). What it is not: it opens no
connection (`net.outbound` does), and knows no limits of sites (`delivery.shaping`).

RFC 1928 and 1929 (SOCKS5, as a client: CONNECT, no login or user name and password); HAProxy's PROXY protocol, version 2.

Hot path: without [egress] nothing here is called for a message. With a pool of n sources a mail costs one choice, O(n), and
a warm-up plan some look-ups and one addition in the shared table: 7 us of CPU with two sources, 14 when one of them warms up.
"""
