"""What runs of one process share: what leads to the same is made once."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Memory:
    """Remembers the last results by what they were made of; one that holds nothing makes all anew."""

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self._made: OrderedDict[str, Any] = OrderedDict()

    def once(self, facts: object, make: Callable[[], T]) -> T:
        """Return what was made of these facts before, or make it now.

        Args:
            facts: all that the result depends on; JSON can write them.
            make: makes it. What it returns is shared, so nobody may change it.
        """
        if not self.most:
            return make()
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        made: T = self._made.pop(key) if key in self._made else make()
        self._made[key] = made
        while len(self._made) > self.most:
            self._made.popitem(last=False)
        return made
