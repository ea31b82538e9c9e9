"""Hooks of the documentation site: pages from outside of `docs/`, and links.

The pages are read on disk as well, where a link may lead to any file of the
repository. On the site such a link leads to the file's page, if it has one;
otherwise only its text stays.
"""

import pathlib
import posixpath
import re

from mkdocs.structure import files as mkdocs_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Pages by their place in the repository.
OUTSIDE = {
  'CHANGELOG.md': 'CHANGELOG.md',
  'CONTRIBUTING.md': 'CONTRIBUTING.md',
  'README.md': 'index.md',
  'benchmarks/RESULTS.md': 'RESULTS.md',
}
_LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)')


def on_files(files, config):
  """Adds the pages that lie outside of `docs/`."""
  for source, target in OUTSIDE.items():
    if target != 'index.md':
      path = str(ROOT / source)
      page = mkdocs_files.File.generated(config, target, abs_src_path=path)
      files.append(page)
  return files


def on_page_markdown(markdown, page, config, files):
  """Rewrites the links that leave `docs/`."""
  own = page.file.src_uri
  # README.md has no page of its own: the site's first page stands for it.
  pages = {v: k for k, v in OUTSIDE.items() if v != 'index.md'}
  source = pages.get(own, f'docs/{own}')

  def rewritten(match):
    image, text, link, anchor = match.groups()
    if '://' in link or image:
      return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    inside = path.startswith('docs/') and path.endswith('.md')
    target = path.removeprefix('docs/') if inside else OUTSIDE.get(path)
    if target is None:
      return text
    relative = posixpath.relpath(target, posixpath.dirname(own) or '.')
    return f'[{text}]({relative}{anchor or ""})'

  return _LINK.sub(rewritten, markdown)
