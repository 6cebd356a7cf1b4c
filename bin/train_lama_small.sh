#!/usr/bin/env bash
# Train lama-small, phase after phase; given again, it goes on exactly where it was stopped.
# Usage: [PYTHON=.venv/bin/python] train_lama_small.sh DATA STATE [OVERRIDE…]
#   DATA: folder of bin/prepare_lama_small.py: train/ with tiles, val/ with photographs.
#   STATE: folder for what the training makes: val/ (masks), a folder for each phase, logs/.
#   OVERRIDE: settings for all phases, as bin/train.py takes them.
# SIGTERM to its process group saves and ends it; docs/lama-small-training.md has more.
set -euo pipefail
if (($# < 2)); then
    sed -n '2,7s/^# //p' "$0" >&2
    exit 2
fi
data=$(realpath "$1")
state=$(realpath -m "$2")
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
# Threads that spin while they wait take the processor from the others that run beside this.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-0}

mkdir -p "$state"
"$python" "$here/bin/gen_mask_dataset.py" "$here/configs/data_gen/random_thick_256.yaml" "$data/val" "$state/val" --ext auto

previous=null
for phase in lama-small lama-small-large lama-small-texture; do
    printf '\n== %s\n' "$phase"
    "$python" "$here/bin/train.py" -cn "$phase" \
        location.data_root_dir="$data" data.val.indir="$state/val" location.tb_dir="$state/logs" \
        hydra.run.dir="$state/$phase" trainer.finetune_from="$previous" "$@"
    previous=$state/$phase/models/last.ckpt
done
