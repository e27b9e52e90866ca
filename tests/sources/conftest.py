"""Small sources, written where a test may write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from streams.sources import Source, open_source

HEAD = 'name = "shop"\ncurrency = "EUR"\n'
CLICKS = """
[clicks]
path = "clicks.csv"
user = "user"
time = "time"
product = "product"
type = { value = "view" }
"""
ORDERS = """
[orders]
path = "orders.csv"
order = "order"
user = "user"
time = "time"
product = "product"
quantity = "quantity"
price = "price"
"""

MakeSource = Callable[..., Source]


@pytest.fixture
def make_source(tmp_path: Path) -> MakeSource:
    """Write a description and its files, and open it: ``make_source(toml, **{"clicks.csv": text})``."""

    def make(toml: str, chunk_rows: int = 200_000, **files: str | bytes) -> Source:
        (tmp_path / "shop.toml").write_text(toml if "name =" in toml.partition("[")[0] else HEAD + toml)
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (tmp_path / name).write_bytes(data)
        return open_source(tmp_path / "shop.toml", chunk_rows=chunk_rows)

    return make
