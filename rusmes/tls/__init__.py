"""TLS contexts.

What it is: contexts for listeners and for connections to other servers, made from the configuration; sessions towards servers
that are resumed (`resumption`); the self-signed pair of a fresh installation. What it is not: handshakes (`net.connection`)
and policy towards other servers (`delivery`).

RFC 8446, RFC 5246 (1.2 is the least by default), RFC 5929 (tls-server-end-point), RFC 6066 §3 (server name: one
certificate for all names), RFC 8996 (1.0 and 1.1 are refused).
"""
