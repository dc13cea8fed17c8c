"""Predicts pictures. Without --config: the demo's model, on the generated city's test scenes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddleseg_ext import threads
from paddleseg_ext.config import (
    Parser,
    add_config_arguments,
    add_flag_arguments,
    add_weights_arguments,
    import_components,
    load_from_arguments,
    run_main,
    validate,
)
from paddleseg_ext.errors import DataError, WeightError

FLAGS = "--aug_eval --scales --flip_horizontal --flip_vertical --is_slide --crop_size --stride".split()


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    add_weights_arguments(parser)
    parser.add_argument("--image_path", metavar="PATH", help="a picture, a folder, or a text file with a path per line")
    parser.add_argument("--save_dir", default="output/result", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--custom_color", nargs="+", type=int, metavar="N", help="red green blue of class 0, 1, ...")
    parser.add_argument("--opacity", type=float, default=0.5, metavar="X", help="of the overlay; default: %(default)s")
    parser.add_argument("--names", action="store_true", help="write the names of objects on them (task: panoptic)")
    add_flag_arguments(parser, FLAGS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Predicts and saves; returns the exit code."""
    args = make_parser().parse_args(argv)
    threads.configure(args.num_threads)
    import_components()
    from paddleseg_ext.engine import demo
    from paddleseg_ext.engine.predict import find_images, predict_files
    from paddleseg_ext.predictor import Predictor

    if args.config is None:
        print(f"no --config: using {demo.CONFIG}, on the generated city in {demo.ROOT}")
    config = load_from_arguments(args, default=demo.CONFIG)
    validate(config, "predict")
    if args.config is None:
        args.model_path = args.model_path or demo.default_weights()
        if args.image_path is None:
            demo.make_city_if_needed(config, print)
            args.image_path = f"{demo.ROOT}/leftImg8bit/test"
    if args.model_path is None:
        raise WeightError("--model_path: missing; expected trained weights, such as output/best_model; add it")
    if args.image_path is None:
        raise DataError("--image_path: missing; expected a picture, a folder, or a list of pictures; add it")
    images = find_images(args.image_path)
    predictor = Predictor.from_config(
        config, args.model_path, device=args.device, num_threads=args.num_threads, allow=args.allow
    )
    style = {"custom_color": args.custom_color, "opacity": args.opacity, "names": args.names}
    count = predict_files(predictor, images, args.save_dir, **style)
    print(f"{count} picture{'s' if count != 1 else ''} predicted; results in {args.save_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
