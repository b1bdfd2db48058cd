#!/usr/bin/env bash
# The main job on the built-in data: Ray Data prepares, two Ray Train workers fine-tune, MLflow registers,
# and an ONNX file comes out verified. Fails unless the model is ten points above calling everything the commoner label.
# Everything lands in demo_output/.
set -eu -o pipefail
rm -rf demo_output
mkdir demo_output
cd demo_output
run() { echo; echo "\$ secauditai $*"; secauditai "$@"; }

run train prepare --dataset security_dataset --output training_data --ray-data-min-mb 0
run train validate --dataset training_data
run train split --dataset training_data --train 0.8 --val 0.1 --test 0.1
run train finetune --model transformer --data training_data --name demo_model \
    --epochs 8 --max-length 256 --num-workers 2
floor=$(secauditai train evaluate --model demo_model --test-data training_data --metrics accuracy --json |
    python -c 'import json, sys; print(json.load(sys.stdin)["baselines"]["majority"]["accuracy"] + 0.1)')
run train evaluate --model demo_model --test-data training_data --min "accuracy=$floor"
run train report --model demo_model --output evaluation_report.html
run train export --model demo_model --format onnx --output demo_model.onnx
run train verify --model demo_model.onnx
echo
echo "Report: $PWD/evaluation_report.html"
echo "Model:  $PWD/demo_model.onnx (verified)"
echo "Took $SECONDS seconds"
