"""HTTP and the page, in a browser; needs the extra `demo`.

The browser: `pip install playwright`, and chromium on the PATH.
"""

import base64
import shutil
import socket
import threading
import time

import pytest

from groupvit_jax import inference, scenes
from groupvit_jax.serve import Limits, Service, app

pytest.importorskip('gradio', reason="needs the 'demo' extra")
uvicorn = pytest.importorskip('uvicorn')
testclient = pytest.importorskip('starlette.testclient')
pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def service(tiny_inference):
  model = inference.Model(tiny_inference.source())
  return Service({'tiny': model, 'other': model}, Limits(megabytes=0.2))


@pytest.fixture(scope='module')
def address(service):
  """Of a server in a thread."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  config = uvicorn.Config(app.make(service), port=port, log_level='warning')
  server = uvicorn.Server(config)
  thread = threading.Thread(target=server.run, daemon=True)
  thread.start()
  while not server.started:
    time.sleep(0.05)
  yield f'http://127.0.0.1:{port}'
  server.should_exit = True
  thread.join(30)


@pytest.fixture
def picture(tmp_path):
  """Function of a number: the file of a scene."""
  from PIL import Image

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


def test_two_people_in_a_browser(address, picture, service):
  api = pytest.importorskip('playwright.sync_api')
  chromium = shutil.which('chromium') or shutil.which('google-chrome')
  if not chromium:
    pytest.skip('needs chromium')
  before, elsewhere = service.encoded, []

  def note(request):
    if not request.url.startswith((address, 'data:', 'blob:')):
      elsewhere.append(request.url)

  def ask(page, words):
    page.get_by_label('classes, between commas').fill(words)
    page.keyboard.press('Enter')

  def table(page, word):
    page.wait_for_selector(f'table >> text={word}', timeout=60_000)
    return page.locator('table').first.inner_text()

  with api.sync_playwright() as play:
    browser = play.chromium.launch(
      executable_path=chromium, args=['--no-sandbox']
    )
    pages = [browser.new_context().new_page() for _ in range(2)]
    for i, page in enumerate(pages):
      page.on('request', note)
      page.goto(address)
      page.wait_for_load_state('networkidle')
      page.set_input_files('input[type=file]', picture(i + 1))
      page.wait_for_selector('table >> text=score', timeout=60_000)
    ask(pages[0], 'red,grass')
    ask(pages[1], 'blue,sand')
    assert 'sand' not in table(pages[0], 'grass')
    assert 'grass' not in table(pages[1], 'sand')
    ask(pages[0], 'a,a')
    pages[0].wait_for_selector('text=stands twice', timeout=60_000)
    browser.close()
  assert not elsewhere
  assert service.encoded == before + 2
