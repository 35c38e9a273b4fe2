#!/bin/sh
# Rebuilds the demo's bundle from nothing: draws boards, trains on them, exports, and calibrates the thresholds on flawless boards
# that were not used for training. Needs heatline[export]. Usage: rebuild.sh [FOLDER FOR BOARDS AND RUN] [NEW BUNDLE]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-runs/drawn-boards}
bundle=${2:-$work/bundle}

[ -e "$work/boards" ] || python "$here/draw.py" "$work/boards" --count 80 --seed 1 --defects 24
[ -e "$work/good" ] || python "$here/draw.py" "$work/good" --count 60 --seed 3 --defects 0
if [ ! -e "$work/run/config.yaml" ]; then
    heatline train data="$work/boards" truth=masks out="$work/run" seed=1 recipe.folds=1 model.width=64 \
        recipe.steps=250 recipe.finetune_steps=400 recipe.copies.most=0 \
        recipe.located=12 recipe.good=14 recipe.synthetic=2
else
    heatline train out="$work/run" resume=true
fi
[ -e "$work/exported" ] || heatline export "$work/run" --to "$work/exported" --name drawn-boards
heatline calibrate "$work/exported" "$work/good/images" --to "$bundle" --version 2
echo "to ship this bundle: rm -r $here/bundle && cp -r $bundle $here/bundle"
