#!/bin/sh
# Train on all GPUs of one machine: sh examples/cluster/torchrun.sh image.2b runs/2b --set dataset.folder=DIR ...
# If a process dies, torchrun starts all of them again, and they continue from the latest complete checkpoint.
set -eu
recipe=$1 out=$2
shift 2
exec torchrun --standalone --nproc-per-node gpu --max-restarts 3 \
    -m lumina_core train "$recipe" --out "$out" --auto-resume --quiet --set training.parallel=fsdp "$@"
