"""Strings of IMAP and values of header fields: functions only, nothing to lay out."""
