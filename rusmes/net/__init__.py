"""Protocol-blind plumbing between sockets and the five rooms of a protocol.

What it is: the connection (the only code that touches asyncio transports), listeners, PROXY protocol, datagram notices.
What it is not: anything that knows a command, a reply or a policy.

RFC 3207 §4, RFC 2595 §4 (the order of STARTTLS). The PROXY protocol, versions 1 and 2 (HAProxy).

Map: `connection` one peer; `outbox` answers written together; `listener` accepting and limits; `proxyproto` the header before
the first byte; `notices` between workers.
"""
