"""Published models: list them, fetch and verify them, say where their files lie.

Examples: bin/models.py; bin/models.py big-lama; bin/models.py big-lama --verify
"""

from __future__ import annotations

import argparse

from saicinpainting.cli import command


@command
def main() -> None:
    args = parse_arguments()
    from saicinpainting.networks.models import fetch_model, find_model, published_models, table_of_models, verify_model

    if args.markdown:
        print(table_of_models(), end="")
        return
    for name in args.name:
        model = find_model(name)
        folder = fetch_model(model)
        if args.verify:
            verify_model(model, again=True)
        print(f"{name}: {folder}{' (verified)' if args.verify else ''}")
    if not args.name:
        for model in published_models().values():
            place = "not fetched" if model.missing() else model.folder
            print(f"{model.name:22} {model.bytes / 1e6:4.0f} MB  {place}")
            print(f"{'':22} {model.what}\n{'':22} licence: {model.licence}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help="a model to fetch; without one, all are listed")
    parser.add_argument("--verify", action="store_true", help="compare the files with their checksums again")
    parser.add_argument("--markdown", action="store_true", help="print the table of the documents")
    return parser.parse_args()


if __name__ == "__main__":
    main()
