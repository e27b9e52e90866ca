"""A shop's own files become events: one TOML file says how, `open_source` reads, no code is written.

>>> import pathlib, tempfile
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> _ = (folder / "clicks.csv").write_text("who,when,what\\nann,2024-05-01T10:00:00Z,mug\\n")
>>> _ = (folder / "shop.toml").write_text('''
... name = "shop"
... currency = "EUR"
... [clicks]
... path = "clicks.csv"
... user = "who"
... time = "when"
... product = "what"
... type = { value = "view" }
... ''')
>>> [event] = open_source(folder / "shop.toml").events()
>>> event.topic, event.key, event.value.event_id
('clickstream', b'ann', 'shop:clicks:1')
"""

from streams.sources.reader import Accounts, Source, SourceEvent, Unreadable, open_source

__all__ = ["Accounts", "Source", "SourceEvent", "Unreadable", "open_source"]
