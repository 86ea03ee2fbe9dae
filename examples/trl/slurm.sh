#!/usr/bin/env bash
# Several machines of eight GPUs under Slurm: the last one serves vLLM, the others train.
# Not run by us: no cluster was at hand.
#   sbatch --nodes 3 examples/trl/slurm.sh MODEL prompts.jsonl FILE.py:REWARD
#SBATCH --job-name=f-dpg
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
set -euo pipefail
model=$1 prompts=$2 reward=$3
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
training=("${nodes[@]:0:${#nodes[@]}-1}")
server=${nodes[-1]}
srun --nodes 1 --ntasks 1 --nodelist "$server" \
    trl vllm-serve --model "$model" --tensor_parallel_size 8 &

# $SLURM_PROCID is the rank of the machine, and is read there.
machines=${#training[@]}
launch="accelerate launch --config_file examples/trl/zero2.yaml --num_machines $machines \
    --num_processes $((8 * machines)) --machine_rank \$SLURM_PROCID \
    --main_process_ip ${training[0]} --main_process_port 29500"
srun --nodes "$machines" --ntasks "$machines" --nodelist "$(IFS=,; echo "${training[*]}")" \
    bash -c "$launch examples/trl/train.py --model '$model' --prompts '$prompts' \
        --rewards '$reward' --output_dir runs/trl --divergence jensen_shannon --beta 0.1 \
        --use_vllm true --vllm_mode server --vllm_server_host $server \
        --bf16 true --max_grad_norm 1.0 --accept bf16 max_grad_norm \
        --per_device_train_batch_size 4 --gradient_accumulation_steps 8 --num_generations 8 \
        --max_completion_length 512 --learning_rate 1e-6 --save_steps 100"
