"""Models behind HTTP: a page to try them, and a JSON endpoint.

`groupvit serve` runs it; the packages of the page are in the extra `demo`.
"""

from groupvit_jax.serve.service import Limits, Refusal, Service

__all__ = ['Limits', 'Refusal', 'Service']
