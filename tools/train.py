"""Trains a model. Without --config: STDC1 on a small generated city, about ten minutes on two cores."""

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
    apply_flag,
    import_components,
    load_from_arguments,
    run_main,
    validate,
)

FLAGS = (
    "--iters --batch_size --learning_rate --save_interval --log_iters --keep_checkpoint_max --early_stop_intervals "
    "--seed --num_workers --precision --amp_level"
).split()


def parse(argv: Sequence[str] | None) -> tuple[Parser, object]:
    """The command line."""
    parser = Parser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--save_dir", metavar="DIR", help="checkpoints and logs; default: output, or output/demo")
    parser.add_argument("--do_eval", action="store_true", help="evaluate at each checkpoint and keep the best")
    parser.add_argument("--use_vdl", action="store_true", help="also write VisualDL records")
    parser.add_argument("--use_ema", action="store_true", help="also average the weights, and evaluate the average")
    parser.add_argument("--device", metavar="NAME", help="cpu, gpu ...; default: a GPU if there is one")
    parser.add_argument("--resume", "--resume_model", metavar="auto|DIR", help="go on with a run, at a checkpoint")
    parser.add_argument("--resume-anyway", action="store_true", help="even if the configuration has changed")
    parser.add_argument("--pretrained", metavar="PATH", help="start a new run from these weights")
    parser.add_argument("--allow", nargs="+", default=[], metavar="REGEX", help="names that --pretrained may lack")
    parser.add_argument("--scale-schedule-to-batch", action="store_true", help="adapt learning rate and iterations")
    add_flag_arguments(parser, FLAGS)
    return parser, parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains; returns the exit code."""
    _, args = parse(argv)
    threads.configure(args.num_threads)
    import_components()
    from paddleseg_ext.engine import demo
    from paddleseg_ext.engine.train import TrainOptions, train

    if args.config is None:
        print(f"no --config: using {demo.CONFIG}, on the generated city in {demo.ROOT}")
    config = load_from_arguments(args, default=demo.CONFIG)
    if args.use_ema and config.get("runtime.ema") is None:
        config = apply_flag(config, "runtime.ema", {}, "--use_ema")
    validate(config, "train", do_eval=args.do_eval)
    options = TrainOptions(
        save_dir=args.save_dir or ("output" if args.config else demo.SAVE_DIR),
        do_eval=args.do_eval,
        use_vdl=args.use_vdl,
        device=args.device,
        resume=args.resume,
        resume_anyway=args.resume_anyway,
        pretrained=args.pretrained,
        allow=tuple(args.allow),
        scale_schedule=args.scale_schedule_to_batch,
    )
    return train(config, options).exit_code


if __name__ == "__main__":
    sys.exit(run_main(main))
