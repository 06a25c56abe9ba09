"""To whom nothing is sent any more, and how refusals and reports come to say so."""
