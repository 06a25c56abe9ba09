"""RusMES: one mail server for SMTP, IMAP, POP3 and JMAP around a pipeline of matchers and mailets.

docs/design.md is the map: the floors, who may import whom, and what is promised.
"""
