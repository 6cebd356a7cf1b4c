#!/usr/bin/env bash
# What `make demo` runs after the set-up: fill, compare, fine-tune and resume. Usage: demo.sh PYTHON FOLDER
set -euo pipefail
python=$1
demo=$2
here=$(dirname "$0")
run=$demo/experiments/fine-tuned

say() { printf '\n== %s\n' "$*"; }

rm -rf "$demo/experiments" "$demo/eval" "$demo/predicted" "$demo/tb_logs"
sets=()
for set in random_medium_256 random_thick_512; do
    say "$set: fill photographs that lama-small was not trained on"
    "$python" "$here/gen_mask_dataset.py" "$here/../configs/data_gen/$set.yaml" "$demo/data/photos" "$demo/eval/$set" \
        --ext png
    "$python" "$here/predict.py" indir="$demo/eval/$set" outdir="$demo/predicted/$set"
    sets+=("$set=$demo/eval/$set:$demo/predicted/$set")
done

say "large: one of them, enlarged to 2048 pixels and refined"
"$python" "$here/predict.py" indir="$demo/data/large" outdir="$demo/predicted/large" refine=true refiner.n_iters=3 \
    refiner.lr=0.0005
sets+=("enlarged, refined=$demo/data/large:$demo/predicted/large")

say "beside OpenCV's two methods and the mean colour"
"$python" "$here/demo_report.py" "$demo/result" "${sets[@]}"

# Stopped half-way, so that the second start has something to resume.
for steps in 15 30; do
    say "fine-tune lama-small on two photographs of gravel and bricks, up to step $steps"
    "$python" "$here/train.py" -cn lama-small location=sample location.data_root_dir="$demo/data" \
        location.out_root_dir="$demo/experiments" location.tb_dir="$demo/tb_logs" hydra.run.dir="$run" \
        trainer.finetune_from=lama-small trainer.kwargs.max_steps=$steps trainer.kwargs.limit_train_batches=15 \
        trainer.kwargs.log_every_n_steps=1 losses.perceptual.weight=0 data.batch_size=4 data.total_batch_size=null \
        optimizers.generator.lr=0.0002 optimizers.generator.scheduler=null
done
"$python" "$here/report_from_tb.py" "$run" --tags train_gen_l1 val_l1_hole_total_mean val_ssim_total_mean \
    --plot "$demo/training.png"

cat <<END

picture: $demo/result.png    table: $demo/result.md    training: $demo/training.png

Try next:
  bin/predict.py indir=YOUR_IMAGES outdir=RESULTS              # NAME.png with NAME_mask000.png beside it
  bin/predict.py model.path=big-lama indir=… outdir=…          # the paper's largest network: 381 MB, fetched once
  bin/demo.py                                                  # a web page to draw holes: pip install '.[page]'
  bin/train.py -cn lama-small trainer.finetune_from=lama-small location=…    # on images of your own: docs/train.md
END
