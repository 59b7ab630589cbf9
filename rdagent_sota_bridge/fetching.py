"""How a URL becomes a file of the store. What it takes is imported where a URL is named, not before."""

from __future__ import annotations

from collections.abc import Callable

from rdagent_sota_bridge import store
from rdagent_sota_bridge.locate import Fetch, Located


def into_store(
    store_path: str | None,
    tell: Callable[[str], object],
    progress: Callable[[str, int, int | None], object] | None = None,
) -> Fetch:
    """Return what fetches a URL's set into the store, once.

    Args:
        store_path: `SOTA_STORE_PATH`.
        tell: Is told what takes time, in lines.
        progress: Is told a URL without secrets, how many bytes are there, and of how many; None for a line
            every ten seconds.
    """

    def fetch(url: str) -> Located:
        from rdagent_sota_bridge import fetched

        return fetched.fetch(url, store.folder(store_path), fetched.Watch(tell, progress))

    return fetch
