"""`groupvit serve`: a page to try models in a browser, and a JSON endpoint."""

import argparse

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
  try:
    import gradio  # noqa: F401 # pyright: ignore[reportMissingImports]
    import uvicorn  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise ValueError(
      f"serving needs {error.name}: pip install 'groupvit_jax[demo]'"
    ) from error
  from groupvit_jax import inference, serve
  from groupvit_jax.serve import app

  models = {str(path): inference.load(path) for path in args.model}
  limits = serve.Limits(per_minute=args.per_minute)
  made = app.make(serve.Service(models, limits))
  print(f'http://{args.host}:{args.port}', flush=True)
  uvicorn.run(made, host=args.host, port=args.port, log_level='warning')
