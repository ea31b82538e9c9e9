"""Work that threads do ahead of its use: files are read while devices work."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

COUNT = min(8, os.cpu_count() or 1)


def ahead(
  function: Callable[[Any], Any], items: Sequence[Any], chunk: int
) -> Iterator[list[Any]]:
  """Lists of results of `function`, the next ones under way in threads.

  Args:
    function: of one item.
    items: its arguments.
    chunk: results in a list; two such lists are held at most.

  Yields:
    The results in order. An error of `function` is raised here.
  """
  parts = [items[i : i + chunk] for i in range(0, len(items), chunk)]
  if len(items) == 1:
    yield [function(items[0])]
    return
  if not parts:
    return
  with futures.ThreadPoolExecutor(COUNT) as pool:
    try:
      pending = [pool.submit(function, item) for item in parts[0]]
      for following in [*parts[1:], []]:
        done = [future.result() for future in pending]
        pending = [pool.submit(function, item) for item in following]
        yield done
    finally:
      pool.shutdown(wait=False, cancel_futures=True)
