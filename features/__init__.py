"""Rolling features: declared once, computed event by event, checked against a brute-force oracle. Pure, no I/O."""
