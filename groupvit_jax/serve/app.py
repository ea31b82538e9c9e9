"""The HTTP of a service: /segment, /health and /metrics beside the page."""

import base64
import binascii
import json
from typing import Any

import msgspec

from groupvit_jax.serve import page
from groupvit_jax.serve.service import Refusal, Service

_TEXT = 'text/plain; version=0.0.4'  # of Prometheus


class SegmentRequest(msgspec.Struct, forbid_unknown_fields=True):
  """The body of a request to /segment.

  Attributes:
    image: a file in base64.
    labels: class names.
    model: one of the names that /health lists; by default the first.
    background: threshold in 0..1; none without it.
    top_k: classes that may appear; all without it.
  """

  image: str
  labels: list[str]
  model: str | None = None
  background: float | None = None
  top_k: int | None = None


def make(service: Service, *, with_page: bool = True) -> Any:
  """The application, for any ASGI server.

  POST /segment takes a `SegmentRequest` as JSON, and answers with the values of
  `Segmentation.summary`; a refusal is {"error": ...} with its status. GET
  /health names the models, GET /metrics counts in Prometheus' form. All else is
  the page.

  Args:
    service: answers.
    with_page: False leaves the page out, and needs no Gradio.
  """
  import fastapi  # pyright: ignore[reportMissingImports]
  from fastapi import responses  # pyright: ignore[reportMissingImports]
  from starlette import concurrency  # pyright: ignore[reportMissingImports]

  app = fastapi.FastAPI(openapi_url=None)
  most = int(service.limits.megabytes * 1e6)

  async def read(request: fastapi.Request) -> bytes:
    body = b''
    async for part in request.stream():
      body += part
      if len(body) > most:
        raise Refusal(413, f'over {service.limits.megabytes:g} megabytes')
    return body

  @app.post('/segment')
  async def segment(request: fastapi.Request) -> Any:
    client = request.client.host if request.client else ''
    try:
      with service.answering(client):
        body = await read(request)
        values = await concurrency.run_in_threadpool(_answer, service, body)
      return responses.JSONResponse(values)
    except Refusal as refusal:
      again = {'Retry-After': '10'} if refusal.status in (429, 503) else None
      return responses.JSONResponse(
        {'error': str(refusal)}, refusal.status, headers=again
      )

  @app.get('/health')
  def health() -> Any:
    return {'status': 'ok', 'models': list(service.models)}

  @app.get('/metrics')
  def metrics() -> Any:
    return responses.PlainTextResponse(service.metrics(), media_type=_TEXT)

  if not with_page:
    return app

  app.add_middleware(_FetchNothing, most=most)
  return page.mount(app, service)


class _FetchNothing:
  """ASGI middleware: refuses an event of the page that names an address.

  Gradio would download it. It lets streams through as they are.
  """

  def __init__(self, app: Any, most: int):
    self._app, self._most = app, most

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    """Passes a request on, after a look at its JSON."""
    kind = dict(scope.get('headers', ())).get(b'content-type', b'')
    if b'json' not in kind or scope['path'] == '/segment':
      await self._app(scope, receive, send)
      return
    body, more = b'', True
    while more and len(body) <= self._most:
      message = await receive()
      body += message.get('body', b'')
      more = message.get('more_body', False)
    if more or _names_address(body):
      await send({'type': 'http.response.start', 'status': 400, 'headers': []})
      await send({'type': 'http.response.body', 'body': b'give the image'})
      return
    whole = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def replay() -> Any:
      return whole.pop() if whole else await receive()

    await self._app(scope, replay, send)


def _answer(service: Service, body: bytes) -> dict[str, Any]:
  try:
    request = msgspec.json.decode(body, type=SegmentRequest)
    image = base64.b64decode(request.image, validate=True)
  except (msgspec.DecodeError, binascii.Error) as error:
    raise Refusal(400, f'the request is not as expected: {error}') from error
  result = service.segment(
    image,
    request.labels,
    model=request.model,
    background=request.background,
    top_k=request.top_k,
  )
  return result.summary()


def _names_address(body: bytes) -> bool:
  """Whether a `path` of a JSON value, at any depth, is an address."""
  try:
    pending = [json.loads(body)]
  except (ValueError, RecursionError):
    return False
  while pending:
    value = pending.pop()
    if isinstance(value, dict):
      if '://' in str(value.get('path', '')):
        return True
      pending += value.values()
    elif isinstance(value, list):
      pending += value
  return False
