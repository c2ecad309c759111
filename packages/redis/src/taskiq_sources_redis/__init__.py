"""The Redis backend of taskiq-sources: durable schedules in Redis or Valkey, single, behind Sentinel, or as a Cluster."""

from taskiq_sources_redis.source import RedisScheduleSource
from taskiq_sources_redis.store import RedisStore

__all__ = ["RedisScheduleSource", "RedisStore"]
