#!/usr/bin/env bash
# What `make demo` runs after the set-up: train, make masks, predict, evaluate, report. Usage: demo.sh PYTHON FOLDER
set -euo pipefail
python=$1
demo=$2
here=$(dirname "$0")
run=$demo/experiments/lama-tiny
model=$demo/lama-tiny

say() { printf '\n== %s\n' "$*"; }

say "train lama-tiny on a few photographs"
rm -rf "$run" "$model" "$demo/eval" "$demo/predicted" "$demo/tb_logs"
"$python" "$here/train.py" -cn lama-tiny \
    location.data_root_dir="$demo/data" location.out_root_dir="$demo/experiments" location.tb_dir="$demo/tb_logs" \
    hydra.run.dir="$run"

say "average the last epochs, keep the generator alone"
"$python" "$here/make_checkpoint.py" "$run" "$model" --epochs 3,4,5

pairs=()
for size in 256 512; do
    say "fill wide holes of photographs it has never seen, $size pixels"
    eval=$demo/eval/random_thick_$size
    predicted=$demo/predicted/random_thick_$size
    "$python" "$here/gen_mask_dataset.py" "$here/../configs/data_gen/random_thick_$size.yaml" \
        "$demo/data/photos" "$eval" --ext png
    "$python" "$here/predict.py" model.path="$model" indir="$eval" outdir="$predicted"
    "$python" "$here/evaluate_predicts.py" "$here/../configs/eval2_ssim.yaml" "$eval" "$predicted" \
        "$demo/metrics_$size.csv"
    pairs+=("$eval" "$predicted")
done

say "result"
"$python" "$here/demo_report.py" "$demo/result" "${pairs[@]}"
