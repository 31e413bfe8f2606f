"""Networks that declare their wiring: one file per architecture, and what all of them share."""
