"""The structure of messages: header fields, address lists, MIME parts, and how IMAP writes them.

What it is: a fast parser that makes something of every input, however broken, in time that grows linearly with it, and
the two renderings the store keeps with each email: ENVELOPE and BODYSTRUCTURE.
What it is not: a decoder of text (encoded words and charsets stay as they are) and not a composer of messages.

RFCs: 5322 header and addresses (yes, with the obsolete syntax), 2045 and 2046 parts (yes), 2183 disposition (yes), 2047 and
2231 (passed on as they are; written by `asciiheader`), 3282 and 2557 language and location (yes), 9051 §7.5.2 ENVELOPE and
BODYSTRUCTURE (yes).

Map: `fields` splits a header block; `addresses` reads address lists; `envelope` and `structure` render; `quoting` writes
IMAP strings; `identifiers` finds message ids; `window` reads a file as a buffer; `transfer` undoes transfer encodings;
`asciiheader` writes header fields in ASCII.
"""
