"""An LRU cache of the models of a replica."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

Held = TypeVar("Held")


class ModelCache(Generic[Held]):
    """Loads models on request and evicts the least recently used.

    Safe to share between threads.
    """

    def __init__(self, size_of: Callable[[Held], int], budget: int) -> None:
        """Start with an empty cache.

        Args:
            size_of: returns the bytes of an entry.
            budget: maximum bytes of all entries; 0 for no limit. A requested entry is kept even if
                it alone is larger.
        """
        self._size_of, self._budget = size_of, budget
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._lock, self._loading = threading.Lock(), threading.Lock()

    def take(self, name: str, load: Callable[[], Held]) -> Held:
        """Return the entry of a name, loaded first if it is missing."""
        if (held := self._find(name)) is not None:
            return held
        with self._loading:  # One at a time; cached entries are available meanwhile.
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
        """Evict all other entries."""
        with self._lock:
            for name in set(self._held) - set(names):
                del self._held[name]

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(self._size_of(held) for held in self._held.values())

    @property
    def names(self) -> list[str]:
        """Names of the entries, the least recently used first."""
        return list(self._held)
