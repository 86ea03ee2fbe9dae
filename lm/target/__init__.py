"""What the policy shall become: targets, Z, prompts, and the problem that holds them."""
