"""DKIM signatures and ARC seals as bytes: made, and verified.

What it is: canonical forms, the choice of header fields, signature fields, keys and their DNS records, verification, and the
chain of seals. What it is not: policy (who signs what is the mailets' matter), DNS (records are passed in), threads.

RFCs: 6376 (DKIM) complete but for `q=` other than dns/txt, and `l=`, which is never made and never passes when it leaves
something out; 8301 (no SHA-1, keys of at least 1024 bits); 8463 (Ed25519); 8616 (internationalized domains as A-labels); 8617
(ARC).

Map: `tags` tag lists; `keys` private keys and public records; `signature` making; `verification` checking; `arc` chains and
seals. The canonical forms are in `rusmes._core.dkim`.
"""
