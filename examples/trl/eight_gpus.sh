#!/usr/bin/env bash
# Eight GPUs: a vLLM server on two, training on six. Not run by us: no GPU was at hand.
#   examples/trl/eight_gpus.sh MODEL prompts.jsonl FILE.py:REWARD [zero2|fsdp2] [MORE OPTIONS ...]
set -euo pipefail
model=$1 prompts=$2 reward=$3 sharding=${4:-zero2}
shift $(($# < 4 ? 3 : 4))
CUDA_VISIBLE_DEVICES=6,7 trl vllm-serve --model "$model" --tensor_parallel_size 2 &
server=$!
trap 'kill $server' EXIT

# 6 processes x 4 completions x 8 steps are 24 prompts of 8 completions.
CUDA_VISIBLE_DEVICES=0,1,2,3,4,5 accelerate launch --config_file "examples/trl/$sharding.yaml" \
    examples/trl/train.py --model "$model" --prompts "$prompts" --rewards "$reward" \
    --output_dir runs/trl --divergence jensen_shannon --beta 0.1 \
    --use_vllm true --vllm_mode server --bf16 true --max_grad_norm 1.0 --accept bf16 max_grad_norm \
    --per_device_train_batch_size 4 --gradient_accumulation_steps 8 --num_generations 8 \
    --max_completion_length 512 --learning_rate 1e-6 --save_steps 100 "$@"
