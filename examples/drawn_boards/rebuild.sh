#!/bin/sh
# Rebuilds the demo's bundle from nothing: draws boards, trains on them, exports. Needs heatline[export].
# About an hour on two cores. Usage: rebuild.sh [FOLDER FOR BOARDS AND RUN] [NEW BUNDLE]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-runs/drawn-boards}
bundle=${2:-$work/bundle}

heatline data draw-boards "$work/boards" --count 300 --seed 1
if [ ! -e "$work/run/config.yaml" ]; then
    heatline train data="$work/boards" recipe=finetune model=efficientnet_lite0_d out="$work/run" seed=1 \
        recipe.steps=1800 recipe.validate_every=450 "split.fractions=[0.7,0.3,0.0]"
else
    heatline train out="$work/run" resume=true
fi
heatline export "$work/run" --to "$bundle" --name drawn-boards --false-reject 0.06
echo "to ship it: rm -r $here/bundle && cp -r $bundle $here/bundle"
