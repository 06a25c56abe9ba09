"""Mail that programs hand over as documents, over HTTP.

What it is: the form of a request (`request`), the message it describes (`composition`), its way into the intake (`injector`).
What it is not: HTTP; `http.injection` is its pages.

RFCs: 5322 (§3.6 fields, §2.1.1 lines), 2045 and 2047 by the standard library, 6409 §8 (what a submission server may add).
"""
