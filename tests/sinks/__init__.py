"""Servers that do what a test tells them: an SMTP server that can misbehave, a name server that answers from a table."""
