#!/usr/bin/env bash
# One accelerator and 12 minutes: three questions, each answered as soon as it is known.
#
#   bash benchmarks/accelerator.sh             # on a GPU
#   PARTS=bc bash benchmarks/accelerator.sh    # some of them, where a command's time is limited
#   QUICK=1 bash benchmarks/accelerator.sh     # the same in small, on a CPU
#
# (a) How fast is the full-size training step, beside transformers' in PyTorch?
# (b) What does the default configuration in its tied form learn in 6 minutes?
# (c) What does :photos learn in 2 minutes? (PHOTOS: folder of flickr8k_128, voc2012)
#
# Needs no TensorFlow. What else the machine lacks (clu, ml_collections) may lie in
# DEPS: pip install --target DEPS --no-deps clu ml_collections ...
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
PARTS=${PARTS:-abc}
OUT=${OUT:-runs/accelerator}
PHOTOS=${PHOTOS:-../shared/data}
export PYTHONPATH="$PWD:${DEPS:-$PWD/.deps}${PYTHONPATH:+:$PYTHONPATH}"
if [ "${QUICK:-}" ]; then
  step='--batch 4 --steps 1 --turns 1 --no-compile'
  tied='batch=4,size=64,dtype=float32,eval.examples=4,eval.batch_size=2'
  tied+=',data.train_examples=64'
  photos='batch=8' seconds_b=20 seconds_c=20 probe=3 judged=4
else
  step='--batch 256 --steps 20 --turns 2'
  # Without TFDS scenes are drawn anew by each command: 15 CPU ms each.
  tied='batch=512,data.train_examples=20000,run.eval_every=100000'
  photos='batch=256,optimizer.reference_batch_size=256' seconds_b=330 seconds_c=100
  probe=40 judged=100
fi
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }

# Whether a part is wanted; says that it begins.
part() { # LETTER TITLE
  [[ $PARTS == *$1* ]] && say "($1) $2"
}

# The steps that fit into some seconds: by the speed of a short run.
steps() { # CONFIG SECONDS NAME
  "$PYTHON" -m groupvit_jax.main --workdir="$OUT/$3-probe" \
    --config="configs/gvit_s.py:$1,steps=$probe" >"$OUT/$3-probe.log" 2>&1 &&
    "$PYTHON" - "$OUT/$3-probe/summary.json" "$2" <<'PY'
import json, sys
run = json.load(open(sys.argv[1]))
rate = run['images_per_second'] / run['batch_size']
print(max(int(rate * float(sys.argv[2])), 3))
PY
}

if part a "the full-size step"; then
  "$PYTHON" -c 'import torch, transformers' 2>"$OUT/step.log" || step+=' --no-peer'
  # Both sides live in one process: jax may not take all memory at its start.
  # shellcheck disable=SC2086
  XLA_PYTHON_CLIENT_PREALLOCATE=false \
    "$PYTHON" benchmarks/train.py $step 2>>"$OUT/step.log" | grep '|' ||
    say "failed: $OUT/step.log"
fi

if part b "tied, 224 px"; then
  if number=$(steps "tied,$tied,data.train_examples=2048" "$seconds_b" tied) &&
    "$PYTHON" -m groupvit_jax.main --workdir="$OUT/tied" \
      --config="configs/gvit_s.py:tied,$tied,steps=$number" >"$OUT/tied.log" 2>&1; then
    grep -E 'miou|oracle' "$OUT/tied.log" | tail -n 4
  else
    say "failed: $OUT/tied-probe.log, $OUT/tied.log"
  fi
fi

if part c "photos"; then
  prepare="import pathlib, sys; sys.path.insert(0, 'benchmarks'); import photos
photos.prepare(pathlib.Path('$PHOTOS') / photos.SET, pathlib.Path('$OUT/photos/photos'), None)"
  data="data.shards=$OUT/photos/photos.tar,data.tokenizer=$OUT/photos/photos.model"
  "$PYTHON" -c "$prepare" 2>"$OUT/photos.log" &&
    number=$(steps "photos,$photos,$data" "$seconds_c" photos) &&
    "$PYTHON" benchmarks/photos.py --photos "$PHOTOS" --seeds 0 --steps "$number" \
      --judged "$judged" --options "$photos" --workdir "$OUT/photos" 2>>"$OUT/photos.log" |
    tail -n +3 || say "failed: $OUT/photos-probe.log, $OUT/photos.log"
fi
say "done"
