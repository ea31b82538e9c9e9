"""The page of `groupvit serve` with a scene: serve.png and serve_words.png.

  python benchmarks/page.py runs/demo --out docs/images

In the first the mouse points at a class; the second has other words, some of
which the model never met, and a background. Needs the extras `demo` and
`browser`, and chromium on the PATH.
"""

import argparse
import pathlib
import shutil
import socket
import threading
import time

import numpy as np
import uvicorn
from PIL import Image
from playwright import sync_api

from groupvit_jax import inference, scenes
from groupvit_jax.serve import Service, app

SCENE, SIDE = 7, 256  # of the test split; pixels
WORDS, POINTED = 'starfish,fish,flower,sand', 'fish'
OTHER, UNMET = 'animal,plant,flower,leaf', 'animal'
COLOURS = 192  # of the PNG


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model', help='trained on scenes')
  parser.add_argument(
    '--out', type=pathlib.Path, required=True, help='a folder'
  )
  args = parser.parse_args()
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  made = app.make(Service({'runs/demo': inference.load(args.model)}))
  server = uvicorn.Server(uvicorn.Config(made, port=port, log_level='warning'))
  thread = threading.Thread(target=server.run, daemon=True)
  thread.start()
  while not server.started:
    time.sleep(0.05)
  with sync_api.sync_playwright() as play:
    browser = play.chromium.launch(
      executable_path=shutil.which('chromium'), args=['--no-sandbox']
    )
    page = browser.new_page(viewport={'width': 1200, 'height': 1000})
    page.goto(f'http://127.0.0.1:{port}')
    show(page, args.out / 'scene.png')
    keep(page, args.out / 'serve.png')
    ask_again(page)
    keep(page, args.out / 'serve_words.png')
    browser.close()
  server.should_exit = True
  thread.join(20)


def keep(page: sync_api.Page, path: pathlib.Path) -> None:
  """Saves what is to be seen, with few colours."""
  page.screenshot(path=path, full_page=True)
  picture = Image.open(path).convert('RGB')
  picture.quantize(COLOURS).save(path, optimize=True)


def show(page: sync_api.Page, scratch: pathlib.Path) -> None:
  """Asks for the words without a background, and points at one of them."""
  page.wait_for_load_state('networkidle')
  scene = scenes.generate(scenes.split_seed('test', 0), SCENE, SIDE)
  Image.fromarray(scene.image).save(scratch)
  page.set_input_files('input[type=file]', scratch)
  page.wait_for_selector('table >> text=background', timeout=120_000)
  scratch.unlink()
  move_threshold(page, 'Home')
  ask(page, WORDS, f'table >> text={POINTED}')
  rows, columns = np.nonzero(scene.mask == scenes.CLASS_NAMES.index(POINTED))
  box = page.locator('#classes .base-image').bounding_box()
  middle = len(rows) // 2
  x = box['x'] + box['width'] * (columns[middle] + 0.5) / SIDE
  y = box['y'] + box['height'] * (rows[middle] + 0.5) / SIDE
  while not page.locator(f'#classes [title={POINTED}]').count():
    page.mouse.move(x + 1, y)  # what is still loading tells nothing
    page.mouse.move(x, y)
    page.wait_for_timeout(500)


def ask_again(page: sync_api.Page) -> None:
  """Other words, and a background."""
  page.mouse.move(0, 0)
  move_threshold(page, 'End', 'ArrowLeft', 'ArrowLeft')
  ask(page, OTHER, f'text=Never met in training: {UNMET}')


def move_threshold(page: sync_api.Page, *keys: str) -> None:
  """Moves the first slider."""
  threshold = page.locator('input[type=range]').first
  threshold.focus()
  for key in keys:
    page.keyboard.press(key)
  threshold.dispatch_event('pointerup')


def ask(page: sync_api.Page, words: str, shown: str) -> None:
  """Types words, and waits for what is shown then."""
  page.get_by_label('classes, between commas').fill(words)
  page.keyboard.press('Enter')
  page.wait_for_selector(shown)
  page.wait_for_timeout(2000)  # pictures


if __name__ == '__main__':
  main()
