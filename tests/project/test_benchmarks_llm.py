"""The step written by hand beside a pretrained model, at a tiny size."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lm_models import make_llama_folder
from transformers import AutoModelForCausalLM

from benchmarks import llm_floor, llm_speed
from benchmarks._laps import Laps
from lm.policy import load_policy
from lm.policy.prompts import Prompts


def test_the_loop_knows_neither_lm_nor_the_core() -> None:
    source = Path(llm_floor.__file__).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 120
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [*[alias.name for alias in node.names], getattr(node, "module", None) or ""]
    }
    assert not imported & {"lm", "fdpg_ref", "benchmarks"}


def test_the_loop_draws_and_scores_as_a_policy_does(tmp_path: Path) -> None:
    folder = make_llama_folder(tmp_path, tokenizer=False)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    policy = load_policy(folder, max_new_tokens=3)
    context, ends = torch.tensor([[10, 4]]), torch.tensor([11, 9])
    _ = torch.manual_seed(0)
    tokens = llm_floor.sample(model, context, ends, 4000, 3)
    is_end = torch.isin(tokens, ends).long()
    mask = is_end.cumsum(-1) - is_end == 0
    prompts = Prompts.from_ids([[10, 4]]).repeat(4000)
    with torch.no_grad():
        found = llm_floor.score(model, context, tokens, ends)
        expected = policy.log_prob(tokens, mask, prompts=prompts)
    # float32, three tokens.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    # The first token's frequencies: |z| > 4.5 of twelve outcomes has probability 8e-5.
    with torch.no_grad():
        law = model(context).logits[0, -1].double().softmax(-1)
    counts = torch.bincount(tokens[:, 0], minlength=12) / 4000
    error = (law * (1 - law) / 4000).sqrt().clamp(min=1e-4)
    assert float(((counts - law) / error).abs().max()) < 4.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # between peft and transformers
@pytest.mark.parametrize("name", llm_speed.CONTENDERS)
def test_both_are_timed_step_by_step(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    sizes = {"SAMPLES": 4, "LENGTH": 3, "RANK": 2, "PROMPT": "t4"}
    for key, value in sizes.items():
        monkeypatch.setattr(llm_speed, key, value)
    laps = Laps(2)
    llm_speed.CONTENDERS[name](str(make_llama_folder(tmp_path)), laps)
    assert len(laps.made) == 2
    assert all(lap.seconds > 0 for lap in laps.made)


def test_the_bounds_are_those_of_the_issue() -> None:
    engine = {"peak_rss_mb": 3000.0}
    good = {"ratios": {"seconds": 2.0, "processor": 1.04}, "contenders": {"engine": engine}}
    assert llm_speed.broken_bounds(good) == []
    slow = {"ratios": {"processor": 1.06}, "contenders": {"engine": {"peak_rss_mb": 3100.0}}}
    assert len(llm_speed.broken_bounds(slow)) == 2
