"""`groupvit serve`: a page to try models in a browser, and a JSON endpoint."""

import argparse
import contextlib
import importlib.util
import os
import signal
import socket
import sys
import tempfile

from groupvit_jax.cli import common

_EXAMPLES = """\
Needs the packages of the extra `demo`: pip install 'groupvit_jax[demo]'.
POST /segment takes {"image": BASE64, "labels": ["dog", "sky"]} and answers as
`groupvit segment --show json`; /health and /metrics are for monitoring.
docs/serve.md says more.

examples:
  groupvit serve --model my_model
  groupvit serve --model nvidia/groupvit-gcc-yfcc my_model --port 8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's arguments."""
  parser.epilog = _EXAMPLES
  common.add_path(
    parser, '--model', 'MODEL', common.MODEL, required=True, nargs='+'
  )
  parser.add_argument(
    '--host',
    default='127.0.0.1',
    help='address to listen at; 0.0.0.0 is open to the network (default: '
    '%(default)s)',
  )
  common.add_number(parser, '--port', 'default: %(default)s', default=7860)
  common.add_number(
    parser,
    '--per-minute',
    'requests of one visitor (default: %(default)s)',
    default=60,
  )


def run(args: argparse.Namespace) -> None:
  """Runs the sub-command until Ctrl-C."""
  for name in ('gradio', 'uvicorn'):
    if importlib.util.find_spec(name) is None:
      raise ValueError(
        f"serving needs {name}: pip install 'groupvit_jax[demo]'"
      )
  # uvicorn raises it again when it has stopped; the folder then goes.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  with (
    _listening(args.host, args.port) as listening,
    tempfile.TemporaryDirectory(prefix='groupvit_serve_') as folder,
  ):
    os.environ['GRADIO_TEMP_DIR'] = folder  # read when Gradio is imported, too
    import uvicorn  # pyright: ignore[reportMissingImports]

    from groupvit_jax import inference, serve
    from groupvit_jax.serve import app

    models = {str(path): inference.load(path) for path in args.model}
    limits = serve.Limits(per_minute=args.per_minute)
    made = app.make(serve.Service(models, limits))
    print(f'http://{args.host}:{args.port}', flush=True)
    config = uvicorn.Config(made, log_level='warning')
    with contextlib.suppress(KeyboardInterrupt):  # the usual end, no error
      uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
  """A socket; opened before the models, so that a mistake is told at once."""
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family)
  except (OSError, OverflowError) as error:
    raise ValueError(
      f'cannot listen at {host}:{port}: {getattr(error, "strerror", error)}; '
      'choose another --port'
    ) from error
