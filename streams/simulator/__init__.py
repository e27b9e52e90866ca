"""A shop whose truth is known: every click's true purchase probability, every product-day's true mean demand.

For the demo, load, calibration and tests. Deterministic under a seed; simulated time ends at a given moment.

>>> shop = Shop(ShopConfig(users=50, products=20, days=3, end_ms=1_700_000_000_000))
>>> events = list(shop.clean())
>>> [event.value.event_id for event in events if event.topic == "clickstream"][0]
'simulated:clicks:1'
>>> 0.0 <= shop.truth.purchase_probability("simulated:clicks:1") <= 1.0
True
"""

from streams.simulator.config import FaultRates, ShopConfig
from streams.simulator.shop import Shop

__all__ = ["FaultRates", "Shop", "ShopConfig"]
