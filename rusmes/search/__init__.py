"""Finding, sorting and threading messages (RFC 9051 §6.4.4, RFC 5256), for IMAP and JMAP.

What it is: queries (`model.query`) carried out over the columns of a mailbox, the header fields that the store keeps at hand,
and the text of messages where it lies. What it is not: the wire of a protocol (sequence numbers come in as functions, UIDs go
out), nor a ranking.

| file | room |
| --- | --- |
| `api.py` | the contract: a mailbox to look at, the searcher, what is refused |
| `scan.py` | the searcher that reads: the cheapest question first, messages that are settled are not looked at again |
| `plan.py` | a query as a tree of questions, some answered, some open |
| `slices.py` | long work in turns |
| `arrange.py` | sorting and threading what was found; `orders.py` keeps what was asked for before |
| `sorting.py` | SORT and its keys (RFC 5256 §3, RFC 5957) |
| `threads.py` | THREAD, both algorithms (RFC 5256 §3, §4) |
| `subject.py` | the base subject (RFC 5256 §2.1) |
| `sentdate.py` | the Date field (RFC 5322 §3.3) |
| `_core/textscan.pyx` and its neighbours | decoding, folding and comparing text, without the GIL |

A full-text index comes behind `api.Searcher` too: it is one more stage of `plan.STAGES`, which answers the open questions about
text that it can answer before `scan` reads what is left.

RFCs: 9051 §6.4.4 SEARCH (yes), 5256 SORT and THREAD (yes), 5957 SORT=DISPLAY (yes), 5032 WITHIN (yes), 8514 SAVEDATE (yes),
8474 OBJECTID keys (yes), 7162 MODSEQ (yes; per-entry modseqs are those of the message), 5051 i;unicode-casemap (yes), 6203
FUZZY (searched exactly, not advertised).
"""
