"""Sends an occurrence through taskiq's kicker, sparing that what is known already. Knows no store."""

from __future__ import annotations

from typing import Any

from taskiq import AsyncBroker, TaskiqMessage
from taskiq.kicker import AsyncKicker
from taskiq.labels import LabelType, prepare_label

from taskiq_sources.occurrences import Dispatch

_TEXT = LabelType.STR.value


async def kick(broker: AsyncBroker, dispatch: Dispatch) -> bool:
    """Send an occurrence whose arguments came out of a JSON document; return that it was sent."""
    definition = dispatch.definition
    await _DispatchKicker(broker, dispatch).kiq(*definition.args, **definition.kwargs)
    return True


class _DispatchKicker(AsyncKicker[..., Any]):
    """A kicker that takes arguments and most labels as they are.

    taskiq looks at each of them to turn models into JSON, which takes a third of a send; here they have been JSON. That the
    message equals the one that taskiq makes is tested. Should taskiq not ask for it by this name any more, it makes its own.
    """

    def __init__(self, broker: AsyncBroker, dispatch: Dispatch) -> None:
        labels = {**dispatch.definition.labels, "schedule_id": dispatch.schedule_id, "scheduled_for": dispatch.instant}
        super().__init__(dispatch.definition.task_name, broker, labels)
        self._task_id = self.custom_task_id = dispatch.task_id

    def _prepare_message(self, *args: Any, **kwargs: Any) -> TaskiqMessage:
        labels: dict[str, Any] = self.labels
        types = dict.fromkeys(labels, _TEXT)
        for name, value in self.labels.items():
            if type(value) is not str:
                if labels is self.labels:
                    labels = labels.copy()
                labels[name], types[name] = prepare_label(value)
        if "types_of_exceptions" in types:  # which some releases of taskiq leave out
            return super()._prepare_message(*args, **kwargs)
        return TaskiqMessage(
            task_id=self._task_id,
            task_name=self.task_name,
            labels=labels,
            labels_types=types,
            args=list(args),
            kwargs=kwargs,
        )
