"""An LRU cache of the models of a replica."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

Held = TypeVar("Held")


class ModelCache(Generic[Held]):
    """Loads what is asked for, and lets go of what was not asked for the longest.

    Safe to share between threads.
    """

    def __init__(self, size_of: Callable[[Held], int], budget: int) -> None:
        """Hold nothing yet.

        Args:
            size_of: tells the bytes of what is held.
            budget: most bytes of all of it; 0 for no bound. What is asked for is held even if it
                alone is larger.
        """
        self._size_of, self._budget = size_of, budget
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._lock, self._loading = threading.Lock(), threading.Lock()

    def take(self, name: str, load: Callable[[], Held]) -> Held:
        """Return what is held under a name, loaded first if it is not there."""
        if (held := self._find(name)) is not None:
            return held
        with self._loading:  # One at a time; what is held is given out meanwhile.
            if (held := self._find(name)) is not None:
                return held
            loaded = load()
            with self._lock:
                self._held[name] = loaded
                while self._budget and len(self._held) > 1 and self.size > self._budget:
                    self._held.popitem(last=False)
            return loaded

    def _find(self, name: str) -> Held | None:
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
            return self._held.get(name)

    def keep(self, names: Collection[str]) -> None:
        """Let go of everything but these."""
        with self._lock:
            for name in set(self._held) - set(names):
                del self._held[name]

    @property
    def size(self) -> int:
        """Bytes of what is held."""
        return sum(self._size_of(held) for held in self._held.values())

    @property
    def names(self) -> list[str]:
        """What is held, the longest unused first."""
        return list(self._held)
