"""HTTP and the page, in a browser.

Needs the extra `demo`; the browser also `browser`, and chromium on the PATH.
"""

import base64
import contextlib
import io
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import numpy as np
import pytest
from PIL import Image

from groupvit_jax import cli, inference, scenes
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.serve import Limits, Service, app

pytest.importorskip('gradio', reason="needs the 'demo' extra")
uvicorn = pytest.importorskip('uvicorn')
testclient = pytest.importorskip('starlette.testclient')
ROOT = pathlib.Path(__file__).parents[2]
DROP = '[data-testid=image] .upload-container button'


@pytest.fixture(scope='module')
def service(tiny_inference):
  model = inference.Model(tiny_inference.source())
  return Service({'tiny': model, 'other': model}, Limits(megabytes=0.2))


def free_port():
  with socket.create_server(('127.0.0.1', 0)) as free:
    return free.getsockname()[1]


@contextlib.contextmanager
def serving(made):
  """The port of a server in a thread."""
  port = free_port()
  server = uvicorn.Server(uvicorn.Config(made, port=port, log_level='warning'))
  thread = threading.Thread(target=server.run, daemon=True)
  thread.start()
  while not server.started:
    time.sleep(0.05)
  yield port
  server.should_exit = True
  thread.join(30)


@pytest.fixture(scope='module')
def address(service, tmp_path_factory):
  """Of a server in a thread."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('GRADIO_TEMP_DIR', str(tmp_path_factory.mktemp('gradio')))
    with serving(app.make(service)) as port:
      yield f'http://127.0.0.1:{port}'


@pytest.fixture
def picture(tmp_path):
  """Function of a number: the file of a scene."""

  def save(index):
    path = tmp_path / f'{index}.png'
    Image.fromarray(scenes.generate(3, index, 64).image).save(path)
    return path

  return save


def test_the_endpoint(service, picture):
  client = testclient.TestClient(app.make(service))
  image = base64.b64encode(picture(0).read_bytes()).decode()
  found = client.post('/segment', json={'image': image, 'labels': ['a', 'b']})
  assert found.status_code == 200
  assert found.json()['names'] == ['a', 'b'] and found.json()['width'] == 64
  assert sum(c['area'] for c in found.json()['classes']) == 64 * 64
  for body, status in (
    ({}, 400),
    ({'image': '%', 'labels': ['a']}, 400),
    ({'image': image, 'labels': ['a'], 'more': 1}, 400),
    ({'image': 'A' * 300_000, 'labels': ['a']}, 413),
  ):
    answer = client.post('/segment', json=body)
    assert answer.status_code == status and answer.json()['error']
  event = {'data': [{'path': 'http://example.com/a.png'}], 'fn_index': 0}
  assert client.post('/gradio_api/queue/join', json=event).status_code == 400
  assert client.get('/health').json()['models'] == ['tiny', 'other']
  assert 'status="413"} 1' in client.get('/metrics').text


@pytest.mark.skipif(not shutil.which('curl'), reason='needs curl')
def test_the_commands_of_the_documentation(
  tiny_inference, picture, tmp_path, monkeypatch
):
  """The second asks what the first serves, which then leaves no files."""
  text = (ROOT / 'docs/serve.md').read_text().replace('\\\n', ' ')
  serve = re.search('^groupvit (serve .*)', text, re.MULTILINE)[1].split()
  ask = re.search(r'```sh\n(\(printf .*?)```', text, re.DOTALL)[1]
  monkeypatch.chdir(tmp_path)
  for name in serve[2:]:
    model_folder.write(name, tiny_inference.source())
  picture(0).rename('photo.jpg')
  (tmp_path / 'temporary').mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
  monkeypatch.setenv('GRADIO_TEMP_DIR', 'replaced')
  answers, run = [], uvicorn.Server.run

  def ask_and_stop(server):
    while not server.started:
      time.sleep(0.05)
    answers.extend((tmp_path / 'temporary').rglob('*.*'))  # drawn examples
    command = ask.replace('7860', str(port))
    answers.append(subprocess.check_output(command, shell=True))
    server.handle_exit(signal.SIGINT, None)  # as Ctrl-C

  def run_shortly(server, **options):
    threading.Thread(target=ask_and_stop, args=[server]).start()
    run(server, **options)

  monkeypatch.setattr(uvicorn.Server, 'run', run_shortly)
  port = free_port()
  handler = signal.getsignal(signal.SIGTERM)
  assert cli.main([*serve, '--port', str(port)]) == 0
  signal.signal(signal.SIGTERM, handler)
  *drawn, answer = answers
  assert drawn and json.loads(answer)['names'] == ['dog', 'sky']
  assert not list((tmp_path / 'temporary').iterdir())


def test_a_port_that_is_taken_is_one_line(capsys):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = str(taken.getsockname()[1])
    assert cli.main(['serve', '--model', 'no', '--port', port]) == 1
  assert f'127.0.0.1:{port}: Address already in use' in capsys.readouterr().err


@pytest.fixture(scope='module')
def browser():
  api = pytest.importorskip(
    'playwright.sync_api', reason="needs the 'browser' extra"
  )
  chromium = shutil.which('chromium') or shutil.which('google-chrome')
  if not chromium:
    pytest.skip('needs chromium on the PATH')
  with api.sync_playwright() as play:
    browser = play.chromium.launch(
      executable_path=chromium, args=['--no-sandbox']
    )
    yield browser
    browser.close()


@pytest.fixture
def visit(browser, address):
  """Function that opens the page as a new visitor; it loads nothing else."""
  contexts, elsewhere = [], []

  def note(request):
    if not request.url.startswith((address, 'data:', 'blob:')):
      elsewhere.append(request.url)

  def visit():
    contexts.append(
      browser.new_context(viewport={'width': 1200, 'height': 900})
    )
    page = contexts[-1].new_page()
    page.on('request', note)
    page.goto(address)
    page.wait_for_load_state('networkidle')
    return page

  yield visit
  for context in contexts:
    context.close()
  assert not elsewhere


def drop(page, path):
  """Drops a file with the mouse."""
  data = page.evaluate_handle(
    """([name, content]) => {
      const data = new DataTransfer();
      const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
      const type = name.endsWith('png') ? 'image/png' : 'text/plain';
      data.items.add(new File([bytes], name, {type}));
      return data;
    }""",
    [path.name, base64.b64encode(path.read_bytes()).decode()],
  )
  for event in ('dragenter', 'dragover', 'drop'):
    page.dispatch_event(DROP, event, {'dataTransfer': data})


def ask(page, words):
  """Types words; the legend as soon as it has some of them."""
  page.get_by_label('classes, between commas').fill(words)
  page.keyboard.press('Enter')
  return legend(page, *words.split(','))


def legend(page, *words):
  """Areas by class, as soon as one of the words is there."""
  page.wait_for_function(
    """words => {
      const table = document.querySelector('table');
      return table && words.some(word => table.innerText.includes(word));
    }""",
    arg=words,
    timeout=60_000,
  )
  lines = page.locator('table').first.inner_text().splitlines()
  return {row.split()[0]: row.split()[1] for row in lines[1:]}


def masks(page):
  """Where each class lies, by its name."""
  names = [x.strip() for x in page.locator('.legend-item').all_inner_texts()]
  found = {}
  for name, mask in zip(names, page.locator('img.mask').all(), strict=True):
    content = page.request.get(mask.get_attribute('src')).body()
    pixels = Image.open(io.BytesIO(content)).convert('RGBA')
    found[name] = np.asarray(pixels)[..., 3] > 0
  return found


def to_zero(page):
  """Moves the sliders: no background, and all classes may appear."""
  for slider in page.locator('input[type=range]').all():
    slider.focus()
    page.keyboard.press('Home')
    slider.dispatch_event('pointerup')
  page.wait_for_function(
    "!document.querySelector('table').innerText.includes('background')"
  )


def test_a_dropped_image_sliders_and_other_words(visit, picture, service):
  page, before = visit(), service.encoded
  drop(page, picture(1))
  assert legend(page, 'background') == {
    'background': '100%'
  }  # an untrained model
  to_zero(page)
  areas = ask(page, 'red,green,blue')
  # Gradio hides its spinner by a class that a browser counts as visible.
  page.wait_for_selector(
    '#classes [data-testid=status-tracker]:not(.hide)', state='detached'
  )
  first = masks(page)
  assert {name: f'{mask.mean():.0%}' for name, mask in first.items()} == areas
  # Pointing at a pixel lights up its class.
  name, mask = max(first.items(), key=lambda item: item[1].sum())
  box = page.locator('#classes .base-image').bounding_box()
  rows, columns = np.nonzero(mask)
  middle, scale = len(rows) // 2, box['width'] / mask.shape[1]
  page.mouse.move(
    box['x'] + scale * (columns[middle] + 0.5),
    box['y'] + scale * (rows[middle] + 0.5),
  )
  page.wait_for_selector(f'#classes [title={name}]')
  assert page.locator('img.mask.inactive').count() == len(first) - 1
  page.wait_for_function(
    """[...document.querySelectorAll('#classes img.mask')].every(mask =>
      mask.matches('.active') == (getComputedStyle(mask).opacity > 0.5))"""
  )
  assert set(ask(page, 'fire,snow')) <= {'fire', 'snow'}
  assert service.encoded == before + 1


def test_two_visitors_at_once_and_what_is_no_image(
  visit, picture, service, tmp_path
):
  before, pages = service.encoded, [visit(), visit()]
  for i, page in enumerate(pages):
    page.set_input_files('input[type=file]', picture(i + 2))
  for page in pages:
    legend(page, 'background')
    to_zero(page)
  fields = [page.get_by_label('classes, between commas') for page in pages]
  for field, words in zip(fields, ('red,green', 'blue,white'), strict=True):
    field.fill(words)
    field.press('Enter')
  assert set(legend(pages[0], 'red', 'green')) <= {'red', 'green'}
  assert set(legend(pages[1], 'blue', 'white')) <= {'blue', 'white'}
  fields[0].fill('a,a')
  fields[0].press('Enter')
  pages[0].wait_for_selector('text=stands twice', timeout=60_000)
  broken, page = tmp_path / 'broken.png', visit()
  broken.write_bytes(b'no image')
  drop(page, broken)
  page.wait_for_selector('[data-testid=toast-body]', timeout=60_000)
  assert service.encoded == before + 2
