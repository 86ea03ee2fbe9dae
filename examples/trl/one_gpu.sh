#!/usr/bin/env bash
# One GPU, vLLM in the same process. Not run by us: no GPU was at hand.
#   examples/trl/one_gpu.sh MODEL prompts.jsonl FILE.py:REWARD [MORE OPTIONS ...]
# bf16 rounds the gradient by some percent and clipping rescales it: both are accepted here.
set -euo pipefail
model=$1 prompts=$2 reward=$3
shift 3
python examples/trl/train.py --model "$model" --prompts "$prompts" --rewards "$reward" \
    --output_dir runs/trl --divergence jensen_shannon --beta 0.1 \
    --use_vllm true --vllm_mode colocate --vllm_gpu_memory_utilization 0.3 \
    --bf16 true --max_grad_norm 1.0 --accept bf16 max_grad_norm \
    --per_device_train_batch_size 8 --gradient_accumulation_steps 8 --num_generations 8 \
    --max_completion_length 512 --learning_rate 1e-6 --save_steps 100 "$@"
