"""Measure SSIM, LPIPS, FID and more of predictions: evaluate_predicts.py CONFIG DATADIR PREDICTDIR OUT.csv"""

from __future__ import annotations

import argparse
import logging

from saicinpainting.cli import command


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.evaluation.predictions import evaluate_predictions, metric_switches, read_evaluation_config
    from saicinpainting.metrics.evaluator import number_text, results_table, write_results_csv

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    overrides = {"device": args.device, "batch_size": args.batch_size}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if args.metrics is not None:
        overrides |= metric_switches(args.metrics)
    config = read_evaluation_config(args.config)
    results = evaluate_predictions(config, args.datadir, args.predictdir, **overrides)
    print(results_table(results).to_string(float_format=number_text, na_rep=""))
    write_results_csv(results, args.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure predictions against their images.")
    parser.add_argument("config", help="evaluation config, e.g. configs/eval2_gpu.yaml")
    parser.add_argument("datadir", help="folder of images and masks")
    parser.add_argument("predictdir", help="folder of predictions, which carry the masks' names")
    parser.add_argument("out", help="table to write, tab-separated")
    parser.add_argument(
        "--metrics", help="some of ssim,lpips,fid,kid,ids,psnr,l1,segm, with commas; default: as in the config"
    )
    parser.add_argument("--device", help="auto, cpu, cuda, ...; default: as in the config")
    parser.add_argument("--batch-size", type=int, help="images a step; default: as in the config")
    return parser.parse_args()


if __name__ == "__main__":
    main()
