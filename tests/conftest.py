"""Environment and fixtures shared by all tests.

Eight virtual CPU devices, so that sharded code is tested on any machine; the
variables have to be set before jax is first imported.
"""

import atexit
import contextlib
import ctypes
import os
import shutil
import tempfile
from importlib import metadata

# Fixtures that several folders share; the others are in their conftest.py.
pytest_plugins = [
  # What others import comes first.
  'tests.fixtures.tiny_inference',
  'tests.fixtures.stubs',
  'tests.fixtures.runs',
  'tests.fixtures.evaluation_folders',
  'tests.fixtures.golden_models',
  'tests.fixtures.pickles',
  'tests.fixtures.plain_segmentation',
  'tests.fixtures.processes',
  'tests.fixtures.tiny',
  'tests.fixtures.torch_models',
]

os.environ.setdefault('JAX_NUM_CPU_DEVICES', '8')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Tests run little and compile much; so do the commands that they start. XLA's
# former generator of fused loops takes a third of the time of the present one.
quick = os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', 'true')
# A flag that XLA does not know ends the process.
version = tuple(map(int, metadata.version('jaxlib').split('.')[:2]))
if quick == 'true' and version < (0, 12):
  former = '--xla_cpu_use_fusion_emitters=false'
  os.environ.setdefault('XLA_FLAGS', former)
# Runs of one configuration compile the same programs: all tests of a session,
# and the commands that they start, share them. pytest-xdist's workers find the
# variables set.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  folder = tempfile.mkdtemp(prefix='groupvit_jax_tests_')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = folder
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

import jax  # noqa: E402
import pytest  # noqa: E402

from groupvit_jax import sharding  # noqa: E402

# Folders with the longest files. pytest-xdist starts these first, so that no
# process waits at the end for the other's last file.
LONG = 'training', 'project', 'faults', 'cli'


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.parent.name not in LONG)


@pytest.fixture(scope='module', autouse=True)
def free_compiled_programs():
  """Forgets a module's compiled programs: those of all fill the memory."""
  yield
  jax.clear_caches()
  # What compiling has freed glibc keeps: a gigabyte after a long module.
  with contextlib.suppress(OSError, AttributeError):  # of another C library
    ctypes.CDLL('libc.so.6').malloc_trim(0)


@pytest.fixture
def mesh1():
  """A mesh of one device."""
  return sharding.make_mesh(jax.devices()[:1])


@pytest.fixture
def mesh8():
  """A mesh of eight devices."""
  if jax.device_count() < 8:
    pytest.skip('needs 8 devices: JAX_NUM_CPU_DEVICES=8')
  return sharding.make_mesh(jax.devices()[:8])
