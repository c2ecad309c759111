"""The MongoDB backend of taskiq-sources: durable schedules in one collection of a database that all processes share."""

from taskiq_sources_mongo.source import MongoScheduleSource
from taskiq_sources_mongo.store import MongoStore, StandaloneMongoStore

__all__ = ["MongoScheduleSource", "MongoStore", "StandaloneMongoStore"]
