"""Every configuration value: its one home, its unit in its name, a default that works.

Values come, later ones winning, from the defaults here, a TOML file (``TIDECAST_CONFIG`` or ``--config``) and the
environment: ``TIDECAST_KAFKA__BOOTSTRAP_SERVERS`` is ``kafka.bootstrap_servers``. An unknown key is refused.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from streams.errors import ConfigurationError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _read_currency(value: object) -> str:
    if not isinstance(value, str) or re.fullmatch("[A-Z]{3}", value) is None:
        raise ValueError("must be an ISO 4217 code such as EUR")
    return value


def _read_rate(value: object) -> Decimal:
    # Through the text: 0.1 of a file is a tenth, not the float nearest to it.
    try:
        rate = Decimal("nan" if isinstance(value, bool) else str(value))
    except ArithmeticError:
        rate = Decimal("nan")
    if not rate.is_finite() or not _LEAST_RATE <= rate <= 1 / _LEAST_RATE or len(rate.as_tuple().digits) > _RATE_DIGITS:
        raise ValueError(
            f"must be a number above 0 such as 1.17 (from {_LEAST_RATE} to its inverse, at most {_RATE_DIGITS} digits)"
        )
    return rate


_LEAST_RATE = Decimal("1e-12")
_RATE_DIGITS = 30
Currency = Annotated[str, BeforeValidator(_read_currency)]
Rate = Annotated[Decimal, BeforeValidator(_read_rate)]


class KafkaSettings(_Section):
    """How to reach Kafka."""

    bootstrap_servers: str | None = Field(None, description="host:port[,host:port…]; empty: the embedded broker")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_location: Path | None = None
    extra: dict[str, str | int | float | bool] = Field(default_factory=dict, description="further librdkafka settings")
    partitions: int = Field(4, ge=1, le=1024, description="partitions of every co-partitioned topic")
    replication_factor: int = Field(1, ge=1, le=9)
    transaction_timeout_ms: int = Field(10_000, ge=1_000, le=900_000)
    session_timeout_ms: int = Field(10_000, ge=1_000, le=600_000)
    max_message_bytes: int = Field(1_000_000, ge=10_000, le=100_000_000, description="largest event taken")
    rest_at_end_ms: int = Field(
        0,
        ge=0,
        le=1_000,
        description="leave a partition alone so long at its end; for a broker that makes no fetch wait",
    )
    renew_producers: bool = Field(
        False,
        description="a new transactional id after each abort; for a broker that hides what the old one writes next",
    )
    prefix: str = Field("", max_length=50, description="put before the names of all topics and groups")


class RedisSettings(_Section):
    """How to reach Redis (or Valkey)."""

    url: SecretStr | None = Field(None, description="redis://host:port/db; empty: the embedded store")
    cluster: bool = False
    prefix: str = Field("tc", max_length=50, description="put before every key")
    timeout_ms: int = Field(2_000, ge=50, le=60_000)


class TimeSettings(_Section):
    """Event time."""

    allowed_lateness_s: int = Field(600, ge=0, le=30 * 86_400, description="later than this: to the dead letters")
    max_ahead_s: int = Field(300, ge=0, le=86_400, description="an event may be this far ahead of its append time")
    idle_ms: int = Field(2_000, ge=50, le=3_600_000, description="an empty input stops holding back the others after")


class ShopSettings(_Section):
    """The shop's own calendar, and the currency that it counts in."""

    timezone: str = "UTC"
    country: str | None = Field(None, description="its public holidays: a country such as DE, or a part such as DE-BY")
    currency: Currency | None = Field(
        None, description="prices of events in another one are converted; none: all amounts are taken as they are"
    )
    rates: dict[Currency, Rate] = Field(
        default_factory=dict, description="how many units of shop.currency one unit of another currency is worth"
    )

    @field_validator("rates", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        # Names that come from the environment are in small letters; as everywhere, they win over the file's.
        if not isinstance(value, dict):
            return value
        small = {name for name in value if isinstance(name, str) and name.islower()}
        given = {name: rate for name, rate in value.items() if name not in small}
        return given | {name.upper(): value[name] for name in small}

    @model_validator(mode="after")
    def _one_currency(self) -> Self:
        if self.rates and self.currency is None:
            raise ValueError("rates need shop.currency, in which they are; set it")
        if self.currency is not None and self.rates.get(self.currency, Decimal(1)) != 1:
            raise ValueError(f"rates.{self.currency} must be 1, or left out: it is shop.currency itself")
        return self

    @field_validator("country")
    @classmethod
    def _celebrates(cls, value: str | None) -> str | None:
        if value is not None:
            from features.calendar import ShopCalendar

            ShopCalendar("UTC", value)
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError("must be an IANA time zone such as Europe/London") from error
        return value


class ScoreSettings(_Section):
    """The score stage."""

    horizon_s: int = Field(3_600, ge=60, le=90 * 86_400, description="a purchase within this time after the click")
    product_staleness_ms: int = Field(
        1_000, ge=0, le=600_000, description="rows of products and categories are re-read after this"
    )
    model_pin: str | None = Field(None, description="serve only this model version (name:version)")


class LearnSettings(_Section):
    """The learn stage."""

    publish_every: int = Field(1_000, ge=1, description="learnt examples between two published model versions")
    max_pending: int = Field(
        200_000,
        ge=100,
        le=1_000_000_000,
        description="examples in memory (1.2 KB each) that wait for their outcome; the others are read from the log "
        "again when their horizon is over; its orders, and a note on each message, come on top. Changed, all is learnt "
        "anew",
    )


class DemandSettings(_Section):
    """The demand stage."""

    bucket: Literal["H", "D", "W"] = "D"
    horizon: int = Field(7, ge=1, le=366, description="buckets forecast ahead")
    retire_after: int = Field(28, ge=1, le=1_000, description="empty buckets after which a series rests")


class TrainSettings(_Section):
    """Scheduled training of the sequence model."""

    schedule: str = Field("0 3 * * *", description="cron, in the shop's time zone; empty: never")
    # Where `tidecast run` keeps that of its embedded servers by default: one place, whatever command asks.
    registry: Path = Path(".tidecast/data/registry")
    epochs: int = Field(20, ge=1)
    seed: int = Field(1, ge=0, lt=2**63)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0, mps")

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str) -> str:
        from croniter import croniter

        if value and (len(value.split()) != 5 or not croniter.is_valid(value)):
            raise ValueError("must be five cron fields such as '0 3 * * *' (minute hour day month weekday), or empty")
        return value


class ControlSettings(_Section):
    """The control worker."""

    web_host: str = "127.0.0.1"
    web_port: int = Field(0, ge=-1, le=65_535, description="web view; 0: any free port, -1: none")
    status_interval_s: int = Field(10, ge=1, le=3_600, description="how often the status of all workers is published")
    status_urls: tuple[str, ...] = Field((), description="http://host:port of each worker's health")
    sample: float | None = Field(
        None, gt=0, le=1, description="share of subjects whose predictions are judged; empty: as many as load allows"
    )
    lookback_s: int = Field(3_600, ge=0, le=30 * 86_400, description="how far back in the log judging begins")
    max_pending: int = Field(
        100_000, ge=1_000, le=1_000_000_000, description="predictions in memory that wait for their outcome"
    )

    @field_validator("status_urls")
    @classmethod
    def _http(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(url.startswith(("http://", "https://")) for url in value):
            raise ValueError('must be a list of addresses such as ["http://127.0.0.1:9100"]')
        return value


class RuntimeSettings(_Section):
    """One worker."""

    worker_id: str = Field("worker-0", pattern=r"^[A-Za-z0-9._-]{1,100}$", description="static membership; unique")
    batch_max_events: int = Field(
        2_000, ge=1, le=100_000, description="of a task in one transaction, while it is behind"
    )
    checkpoint_interval_ms: int = Field(1_000, ge=0, le=600_000)
    checkpoint_max_rows: int = Field(20_000, ge=1, description="flush early beyond this many changed rows")
    cache_max_rows: int = Field(100_000, ge=1, description="rows kept in memory per task; clean ones are evicted")
    metrics_port: int = Field(0, ge=-1, le=65_535, description="health and metrics; 0: any free port, -1: none")
    metrics_host: str = "127.0.0.1"


class Settings(BaseSettings):
    """All of them."""

    model_config = SettingsConfigDict(
        env_prefix="TIDECAST_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    time: TimeSettings = TimeSettings()
    shop: ShopSettings = ShopSettings()
    score: ScoreSettings = ScoreSettings()
    learn: LearnSettings = LearnSettings()
    demand: DemandSettings = DemandSettings()
    train: TrainSettings = TrainSettings()
    control: ControlSettings = ControlSettings()
    runtime: RuntimeSettings = RuntimeSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose values come in as arguments."""
        return env_settings, init_settings


# These name places for other tools, or choose the file itself; they are no settings.
_NOT_SETTINGS = {"TIDECAST_CONFIG", "TIDECAST_DATA", "TIDECAST_HOOK", "TIDECAST_HOOK_LOG", "TIDECAST_DATA_DIR"}


def load_settings(path: Path | None = None) -> Settings:
    """Read the settings from `path` (else ``TIDECAST_CONFIG``) and the environment.

    Raises ConfigurationError with the name, the value and the allowed form of what is wrong.
    """
    if path is None and os.environ.get("TIDECAST_CONFIG"):
        path = Path(os.environ["TIDECAST_CONFIG"])
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); check --config") from error
        except (ValueError, RecursionError, ArithmeticError) as error:
            raise ConfigurationError(f"{path}: is not valid TOML ({error})") from error
    _refuse_unknown_variables()
    own = [key for key in values if key.startswith("_")]  # pydantic-settings' arguments, not ours
    if own:
        raise ConfigurationError(
            f"{path}: {own[0]}: there is no such setting; sections: {', '.join(Settings.model_fields)}"
        )
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error
    except (SettingsError, RecursionError) as error:
        raise ConfigurationError(f"{_no_json()}: {error.__cause__ or error}; give it as JSON") from error


def masked(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain data with every secret masked."""
    data = settings.model_dump(mode="json")
    url = settings.redis.url
    if url is not None:
        data["redis"]["url"] = _without_password(url.get_secret_value())
    return data


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{'***@' if at and credentials else ''}{host}"


def _refuse_unknown_variables() -> None:
    for name in os.environ:
        if not name.startswith("TIDECAST_") or name in _NOT_SETTINGS:
            continue
        section, _, key = name.removeprefix("TIDECAST_").lower().partition("__")
        field = Settings.model_fields.get(section)
        known = field.annotation.model_fields if field is not None and field.annotation is not None else {}
        key = key.partition("__")[0]
        if field is None or (key and key not in known):
            raise ConfigurationError(
                f"{name}: there is no such setting; the form is TIDECAST_SECTION__KEY, sections: "
                + ", ".join(Settings.model_fields)
                + (f"; keys of {section}: {', '.join(known)}" if known else "")
            )


def _no_json() -> str:
    """Return the names of the variables that must be JSON and are not; their values may hold passwords."""
    wrong = []
    for name, value in os.environ.items():
        given, _, key = name.lower().partition("__")
        section = given.removeprefix("tidecast_")
        field = Settings.model_fields.get(section) if section != given else None
        own = field.annotation.model_fields.get(key) if field is not None and field.annotation is not None else None
        if field is not None and (not key or (own is not None and get_origin(own.annotation) in (dict, list, tuple))):
            try:
                json.loads(value)
            except (ValueError, RecursionError):
                wrong.append(name)
    return ", ".join(wrong)


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        # A wrong key of a table stands in the place already; pydantic's mark of it says nothing.
        name = ".".join(str(part) for part in item["loc"] if part not in ("", "[key]"))
        secret = "password" in name or name.startswith("redis.url")
        value = "***" if secret else repr(item["input"])
        said = "must be a table" if item["type"] == "dict_type" else item["msg"].removeprefix("Value error, ")
        lines.append(f"{name} = {value}: {said}")
    return "; ".join(lines)
