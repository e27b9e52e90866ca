"""Every size and rate of the simulated shop, in one frozen object."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

DAY_MS = 86_400_000
LONGEST_SESSION_MS = 3_100_000
"""No session, with the purchase it ends in, lasts longer."""


class FaultRates(BaseModel):
    """What goes wrong between the shop and the log: shares of all events, unless it says otherwise.

    Orders are never damaged, so that the truth about purchases stays whole.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    duplicates: float = Field(0.01, ge=0, le=1, description="sent a second time, with the same id")
    disordered: float = Field(0.05, ge=0, le=1, description="sent some seconds after their turn")
    disorder_mean_s: float = Field(5.0, gt=0, le=60)
    late: float = Field(0.005, ge=0, le=1, description="sent minutes after their turn, within the allowed lateness")
    too_late: float = Field(0.001, ge=0, le=1, description="sent after more than the allowed lateness")
    corrupt: float = Field(0.002, ge=0, le=1, description="share of clicks whose bytes are damaged")
    skewed_users: float = Field(0.0, ge=0, le=1, description="share of users whose clock is wrong")
    skew_ms: int = Field(
        90_000, ge=-30 * DAY_MS, le=30 * DAY_MS, description="how far their clock is ahead; behind, where below 0"
    )
    allowed_lateness_s: int = Field(600, ge=10, le=30 * 86_400, description="the reader's, by which late is meant")

    @classmethod
    def none(cls) -> FaultRates:
        """Nothing goes wrong."""
        return cls(duplicates=0, disordered=0, late=0, too_late=0, corrupt=0, skewed_users=0)


class ShopConfig(BaseModel):
    """The shop: sizes, seasons, what its visitors do, and what goes wrong on the way to the log.

    Simulated time runs for `days` calendar days (UTC), the last of them cut at `end_ms`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    end_ms: int = Field(ge=400 * DAY_MS, lt=4_102_444_800_000, description="where simulated time ends (UTC ms)")
    name: str = Field("simulated", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    seed: int = Field(1, ge=0)
    users: int = Field(2_000, ge=1, le=10_000_000)
    products: int = Field(200, ge=2, le=200_000)
    categories: int = Field(12, ge=1, le=1_000)
    days: int = Field(60, ge=1, le=365)
    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$")
    sessions_per_user_day: float = Field(0.25, gt=0, le=10)
    horizon_s: int = Field(3_600, ge=3_600, le=7 * 86_400, description="of the true purchase probability")

    anonymous: float = Field(0.08, ge=0, le=1, description="share of sessions without a user")
    bots: float = Field(0.01, ge=0, le=0.9, description="share of sessions that are machines': many views, no purchase")
    propensity_sd: float = Field(1.2, ge=0, le=3, description="how much users differ in their will to buy (log odds)")
    returns: float = Field(0.04, ge=0, le=1, description="share of orders that come back within days")
    cancellations: float = Field(0.02, ge=0, le=1, description="share of orders cancelled within hours")
    extra_quantity: float = Field(0.25, ge=0, le=100, description="mean pieces of an order beyond the first")

    weekend: float = Field(0.35, ge=-0.9, le=3, description="how much busier a weekend day is than a working day")
    yearly: float = Field(0.3, ge=0, le=2, description="amplitude of each category's own season (log)")
    trend_sd: float = Field(0.8, ge=0, le=5, description="how much products' yearly trends differ (log)")
    promoted: float = Field(0.05, ge=0, le=1, description="share of product-weeks that hold a promotion")
    promotion_discount: float = Field(0.2, ge=0, lt=1)
    promotion_pull: float = Field(0.8, ge=0, le=5, description="more visitors look for a promoted product (log)")
    promotion_push: float = Field(0.4, ge=0, le=5, description="and they rather buy it (log odds)")
    price_changes: float = Field(0.03, ge=0, le=1, description="share of product-weeks that begin with a new price")
    elasticity: float = Field(1.5, ge=0, le=10, description="log odds lost per log of price above the first")
    stock_outs: float = Field(0.03, ge=0, le=1, description="share of product-weeks that hold days without stock")
    new_products: float = Field(0.15, ge=0, le=1, description="share of products that come while the time runs")
    plan_ahead_days: int = Field(14, ge=0, le=365, description="how far beyond the end the plan is known")

    drift_at_ms: int | None = Field(None, description="from then on visitors behave by other rules (UTC ms)")
    faults: FaultRates = FaultRates()

    @property
    def first_day(self) -> int:
        """Days since 1970 of the first simulated day."""
        return (self.end_ms - 1) // DAY_MS - self.days + 1

    @property
    def start_ms(self) -> int:
        """Where simulated time begins: a midnight (UTC ms)."""
        return self.first_day * DAY_MS

    @property
    def separation_ms(self) -> int:
        """Sessions of one user begin at least this far apart, so that a horizon holds one session's purchases only."""
        return self.horizon_s * 1_000 + LONGEST_SESSION_MS
