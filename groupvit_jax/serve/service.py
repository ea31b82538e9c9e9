"""Answers requests, one after another: limits, a cache of regions, counters.

Knows neither HTTP nor the page; both ask here.
"""

import collections
import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import UInt8

from groupvit_jax.data.images import open_image
from groupvit_jax.errors import UserError
from groupvit_jax.inference import ImageRegions, Model, Segmentation

_KEPT = 8  # encoded images
_MINUTE = 60.0  # seconds


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits on requests.

  Attributes:
    megabytes: of a request.
    megapixels: of an image.
    names: classes in a request.
    characters: of a class name.
    per_minute: requests of an address.
    waiting: requests that wait for their turn, of all addresses.
    seconds: that a request waits at most.
  """

  megabytes: float = 16.0
  megapixels: float = 25.0
  names: int = 200
  characters: int = 200
  per_minute: int = 60
  waiting: int = 16
  seconds: float = 30.0


class Refusal(UserError):
  """A request that is not answered.

  Attributes:
    status: of HTTP: 400 a mistake, 413 too large, 429 too often, 503 busy.
  """

  def __init__(self, status: int, message: str):
    super().__init__(message)
    self.status = status


class Service:
  """Segments images for many visitors.

  Attributes:
    models: by name, the first one is the default.
    limits: see `Limits`.
    statuses: answers so far, by HTTP status.
    encoded: images that went through a network.
    seconds: spent on answers.
  """

  def __init__(self, models: Mapping[str, Model], limits: Limits = Limits()):
    self.models = dict(models)
    self.limits = limits
    self.statuses: collections.Counter[int] = collections.Counter()
    self.encoded, self.seconds = 0, 0.0
    self._regions: collections.OrderedDict[tuple[str, str], ImageRegions] = (
      collections.OrderedDict()
    )
    self._times: dict[str, collections.deque[float]] = {}
    self._turn, self._waiting = threading.Lock(), 0
    self._count = threading.Lock()

  @contextmanager
  def answering(self, client: str) -> Iterator[None]:
    """Counts a request and its answer; refuses one that comes too often."""
    status, start = 500, time.monotonic()
    try:
      self._check_rate(client, start)
      yield
      status = 200
    except Refusal as refusal:
      status = refusal.status
      raise
    except UserError as error:  # a bad image or list of names
      status = 400
      raise Refusal(status, str(error)) from error
    finally:
      with self._count:
        self.statuses[status] += 1
        self.seconds += time.monotonic() - start

  def segment(
    self,
    image: bytes | UInt8[np.ndarray, 'h w 3'],
    names: Sequence[str],
    *,
    model: str | None = None,
    background: float | None = None,
    top_k: int | None = None,
  ) -> Segmentation:
    """Segments an image; a known one with new words needs no second pass.

    Args:
      image: a file's bytes, or pixels.
      names: of classes, as `Model.segment` takes them.
      model: a key of `models`.
      background: threshold in 0..1; None for no background.
      top_k: classes nearest to the whole image that may appear; None for all.

    Raises:
      Refusal: more than the limits allow, or no turn in time.
      ImageError, LabelError: an image or names that cannot be used.
    """
    chosen = self._model(model)
    self._check_names(names)
    if background is not None and not 0 <= background <= 1:
      raise Refusal(400, 'background is a threshold in 0..1, or null')
    if top_k is not None and top_k < 1:
      raise Refusal(400, 'top_k is a positive number, or null')
    with self._own_turn():
      regions = self._encode(chosen, image)
      config = dataclasses.replace(
        regions.config, background_threshold=background, top_k=top_k
      )
      result = regions.segment(names, config)
      result.labels  # noqa: B018 (computed while it is its turn)
      return result

  def metrics(self) -> str:
    """Counters in the text form of Prometheus."""
    with self._count:
      lines = [
        f'groupvit_requests_total{{status="{status}"}} {count}'
        for status, count in sorted(self.statuses.items())
      ]
      lines += [
        f'groupvit_images_encoded_total {self.encoded}',
        f'groupvit_seconds_total {self.seconds:.3f}',
        f'groupvit_requests_waiting {self._waiting}',
      ]
    return '\n'.join(lines) + '\n'

  def _model(self, name):
    name = name or next(iter(self.models))
    if name not in self.models:
      raise Refusal(
        400, f'no model {name[:80]!r}; there are {", ".join(self.models)}'
      )
    return name

  def _check_names(self, names):
    most = self.limits
    if len(names) > most.names:
      raise Refusal(400, f'{len(names)} classes; at most {most.names}')
    if any(len(name) > most.characters for name in names):
      raise Refusal(400, f'a class name has over {most.characters} characters')

  def _check_rate(self, client, now):
    with self._count:
      # Addresses that were quiet for a minute are forgotten.
      self._times = {
        name: times
        for name, times in self._times.items()
        if now - times[-1] < _MINUTE
      }
      times = self._times.setdefault(client, collections.deque())
      while times and now - times[0] >= _MINUTE:
        times.popleft()
      if len(times) >= self.limits.per_minute:
        raise Refusal(
          429, f'over {self.limits.per_minute} requests a minute; wait a little'
        )
      times.append(now)

  @contextmanager
  def _own_turn(self):
    with self._count:
      if self._waiting >= self.limits.waiting:
        raise Refusal(503, 'too many requests are waiting; try again')
      self._waiting += 1
    try:
      got = self._turn.acquire(timeout=self.limits.seconds)
    finally:
      with self._count:
        self._waiting -= 1
    if not got:
      raise Refusal(503, f'no turn within {self.limits.seconds:g} s; try again')
    try:
      yield
    finally:
      self._turn.release()

  def _encode(self, model, image):
    raw = image if isinstance(image, bytes) else np.asarray(image).tobytes()
    key = model, hashlib.sha256(raw).hexdigest() + str(np.shape(image))
    if key not in self._regions:
      pixels = open_image(image, 'the image')
      size = pixels.shape[0] * pixels.shape[1] / 1e6
      if size > self.limits.megapixels:
        most = self.limits.megapixels
        raise Refusal(413, f'{size:.1f} megapixels; at most {most:g}')
      self._regions[key] = next(self.models[model].encode_each(pixels))
      self.encoded += 1
      if len(self._regions) > _KEPT:
        self._regions.popitem(last=False)
    self._regions.move_to_end(key)
    return self._regions[key]
