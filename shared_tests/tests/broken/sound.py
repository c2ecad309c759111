"""The store without a defect, held to the same rules."""

from __future__ import annotations

from intact import IntactStore, conformance_classes

globals().update(conformance_classes(__name__, [IntactStore]))
