"""The built-in mailets.

What it is: one class for each name of the configuration. Its docstring says what it does, its `Parameters` what it takes.
What it is not: delivery. A mailet decides; queue, store and delivery do.

RFCs: 5321 (§3.9 aliases, §4.4 trace, §4.5.1 postmaster, §6.1 notices), 3461 §5.2.7 (notices and aliases), 5233
(sub-addressing).

Map: `ends` where mail goes: mailboxes, other servers, refusal, queue; `rewrite` recipients: aliases, postmaster, forwards,
copies; `marks` headers, attributes, log, counters; `returning` return paths, forwarded senders, reports; `signing` DKIM, ARC;
`tenants` for whom a mail is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rusmes.mailet.api import MailetClass
from rusmes.mailet.mailets import ends, marks, returning, rewrite, signing, tenants

BUILT_IN: Final[Mapping[str, MailetClass]] = {
    one.__name__: one
    for one in (
        ends.LocalDelivery,
        ends.RemoteDelivery,
        ends.ToProcessor,
        ends.Reject,
        ends.Null,
        ends.Bounce,
        ends.DSNBounce,
        ends.Hold,
        ends.Defer,
        marks.AddHeader,
        marks.RemoveHeader,
        marks.SetAttribute,
        tenants.SetTenant,
        marks.LogMessage,
        marks.Metrics,
        rewrite.RecipientRewrite,
        rewrite.PostmasterAlias,
        rewrite.Forward,
        rewrite.Copy,
        signing.DKIMSign,
        signing.ARCSeal,
        returning.VERP,
        returning.SRS,
        returning.BounceProcessor,
    )
}
