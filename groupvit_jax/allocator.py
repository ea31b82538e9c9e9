"""Huge pages for the memory of a training step on a CPU.

XLA asks for a step's temporary memory anew at every step (186 MB in `:demo`),
the C library maps it from the kernel and unmaps it afterwards, and every page
of 4 kB is a fault: a third of the processors' time. In pages of 2 MB the same
step is 1.3 to 1.4 times as fast (2 cores; docs/research/emergence.md).
"""

import os
import sys

_VARIABLE = 'GLIBC_TUNABLES'
# "Memory allocation tunables" in the manual of glibc (2.35 or newer); 1 is to
# ask for transparent huge pages by madvise, which most kernels wait for.
_SETTING = 'glibc.malloc.hugetlb=1'


_STARTED = 'GROUPVIT_STARTED_ANEW'  # the process's number: at most once


def start_with_huge_pages(program: str) -> None:
  """Starts this process anew with huge pages, unless it has been told of them.

  glibc reads the setting only when a process starts. Call it before the imports
  that take time. `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` in the environment
  keeps small pages.

  Args:
    program: the word of the command line that names the program. Where it is
      missing, somebody else's process (a notebook, a script) runs the program,
      and where a debugger traces it, it is left as it is, too.
  """
  given = os.environ.get(_VARIABLE, '')
  if sys.platform != 'linux' or 'glibc.malloc.hugetlb=' in given:
    return
  if program not in sys.orig_argv or sys.gettrace():
    return
  if os.environ.get(_STARTED) == str(os.getpid()):
    return
  os.environ[_STARTED] = str(os.getpid())
  os.environ[_VARIABLE] = ':'.join(filter(None, [given, _SETTING]))
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
