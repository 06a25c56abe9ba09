"""How gently each site is treated: names of sites, values in layers, and rules on what servers say.

What it is: the name of a set of MX hosts (`sitename`), which value holds for whom and where it is written (`layers`), what a
reply makes us do for a time (`rules`, `overrides`), and the rules for large providers that come with RusMES
(`providers.toml`). What it is not: it sends nothing and counts no connections (`delivery.pool`, `queue.sites`), and it decides
nothing about one mail.

Hot path: a plan of a destination holds its values, so a message costs nothing here; only a refusal is matched with rules.
"""
