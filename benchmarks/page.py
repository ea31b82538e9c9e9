"""The page of `groupvit serve` with a scene, as one PNG.

  python benchmarks/page.py runs/demo --out docs/images/serve.png

The mouse points at a class. Needs the extras `demo` and `browser`, and
chromium on the PATH.
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
COLOURS = 192  # of the PNG


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model', help='trained on scenes')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='a PNG')
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
    page = browser.new_page(viewport={'width': 1200, 'height': 1150})
    page.goto(f'http://127.0.0.1:{port}')
    show(page, args.out.with_suffix('.scene.png'))
    page.screenshot(path=args.out)
    browser.close()
  server.should_exit = True
  thread.join(20)
  picture = Image.open(args.out).convert('RGB')
  picture.quantize(COLOURS).save(args.out, optimize=True)


def show(page: sync_api.Page, scratch: pathlib.Path) -> None:
  """Asks for the words without a background, and points at one of them."""
  page.wait_for_load_state('networkidle')
  scene = scenes.generate(scenes.split_seed('test', 0), SCENE, SIDE)
  Image.fromarray(scene.image).save(scratch)
  page.set_input_files('input[type=file]', scratch)
  page.wait_for_selector('table >> text=background', timeout=120_000)
  scratch.unlink()
  threshold = page.locator('input[type=range]').first
  threshold.focus()
  page.keyboard.press('Home')
  threshold.dispatch_event('pointerup')
  page.get_by_label('classes, between commas').fill(WORDS)
  page.keyboard.press('Enter')
  page.wait_for_selector(f'table >> text={POINTED}')
  page.wait_for_timeout(2000)  # pictures
  rows, columns = np.nonzero(scene.mask == scenes.CLASS_NAMES.index(POINTED))
  box = page.locator('#classes .base-image').bounding_box()
  middle = len(rows) // 2
  page.mouse.move(
    box['x'] + box['width'] * (columns[middle] + 0.5) / SIDE,
    box['y'] + box['height'] * (rows[middle] + 0.5) / SIDE,
  )
  page.wait_for_selector(f'#classes [title={POINTED}]')
  page.wait_for_timeout(500)


if __name__ == '__main__':
  main()
